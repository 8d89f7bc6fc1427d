"""What models mean, in plain Python: the answer to an input, and the steps that it took."""

from typing import assert_never

from kdtool.rmt.models import Forest, Model, ScoreTree, Tree

__all__ = ["infer", "sum_forest", "walk_tree"]


def infer(model: Model, x: list[int]) -> tuple[int, int]:
    """Return the difference in pages that `model` answers to x, its inputs' values, and the steps taken."""
    match model:
        case Tree():
            return walk_tree(model, x)
        case Forest():
            return sum_forest(model, x)
        case _:
            assert_never(model)


def walk_tree(tree: Tree, x: list[int]) -> tuple[int, int]:
    """Return the leaf's value and the number of comparisons made."""
    node, steps = _leaf(tree, x)
    return tree.value[node], steps


def sum_forest(forest: Forest, x: list[int]) -> tuple[int, int]:
    """Return the answer of the class with the largest sum; steps are comparisons, scores and classes."""
    sums, steps = list(forest.base_scores), len(forest.classes)
    for tree in forest.trees:
        node, compared = _leaf(tree, x)
        scores = tree.scores(node)
        for c, score in scores:
            sums[c] += score
        steps += compared + len(scores)
    return forest.classes[sums.index(max(sums))], steps


def _leaf(tree: Tree | ScoreTree, x: list[int]) -> tuple[int, int]:
    """Return the leaf that x falls into and the number of comparisons made."""
    node = steps = 0
    while tree.feature[node] >= 0:
        steps += 1
        left = x[tree.feature[node]] <= tree.threshold[node]
        node = tree.left[node] if left else tree.right[node]
    return node, steps
