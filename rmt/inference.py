"""What models mean, in plain Python: the answer to an input, and the steps that it took."""

from typing import assert_never

from kdtool.rmt.models import Forest, Model, ScoreTree, Tree
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, Layer, Network

__all__ = ["infer", "round_shift", "run_network", "sum_forest", "walk_tree"]


def infer(model: Model, x: list[int]) -> tuple[int, int]:
    """Return the difference in pages that `model` answers to x, its inputs' values, and the steps taken."""
    match model:
        case Tree():
            return walk_tree(model, x)
        case Forest():
            return sum_forest(model, x)
        case Network():
            return run_network(model, x)
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


def run_network(network: Network, x: list[int]) -> tuple[int, int]:
    """Return the answer of the class with the largest sum; for steps see Network.steps."""
    shifted = (round_shift(value, shift) for value, shift in zip(x, network.input_shifts, strict=True))
    values = [min(max(value, INT8_MIN), INT8_MAX) for value in shifted]
    for layer in network.layers[:-1]:
        sums = _sums(layer, values)
        scaled = (round_shift(total * layer.multiplier, layer.shift) for total in sums)
        values = [min(max(value, 0), INT8_MAX) for value in scaled]
    sums = _sums(network.layers[-1], values)
    return network.classes[sums.index(max(sums))], network.steps


def round_shift(value: int, bits: int) -> int:
    """Return value / 2**bits as the nearest integer, half to even: the one rule by which models are rounded.

    >>> [round_shift(value, 1) for value in (-3, -1, 1, 3, 5)], round_shift(3, -2)
    ([-2, 0, 0, 2, 2], 12)
    """
    if bits <= 0:
        return value << -bits
    odd = value >> bits & 1
    return (value + (1 << (bits - 1)) - 1 + odd) >> bits


def _sums(layer: Layer, values: list[int]) -> list[int]:
    sums = []
    for each in layer.sums(len(values)):
        weights = layer.weights[each.unit]
        window = values[each.first : each.first + len(weights)]
        products = (weight * value for weight, value in zip(weights, window, strict=True))
        sums.append(layer.biases[each.unit] + sum(products))
    return sums
