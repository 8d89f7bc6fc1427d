"""What models mean, in plain Python: the answer to an input, and the steps that it took.

Whoever wants to know every value on the way gives a `see`, which is called with the value's dotted name: see
`kdtool.verify.value_intervals`, which bounds the values by the same names.
"""

from itertools import accumulate
from typing import Protocol, assert_never

from kdtool.rmt.models import Forest, Model, ScoreTree, Tree
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, Layer, Network

__all__ = ["Observer", "infer", "round_shift", "run_network", "sum_forest", "unseen", "walk_tree"]


class Observer(Protocol):
    """Is told each value as it comes to be."""

    def __call__(self, name: str, value: int, /) -> None:
        """Take in the value called `name`."""


def unseen(name: str, value: int, /) -> None:
    """Take no notice."""


def infer(model: Model, x: list[int], see: Observer = unseen) -> tuple[int, int]:
    """Return what `model` answers to x, its inputs' values, and the steps taken."""
    name = f"models.{model.name}"
    for value, given in zip(x, model.inputs, strict=True):
        see(f"{name}.inputs.{given}", value)
    match model:
        case Tree():
            answer, steps = walk_tree(model, x, see)
        case Forest():
            answer, steps = sum_forest(model, x, see)
        case Network():
            answer, steps = run_network(model, x, see)
        case _:
            assert_never(model)
    see(f"{name}.answer", answer)
    return answer, steps


def walk_tree(tree: Tree, x: list[int], see: Observer = unseen) -> tuple[int, int]:
    """Return the leaf's value and the number of comparisons made."""
    node, steps = _leaf(tree, x, f"models.{tree.name}", see)
    return tree.value[node], steps


def sum_forest(forest: Forest, x: list[int], see: Observer = unseen) -> tuple[int, int]:
    """Return the answer of the class with the largest sum; steps are comparisons, scores and classes."""
    name = f"models.{forest.name}"
    sums, steps = list(forest.base_scores), len(forest.classes)
    for c, total in enumerate(sums):
        see(f"{name}.sums.{c}", total)
    for t, tree in enumerate(forest.trees):
        node, compared = _leaf(tree, x, f"{name}.trees.{t}", see)
        scores = tree.scores(node)
        for c, score in scores:
            sums[c] += score
            see(f"{name}.trees.{t}.scores.{c}", score)
            see(f"{name}.sums.{c}", sums[c])
        steps += compared + len(scores)
    best = sums.index(max(sums))
    see(f"{name}.best", best)
    return forest.classes[best], steps


def _leaf(tree: Tree | ScoreTree, x: list[int], name: str, see: Observer) -> tuple[int, int]:
    """Return the leaf that x falls into and the number of comparisons made."""
    node = steps = 0
    while tree.feature[node] >= 0:
        steps += 1
        difference = x[tree.feature[node]] - tree.threshold[node]
        see(f"{name}.difference", difference)
        node = tree.left[node] if difference <= 0 else tree.right[node]
    see(f"{name}.leaf", node)
    see(f"{name}.comparisons", steps)
    return node, steps


def run_network(network: Network, x: list[int], see: Observer = unseen) -> tuple[int, int]:
    """Return the answer of the class with the largest sum; for steps see Network.steps."""
    name = f"models.{network.name}"
    shifted = [round_shift(value, shift) for value, shift in zip(x, network.input_shifts, strict=True)]
    values = [min(max(value, INT8_MIN), INT8_MAX) for value in shifted]
    _see_each(f"{name}.shifted", shifted, see)
    _see_each(f"{name}.values", values, see)
    for number, layer in enumerate(network.layers[:-1]):
        place = f"{name}.layers.{number}"
        products = [total * layer.multiplier for total in _sums(layer, values, place, see)]
        scaled = [round_shift(product, layer.shift) for product in products]
        values = [min(max(value, 0), INT8_MAX) for value in scaled]
        _see_each(f"{place}.products", products, see)
        _see_each(f"{place}.scaled", scaled, see)
        _see_each(f"{place}.values", values, see)
    sums = _sums(network.layers[-1], values, f"{name}.layers.{len(network.layers) - 1}", see)
    best = sums.index(max(sums))
    see(f"{name}.best", best)
    return network.classes[best], network.steps


def _see_each(name: str, values: list[int], see: Observer) -> None:
    for number, value in enumerate(values):
        see(f"{name}.{number}", value)


def round_shift(value: int, bits: int) -> int:
    """Return value / 2**bits as the nearest integer, half to even: the one rule by which models are rounded.

    >>> [round_shift(value, 1) for value in (-3, -1, 1, 3, 5)], round_shift(3, -2)
    ([-2, 0, 0, 2, 2], 12)
    """
    if bits <= 0:
        return value << -bits
    odd = value >> bits & 1
    return (value + (1 << (bits - 1)) - 1 + odd) >> bits


def _sums(layer: Layer, values: list[int], name: str, see: Observer) -> list[int]:
    sums = []
    for number, each in enumerate(layer.sums(len(values))):
        weights = layer.weights[each.unit]
        window = values[each.first : each.first + len(weights)]
        products = (weight * value for weight, value in zip(weights, window, strict=True))
        partial = list(accumulate(products, initial=layer.biases[each.unit]))
        for total in partial:
            see(f"{name}.sums.{number}", total)
        see(f"{name}.totals.{number}", partial[-1])
        sums.append(partial[-1])
    return sums
