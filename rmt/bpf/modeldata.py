"""A program's models as data of a policy (layout.py), and what an action says of each.

A leaf's block compares with what is below every threshold and goes on to itself: a walk of more steps than
the leaf is deep ends there. Forests' trees lie among the others. Classes that a forest has no use for win
against none.
"""

import struct
from collections.abc import Sequence

from kdtool.rmt.blocks import tree_blocks
from kdtool.rmt.bpf.layout import (
    CHILD_THRESHOLDS,
    CLASS_BYTES,
    FOREST_HEADER_BYTES,
    ROOT_BYTES,
    SCORE_BYTES,
    SUM_BYTES,
    Layout,
)
from kdtool.rmt.bpf.networkdata import Networks
from kdtool.rmt.bpf.shape import TREES_A_WALK
from kdtool.rmt.models import Forest, ScoreTree, Tree
from kdtool.rmt.networks import Network
from kdtool.rmt.program import Program

__all__ = ["INFER", "INFER_FOREST", "INFER_NETWORK", "Models", "pack_models"]

INFER, INFER_FOREST, INFER_NETWORK = 3, 4, 5
"""Kinds of action, after those of policy.py."""
NO_TREE = Tree("", (), (-1,), (0,), (-1,), (-1,), (0,))
"""Block and leaf 0, which scores nothing: a forest has such trees until TREES_A_WALK divides their number."""
NEVER = -(2**62)
"""Below every sum: 256 trees add less than 2**40."""

_NODE, _SCORE = struct.Struct("<iI3H"), struct.Struct("<Ii")

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
        self._bytes = self._leaves = self._trees = self._forests = 0
        if layout.shape.forests.forests:
            self.add(NO_TREE, (), (0,))
            self._leaves += 1

    def add(self, tree: Tree | ScoreTree, inputs: tuple[str, ...], values: Sequence[int]) -> int:
        """Add blocks with the values of leaves, by node; return the offset of the root."""
        layout, root = self._layout, self._bytes
        place: dict[int | None, int] = {None: layout.least - layout.x}
        for node, split in enumerate(tree.feature):
            if split >= 0:
                place[node] = 8 * self._features.index(inputs[split])
        blocks, size = tree_blocks(tree, half_leaves=True)
        for block in blocks:
            at = layout.blocks + root + block.at
            first, *others = (0 if split is None else tree.threshold[split] for split in block.splits)
            if block.leaf is not None:
                first = values[block.leaf]
            _NODE.pack_into(self._value, at, first, root + block.following, *map(place.get, block.splits))
            if block.leaf is None:
                struct.pack_into("<2i", self._value, at + CHILD_THRESHOLDS, *others)
        self._bytes += size
        return root

    def add_forest(self, forest: Forest) -> int:
        """Add a forest's trees and their scores; return the offset of the forest."""
        layout, first = self._layout, self._trees
        for tree in forest.trees:
            root = self.add(tree, forest.inputs, self._add_scores(tree))
            struct.pack_into("<Q", self._value, layout.forest_trees + ROOT_BYTES * self._trees, root)
            self._trees += 1
        self._trees += -len(forest.trees) % TREES_A_WALK
        offset = layout.forest_bytes * self._forests
        self._forests += 1
        at = layout.forests + offset
        struct.pack_into("<QQ", self._value, at, ROOT_BYTES * first, ROOT_BYTES * self._trees)
        classes = list(zip(forest.base_scores, forest.classes, strict=True))
        classes += [(NEVER, 0)] * (layout.shape.forests.classes - len(classes))
        for c, pair in enumerate(classes):
            struct.pack_into("<qq", self._value, at + FOREST_HEADER_BYTES + CLASS_BYTES * c, *pair)
        return offset

    def _add_scores(self, tree: ScoreTree) -> list[int]:
        """Add the scores of each leaf; return by node where they lie."""
        places = []
        for node, split in enumerate(tree.feature):
            places.append(SCORE_BYTES * self._layout.shape.forests.leaf_scores * self._leaves)
            if split < 0:
                at = self._layout.scores + places[node]
                for i, (c, score) in enumerate(tree.scores(node)):
                    _SCORE.pack_into(self._value, at + SCORE_BYTES * i, SUM_BYTES * c, score)
                self._leaves += 1
        return places
