"""A program's models as data of a policy (layout.py), and what an action says of each.

Forests' trees lie among the others. Classes that a forest has no use for win against none.
"""

import struct
from collections.abc import Sequence

from kdtool.rmt.blocks import BLOCK_WORDS, NO_TREE, Place, tree_words
from kdtool.rmt.bpf.layout import (
    CLASS_BYTES,
    FOREST_HEADER_BYTES,
    ROOT_BYTES,
    SCORE_BYTES,
    SUM_BYTES,
    X_BIAS,
    X_BYTES,
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
NEVER = -(2**62)
"""Below every sum: 256 trees add less than 2**40."""

_SCORE = struct.Struct("<Ii")

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
            models[model.name] = INFER, trees.add_tree(model)
    return models


class _Trees:
    """The regions of trees and forests, filled from the front."""

    def __init__(self, value: bytearray, layout: Layout, features: list[str]) -> None:
        self._value, self._layout, self._features = value, layout, features
        self._bytes = self._leaves = self._trees = self._forests = 0
        if layout.shape.forests.forests:
            self._no_tree = self._add(NO_TREE, layout.shape.forests.steps, (), (0,))
            self._leaves += 1

    def add_tree(self, tree: Tree) -> int:
        """Add a tree; return the offset of its entry."""
        return self._add(tree, self._layout.shape.steps, tree.inputs, tree.value)

    def _add(self, tree: Tree | ScoreTree, steps: int, inputs: tuple[str, ...], values: Sequence[int]) -> int:
        """Add blocks, with the values of leaves by node."""
        entry, features = self._bytes, [X_BYTES * self._features.index(name) for name in inputs]
        leaves = {node: (value, 0) for node, value in enumerate(values)}
        words = tree_words(tree, Place(steps, features, leaves, entry, 8, X_BIAS))
        struct.pack_into(f"<{len(words)}q", self._value, self._layout.blocks + entry, *words)
        self._bytes += 8 * len(words)
        return entry

    def add_forest(self, forest: Forest) -> int:
        """Add a forest's trees and their scores; return the offset of the forest."""
        layout, first = self._layout, self._trees
        steps = layout.shape.forests.steps
        entries = [self._add(tree, steps, forest.inputs, self._add_scores(tree)) for tree in forest.trees]
        entries += [self._no_tree] * (-len(entries) % TREES_A_WALK)
        at = layout.forest_trees + ROOT_BYTES * first
        struct.pack_into(f"<{len(entries)}Q", self._value, at, *(e + 8 * BLOCK_WORDS for e in entries))
        self._trees += len(entries)
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
