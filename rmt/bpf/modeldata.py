"""A program's models as data of a policy (layout.py), and what an action says of each.

A tree is laid out level by level, so that siblings are neighbours; a leaf is its own left child and no
feature is above its threshold: a walk of more steps than it is deep ends there. Forests' trees lie among the
others. Classes that a forest has no use for win against none.
"""

import struct

from kdtool.rmt.bpf.layout import (
    CHILD_BIT,
    CLASS_BIT,
    CLASS_BYTES,
    FEATURE_BIT,
    FOREST_HEADER_BYTES,
    LAST_SCORE,
    NODE_BYTES,
    ROOT_BYTES,
    SCORE_BIT,
    SCORE_BYTES,
    THRESHOLD_BIT,
    VALUE_BYTES,
    Layout,
)
from kdtool.rmt.bpf.networkdata import Networks
from kdtool.rmt.models import Forest, ScoreTree, Tree
from kdtool.rmt.networks import Network
from kdtool.rmt.program import VALUE_MAX, Program

__all__ = ["INFER", "INFER_FOREST", "INFER_NETWORK", "Models", "pack_models"]

INFER, INFER_FOREST, INFER_NETWORK = 3, 4, 5
"""Kinds of action, after those of policy.py."""
NEVER = -(2**62)
"""Below every sum: 256 trees add less than 2**40."""

Models = dict[str, tuple[int, int]]
"""Of each model its kind of action and the argument: where it begins, in bytes."""


def pack_models(value: bytearray, layout: Layout, program: Program) -> Models:
    """Write the models into a policy's `value`."""
    features = [f.name for f in program.features]
    trees, networks = _Trees(value, layout, features), Networks(value, layout, features)
    models: Models = {}
    for model in program.models:
        if isinstance(model, Forest):
            models[model.name] = INFER_FOREST, trees.add_forest(model)
        elif isinstance(model, Network):
            models[model.name] = INFER_NETWORK, networks.add(model)
        else:
            models[model.name] = INFER, trees.add(model, model.inputs, model.value)
    return models


class _Trees:
    """The regions of trees and forests, filled from the front."""

    def __init__(self, value: bytearray, layout: Layout, features: list[str]) -> None:
        self._value, self._layout, self._features = value, layout, features
        self._nodes = self._scores = self._trees = self._forests = 0

    def add(self, tree: Tree | ScoreTree, inputs: tuple[str, ...], values: tuple[int, ...]) -> int:
        """Add nodes and their values; return the offset of the root."""
        root, layout = self._nodes, self._layout
        source = [self._features.index(name) for name in inputs]
        nodes, order = _by_level(tree, root, source)
        ordered = [values[node] for node in order]
        struct.pack_into(f"<{len(nodes)}q", self._value, layout.nodes + NODE_BYTES * root, *nodes)
        struct.pack_into(f"<{len(nodes)}i", self._value, layout.values + VALUE_BYTES * root, *ordered)
        self._nodes += len(nodes)
        return NODE_BYTES * root

    def add_forest(self, forest: Forest) -> int:
        """Add a forest's trees and their scores; return the offset of the forest."""
        layout, first = self._layout, self._trees
        for tree in forest.trees:
            root = self.add(tree, forest.inputs, self._add_scores(tree))
            struct.pack_into("<Q", self._value, layout.forest_trees + ROOT_BYTES * self._trees, root)
            self._trees += 1
        offset = layout.forest_bytes * self._forests
        self._forests += 1
        at = layout.forests + offset
        struct.pack_into("<QQ", self._value, at, ROOT_BYTES * first, ROOT_BYTES * self._trees)
        classes = list(zip(forest.base_scores, forest.classes, strict=True))
        classes += [(NEVER, 0)] * (layout.shape.forests.classes - len(classes))
        for c, pair in enumerate(classes):
            struct.pack_into("<qq", self._value, at + FOREST_HEADER_BYTES + CLASS_BYTES * c, *pair)
        return offset

    def _add_scores(self, tree: ScoreTree) -> tuple[int, ...]:
        """Add the scores of each leaf; return the number of its first one by node."""
        numbers: list[int] = []
        words: list[int] = []
        for node, split in enumerate(tree.feature):
            numbers.append(self._scores + len(words))
            if split < 0:
                scores = tree.scores(node) or [(0, 0)]
                words += [score << SCORE_BIT | c << CLASS_BIT for c, score in scores]
                words[-1] |= LAST_SCORE
        at = self._layout.scores + SCORE_BYTES * self._scores
        struct.pack_into(f"<{len(words)}q", self._value, at, *words)
        self._scores += len(words)
        return tuple(numbers)


def _by_level(tree: Tree | ScoreTree, root: int, source: list[int]) -> tuple[list[int], list[int]]:
    """Return a tree's nodes level by level, and which they are; `root` is the number of the first."""
    order: list[int] = [0]
    nodes = []
    for place, node in enumerate(order):
        split, threshold, left, feature = tree.feature[node], VALUE_MAX, root + place, 0
        if split >= 0:
            threshold, left, feature = tree.threshold[node], root + len(order), source[split]
            order += [tree.left[node], tree.right[node]]
        nodes.append(threshold << THRESHOLD_BIT | left << CHILD_BIT | feature << FEATURE_BIT)
    return nodes, order
