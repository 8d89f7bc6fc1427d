"""What a program infers with: models of integers, each from features to a difference in pages.

`Tree` answers with a leaf; `Forest` adds up what its trees' leaves say of each class; `Network` is made of
layers (networks.py). `inference` says what they mean. Nodes lie in columns, as in scikit-learn's `tree_`:
node 0 is the root, children come after their parent, inner node i goes left when x[feature[i]] is at most
threshold[i], and a leaf has feature -1 and children -1.
"""

from dataclasses import dataclass

from kdtool.rmt.networks import Network

__all__ = ["Forest", "Model", "ScoreTree", "Tree", "node_depths"]


@dataclass(frozen=True)
class Tree:
    """A decision tree over features.

    A leaf answers `value[i]`, a difference in pages; 0 means no prediction.
    """

    name: str
    inputs: tuple[str, ...]
    feature: tuple[int, ...]
    threshold: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Return the number of comparisons on the longest way from the root to a leaf."""
        return max(node_depths(self))

    @property
    def n_leaves(self) -> int:
        """Return the number of leaves."""
        return sum(split < 0 for split in self.feature)


@dataclass(frozen=True)
class ScoreTree:
    """A tree of a forest: leaf i adds score[j] to class score_class[j], for first[i] <= j < first[i + 1].

    `first` has one element more than there are nodes. Classes of a leaf rise; a split has no scores. A tree
    of a random forest scores several classes in a leaf, a boosted tree one.
    """

    feature: tuple[int, ...]
    threshold: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    first: tuple[int, ...]
    score_class: tuple[int, ...]
    score: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Return the number of comparisons on the longest way from the root to a leaf."""
        return max(node_depths(self))

    @property
    def most_scores(self) -> int:
        """Return how many classes a leaf scores at most."""
        return max(last - first for first, last in zip(self.first, self.first[1:], strict=False))

    def scores(self, node: int) -> list[tuple[int, int]]:
        """Return what leaf `node` adds, as (class, score)."""
        which = slice(self.first[node], self.first[node + 1])
        return list(zip(self.score_class[which], self.score[which], strict=True))


@dataclass(frozen=True)
class Forest:
    """Trees whose scores are added up for each class; the answer is that of the class with the largest sum.

    Class c begins with base_scores[c] and stands for the difference of `classes[c]` pages, 0 for no
    prediction; two classes may stand for the same. Of equal sums the class that comes first wins.
    """

    name: str
    inputs: tuple[str, ...]
    classes: tuple[int, ...]
    base_scores: tuple[int, ...]
    trees: tuple[ScoreTree, ...]

    @property
    def depth(self) -> int:
        """Return the depth of the deepest tree."""
        return max(tree.depth for tree in self.trees)

    @property
    def n_leaves(self) -> int:
        """Return the number of leaves of all trees."""
        return sum(split < 0 for tree in self.trees for split in tree.feature)

    def score_bounds(self) -> list[tuple[int, int]]:
        """Return for each class the smallest and the largest value that its sum can have at any time.

        What each tree adds is bounded by its leaves, one tree at a time: no sum lies outside, but the
        bounds need not be reached.
        """
        low, high = list(self.base_scores), list(self.base_scores)
        least, most = low.copy(), high.copy()
        for tree in self.trees:
            for c, (down, up) in enumerate(_tree_bounds(tree, len(self.classes))):
                low[c] += down
                high[c] += up
                least[c], most[c] = min(least[c], low[c]), max(most[c], high[c])
        return list(zip(least, most, strict=True))

    def possible_answers(self) -> set[int]:
        """Return the answers of all classes but those that another one always exceeds."""
        ends = [(base, base) for base in self.base_scores]
        for tree in self.trees:
            added = _tree_bounds(tree, len(self.classes))
            ends = [(low + a, high + b) for (low, high), (a, b) in zip(ends, added, strict=True)]
        floor = max(low for low, _ in ends)
        return {value for value, (_, high) in zip(self.classes, ends, strict=True) if high >= floor}


Model = Tree | Forest | Network


def node_depths(tree: Tree | ScoreTree) -> list[int]:
    """Return by node the number of comparisons on the way to it."""
    depths = [0] * len(tree.feature)
    for node, split in enumerate(tree.feature):
        if split >= 0:
            depths[tree.left[node]] = depths[tree.right[node]] = depths[node] + 1
    return depths


def _tree_bounds(tree: ScoreTree, n_classes: int) -> list[tuple[int, int]]:
    """Return the least and the most that a tree adds to each class."""
    n_leaves = sum(split < 0 for split in tree.feature)
    said: list[list[int]] = [[] for _ in range(n_classes)]
    for c, score in zip(tree.score_class, tree.score, strict=True):
        said[c].append(score)
    silent = [[0] if len(scores) < n_leaves else [] for scores in said]
    return [(min(a + b), max(a + b)) for a, b in zip(said, silent, strict=True)]
