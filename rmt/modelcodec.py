"""Models in program files: each checked before anything is made of it. Which kind one is, its keys say."""

from dataclasses import dataclass
from itertools import pairwise

from kdtool.rmt.fields import Node
from kdtool.rmt.models import Forest, Model, ScoreTree, Tree
from kdtool.rmt.networkcodec import read_network
from kdtool.rmt.program import LIMITS, VALUE_MAX, VALUE_MIN, Feature

__all__ = ["read_model"]


def read_model(node: Node, features: tuple[Feature, ...]) -> Model:
    """Check a model over `features`, and build it; every ProgramError names the place."""
    if isinstance(node.value, dict) and "trees" in node.value:
        return _forest(node, features)
    if isinstance(node.value, dict) and "layers" in node.value:
        return read_network(node, features)
    return _tree(node, features)


@dataclass(frozen=True)
class _Splits:
    """The columns that all trees have."""

    feature: tuple[int, ...]
    threshold: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]


def _inputs(node: Node, features: tuple[Feature, ...]) -> tuple[str, ...]:
    return tuple(item.text([f.name for f in features]) for item in node.items(LIMITS.features, 1))


def _splits(node: Node, n_inputs: int, most_nodes: int) -> _Splits:
    n_nodes = node["feature"].length(most_nodes, 1)
    splits = _Splits(
        feature=node["feature"].integers(n_nodes, -1, n_inputs - 1),
        threshold=node["threshold"].integers(n_nodes, VALUE_MIN, VALUE_MAX),
        left=node["left"].integers(n_nodes, -1, n_nodes - 1),
        right=node["right"].integers(n_nodes, -1, n_nodes - 1),
    )
    _check_shape(node, splits)
    return splits


def _check_depth(node: Node, tree: Tree | ScoreTree, most: int) -> None:
    if (depth := tree.depth) > most:
        node.refuse(f"depth {depth}, allowed are {most}: train with a smaller max_depth")


def _tree(node: Node, features: tuple[Feature, ...]) -> Tree:
    node.keys("name", "inputs", "feature", "threshold", "left", "right", "value")
    inputs = _inputs(node["inputs"], features)
    splits = _splits(node, len(inputs), LIMITS.tree_nodes)
    value = node["value"].integers(len(splits.feature), VALUE_MIN, VALUE_MAX)
    tree = Tree(name=node["name"].text(), inputs=inputs, **vars(splits), value=value)
    _check_depth(node, tree, LIMITS.tree_depth)
    return tree


def _forest(node: Node, features: tuple[Feature, ...]) -> Forest:
    node.keys("name", "inputs", "classes", "base_scores", "trees")
    inputs = _inputs(node["inputs"], features)
    n_classes = node["classes"].length(LIMITS.forest_classes, 1)
    classes = node["classes"].integers(n_classes, VALUE_MIN, VALUE_MAX)
    base_scores = node["base_scores"].integers(n_classes, VALUE_MIN, VALUE_MAX)
    trees: list[ScoreTree] = []
    nodes, scores = LIMITS.forest_nodes, LIMITS.forest_scores
    for item in node["trees"].items(LIMITS.forest_trees, 1):
        trees.append(_score_tree(item, len(inputs), n_classes, nodes, scores))
        nodes -= len(trees[-1].feature)
        scores -= len(trees[-1].score)
    return Forest(node["name"].text(), inputs, classes, base_scores, tuple(trees))


def _score_tree(node: Node, n_inputs: int, n_classes: int, most_nodes: int, most_scores: int) -> ScoreTree:
    node.keys("feature", "threshold", "left", "right", "first", "score_class", "score")
    splits = _splits(node, n_inputs, most_nodes)
    n_scores = node["score"].length(most_scores)
    tree = ScoreTree(
        **vars(splits),
        first=node["first"].integers(len(splits.feature) + 1, 0, n_scores),
        score_class=node["score_class"].integers(n_scores, 0, n_classes - 1),
        score=node["score"].integers(n_scores, VALUE_MIN, VALUE_MAX),
    )
    _check_scores(node, tree)
    _check_depth(node, tree, LIMITS.forest_depth)
    return tree


def _check_scores(node: Node, tree: ScoreTree) -> None:
    """Every score is one leaf's, and no leaf scores a class twice."""
    if (tree.first[0], tree.first[-1]) != (0, len(tree.score)):
        node["first"].refuse(
            f"begins with {tree.first[0]} and ends with {tree.first[-1]}, not 0 and {len(tree.score)}"
        )
    for i, (first, last) in enumerate(pairwise(tree.first)):
        if first == last:
            continue
        if first > last or tree.feature[i] >= 0:
            node["first"].refuse(
                f"node {i} has scores {first} to {last - 1}: a leaf's rise, a split has none"
            )
        classes = tree.score_class[first:last]
        if any(one >= other for one, other in pairwise(classes)):
            node["score_class"].refuse(f"leaf {i} scores classes {list(classes)[:8]}: they must rise")


def _check_shape(node: Node, tree: _Splits) -> None:
    """A tree is one when children follow parents and each node but the root has exactly one parent."""
    parents = [0] * len(tree.feature)
    for i, (split, left, right) in enumerate(zip(tree.feature, tree.left, tree.right, strict=True)):
        if split < 0 and (left != -1 or right != -1):
            side, child = ("left", left) if left != -1 else ("right", right)
            node[side].refuse(f"node {i} is a leaf, its child must be -1, got {child}")
        if split >= 0 and (left <= i or right <= i):
            side, child = ("left", left) if left <= i else ("right", right)
            node[side].refuse(f"node {i} has child {child}: a cycle; children come after their parent")
        if split >= 0:
            parents[left] += 1
            parents[right] += 1
    odd = [i for i, count in enumerate(parents) if count != (i > 0)]
    if odd:
        node.refuse(f"node {odd[0]} has {parents[odd[0]]} parents: not a tree")
