"""What every value inside a model can be, given the intervals of its inputs.

Inputs are taken to be independent of each other. Trees are exact then: a leaf is walked to with the box that
reaches it. Sums add the least and the most of each part, whichever order an executor adds them in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from kdtool.rmt import Forest, Model, Network, ScoreTree, Tree
from kdtool.rmt.inference import round_shift
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, Layer
from kdtool.verify.intervals.interval import Claims, Interval, clamp, hull
from kdtool.verify.intervals.table import Box

__all__ = ["Answers", "bound_model", "reached_leaves"]

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """possible : what a model may answer; silent : a box around inputs to which that may be 0, if any."""

    possible: frozenset[int]
    silent: Box | None


def bound_model(model: Model, box: Box, claims: Claims) -> Answers:
    """Add to `claims` each value that `model` may have for inputs in `box`; return its answers."""
    name = f"models.{model.name}"
    for interval, given in zip(box, model.inputs, strict=True):
        claims.add(f"{name}.inputs.{given}", interval)
    match model:
        case Tree():
            answers = _bound_tree(model, box, claims)
        case Forest():
            answers = _of_classes(model, box, _bound_forest(model, box, claims), claims)
        case Network():
            answers = _of_classes(model, box, _bound_network(model, box, claims), claims)
        case _:
            assert_never(model)
    claims.add(f"{name}.answer", (min(answers.possible), max(answers.possible)))
    return answers


def reached_leaves(
    tree: Tree | ScoreTree, box: Box, claims: Claims, name: str = ""
) -> Iterator[tuple[int, Box]]:
    """Yield each leaf that an input in `box` reaches, and the box that does; then claim what was compared."""
    todo = [(0, 0, box)]
    leaves: list[int] = []
    depths: list[int] = []
    differences: list[int] = []
    while todo:
        node, depth, box = todo.pop()
        split = tree.feature[node]
        if split < 0:
            leaves.append(node)
            depths.append(depth)
            yield node, box
            continue
        (low, high), threshold = box[split], tree.threshold[node]
        differences += [low - threshold, high - threshold]
        if high > threshold:
            right = (*box[:split], (max(low, threshold + 1), high), *box[split + 1 :])
            todo.append((tree.right[node], depth + 1, right))
        if low <= threshold:
            left = (*box[:split], (low, min(high, threshold)), *box[split + 1 :])
            todo.append((tree.left[node], depth + 1, left))
    for what, seen in (("leaf", leaves), ("comparisons", depths), ("difference", differences)):
        if seen:
            claims.add(f"{name}.{what}", (min(seen), max(seen)))


def _bound_tree(tree: Tree, box: Box, claims: Claims) -> Answers:
    possible, silent = set(), []
    for leaf, reached_by in reached_leaves(tree, box, claims, f"models.{tree.name}"):
        possible.add(tree.value[leaf])
        if tree.value[leaf] == 0:
            silent.append(reached_by)
    around = tuple(hull(each) for each in zip(*silent, strict=True)) if silent else None
    return Answers(frozenset(possible), around)


def _of_classes(model: Forest | Network, box: Box, totals: Sequence[Interval], claims: Claims) -> Answers:
    """Return the answers of the classes that can have the largest total; of equal ones the first wins."""
    floors = [low for low, _ in totals]
    best = [
        c
        for c, (_, high) in enumerate(totals)
        if high > max(floors[:c], default=high - 1) and high >= max(floors[c:])
    ]
    claims.add(f"models.{model.name}.best", (best[0], best[-1]))
    possible = frozenset(model.classes[c] for c in best)
    return Answers(possible, box if 0 in possible else None)


def _bound_forest(forest: Forest, box: Box, claims: Claims) -> list[Interval]:
    """Return the interval of each class's sum; claim what it may be on the way, in any order of the trees."""
    name = f"models.{forest.name}"
    sums = [(base, base) for base in forest.base_scores]
    on_the_way = list(sums)
    for t, tree in enumerate(forest.trees):
        place = f"{name}.trees.{t}"
        added: list[dict[int, int]] = []
        for leaf, _ in reached_leaves(tree, box, claims, place):
            added.append(dict(tree.scores(leaf)))
        for c in sorted({c for scores in added for c in scores}):
            said = [scores[c] for scores in added if c in scores]
            claims.add(f"{place}.scores.{c}", (min(said), max(said)))
            said += [0] if len(said) < len(added) else []
            sums[c] = sums[c][0] + min(said), sums[c][1] + max(said)
            on_the_way[c] = on_the_way[c][0] + min(0, *said), on_the_way[c][1] + max(0, *said)
    _claim_each(claims, f"{name}.sums", on_the_way)
    return sums


def _bound_network(network: Network, box: Box, claims: Claims) -> list[Interval]:
    """Return the interval of each sum of the last layer."""
    name = f"models.{network.name}"
    shifts = network.input_shifts
    shifted = [(round_shift(a, s), round_shift(b, s)) for (a, b), s in zip(box, shifts, strict=True)]
    values = [clamp(each, INT8_MIN, INT8_MAX) for each in shifted]
    _claim_each(claims, f"{name}.shifted", shifted)
    _claim_each(claims, f"{name}.values", values)
    for number, layer in enumerate(network.layers[:-1]):
        place = f"{name}.layers.{number}"
        products = [
            (low * layer.multiplier, high * layer.multiplier)
            for low, high in _bound_sums(layer, values, claims, place)
        ]
        scaled = [(round_shift(a, layer.shift), round_shift(b, layer.shift)) for a, b in products]
        values = [clamp(each, 0, INT8_MAX) for each in scaled]
        _claim_each(claims, f"{place}.products", products)
        _claim_each(claims, f"{place}.scaled", scaled)
        _claim_each(claims, f"{place}.values", values)
    return _bound_sums(network.layers[-1], values, claims, f"{name}.layers.{len(network.layers) - 1}")


def _bound_sums(layer: Layer, values: list[Interval], claims: Claims, name: str) -> list[Interval]:
    """Return the interval of each value of a layer before it is rounded; claim the sums on the way to it.

    On the way, any part of the products may have been added: that holds for every order.
    """
    ends = np.array(values, np.int64)
    rows = [np.array(row, np.int64) for row in layer.weights]
    totals = []
    for number, each in enumerate(layer.sums(len(values))):
        row, bias = rows[each.unit], layer.biases[each.unit]
        window = ends[each.first : each.first + len(row)] * row[:, None]
        low, high = window.min(axis=1), window.max(axis=1)
        totals.append((bias + int(low.sum()), bias + int(high.sum())))
        on_the_way = bias + int(np.minimum(low, 0).sum()), bias + int(np.maximum(high, 0).sum())
        claims.add(f"{name}.sums.{number}", on_the_way)
        claims.add(f"{name}.totals.{number}", totals[-1])
    return totals


def _claim_each(claims: Claims, name: str, intervals: list[Interval]) -> None:
    for number, interval in enumerate(intervals):
        claims.add(f"{name}.{number}", interval)
