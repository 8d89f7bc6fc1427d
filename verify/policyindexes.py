"""The indexes in a packed policy: all that the code in the kernel can come to, followed from its actions on.

The code masks each, since the kernel's verifier knows nothing of a policy. A mask that changed one would have
it decide something else than the other executors do. Which way a comparison goes is left open, but where
VALUE_MAX is compared with: it goes left. Bits that are cut out of words are no indexes, nor is a hash.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.rmt.blocks import BLOCK_WORDS, CHILDREN, LEFTS, NEXT_BIT, NODE, RIGHTS, SLOT_SHIFT
from kdtool.rmt.bpf import Layout
from kdtool.rmt.bpf.layout import (
    ANSWER_BYTES,
    ROOT_BYTES,
    ROW_BYTES,
    ROW_END,
    ROW_SOURCE,
    ROW_TARGET,
    ROW_WEIGHTS,
    SCORE_BYTES,
    WEIGHT_BLOCK_BYTES,
    X_BIAS,
    X_BYTES,
)
from kdtool.rmt.bpf.modeldata import INFER, INFER_FOREST, INFER_NETWORK
from kdtool.rmt.bpf.policy import COUNT, FOLLOW
from kdtool.rmt.program import VALUE_MAX

__all__ = ["Indexes", "policy_indexes"]

Offsets = npt.NDArray[np.int64]
_BLOCK_BYTES, _LOW_32 = 8 * BLOCK_WORDS, 2**32 - 1
_NEVER_ABOVE = VALUE_MAX + X_BIAS


class Indexes(NamedTuple):
    """Offsets into a region that its mask is to leave as they are, each below its end, in bytes."""

    region: str
    offsets: Offsets
    mask: int
    end: int

    @property
    def stray(self) -> Offsets:
        """Return those that the mask changes, or that lie behind the end."""
        changed = self.offsets & self.mask != self.offsets
        return np.extract(changed | (self.offsets >= self.end), self.offsets)


def policy_indexes(layout: Layout, value: bytes) -> Iterator[Indexes]:
    """Yield the indexes of a packed policy, a region or a step of a walk at a time."""
    policy, room = _Policy(layout, value), layout.shape
    kinds, arguments = policy.actions()
    x_end = X_BYTES * len(room.features)
    yield Indexes("x", arguments[kinds == FOLLOW], layout.x_mask, x_end)
    counted = arguments[kinds == COUNT]
    yield Indexes("counters", counted, layout.counter_mask, 8 * len(room.counters))
    trees, forests, networks = (
        np.unique(arguments[kinds == kind]) for kind in (INFER, INFER_FOREST, INFER_NETWORK)
    )
    yield policy.blocks(trees)
    yield from policy.walk(trees + _BLOCK_BYTES, room.steps)
    yield Indexes("forests", forests, layout.forest_mask, layout.forest_bytes * room.forests.forests)
    for forest in forests.tolist():
        yield from policy.forest(forest)
    yield Indexes("networks", networks, layout.network_mask, layout.network_mask + 1)
    for network in networks.tolist():
        yield from policy.network(network)


class _Policy:
    """The words of a policy, and what the code reads of them."""

    def __init__(self, layout: Layout, value: bytes) -> None:
        self._layout, self._words = layout, np.frombuffer(value, np.int64)

    def _read(self, region: int, offsets: Offsets) -> Offsets:
        return self._words.take(region + offsets >> 3)

    def blocks(self, offsets: Offsets) -> Indexes:
        """Return the places of blocks as indexes."""
        return Indexes("blocks", offsets, self._layout.block_mask, self._layout.shape.tree_bytes)

    def actions(self) -> tuple[Offsets, Offsets]:
        """Return the kinds of all entries' actions, and their arguments."""
        words = []
        for table in self._layout.tables:
            starts = np.arange(table.offset, table.offset + table.size_bytes, table.stride)
            words.append(self._read(8, starts))
        each = np.concatenate(words)
        return each & _LOW_32, each >> 32 & _LOW_32

    def walk(self, blocks: Offsets, steps: int) -> Generator[Indexes, None, Offsets]:
        """Walk from `blocks` on; return the values of leaves that are come to."""
        for _ in range(steps - 1):
            firsts, numbers, slots = yield from self._step(blocks)
            blocks = np.unique(firsts + _BLOCK_BYTES * (slots >> NEXT_BIT & 3))
        firsts, numbers, _ = yield from self._step(blocks)
        pairs = self._read(self._layout.blocks + 8 * LEFTS, firsts + 8 * (numbers >> 1))
        return np.unique(np.where(numbers & 1, pairs << 32 >> 32, pairs >> 32))

    def _step(self, blocks: Offsets) -> Generator[Indexes, None, tuple[Offsets, Offsets, Offsets]]:
        """Return for each way from `blocks` where the next four begin, its number, and the next's slot."""
        nodes, children, lefts, rights = (
            self._read(self._layout.blocks + 8 * word, blocks) for word in (NODE, CHILDREN, LEFTS, RIGHTS)
        )
        then = nodes & _LOW_32
        yield self.blocks(then)
        is_left = np.ones(len(blocks), bool)
        is_right = nodes >> 32 & _LOW_32 != _NEVER_ABOVE
        ways = (
            is_left,
            children & _LOW_32 != _NEVER_ABOVE,
            is_right,
            is_right & (children >> 32 & _LOW_32 != _NEVER_ABOVE),
        )
        firsts = np.concatenate([then[way] for way in ways])
        numbers = np.repeat(np.arange(4), [way.sum() for way in ways])
        words = (lefts, lefts >> SLOT_SHIFT, rights, rights >> SLOT_SHIFT)
        slots = np.concatenate([word[way] for word, way in zip(words, ways, strict=True)])
        return firsts, numbers, slots

    def forest(self, forest: int) -> Iterator[Indexes]:
        """Yield the indexes of the forest that lies at `forest`."""
        layout, room = self._layout, self._layout.shape.forests
        first, end = self._read(layout.forests + forest, np.array([0, 8]))
        trees = np.arange(first, end, ROOT_BYTES)
        yield Indexes("forest trees", trees, layout.tree_mask, ROOT_BYTES * room.trees)
        roots = self._read(layout.forest_trees, trees)
        yield self.blocks(roots)
        leaves = yield from self.walk(np.unique(roots), room.steps)
        score_bytes = SCORE_BYTES * room.leaf_scores
        scores = np.add.outer(leaves, np.arange(0, score_bytes, SCORE_BYTES)).reshape(-1)
        yield Indexes("scores", scores, layout.score_mask, score_bytes * room.leaves)
        sums = self._read(layout.scores, scores) & _LOW_32
        yield Indexes("sums", sums, layout.sum_mask, 8 * room.classes)

    def network(self, network: int) -> Iterator[Indexes]:
        """Yield the indexes of the network that lies at `network`."""
        layout, room = self._layout, self._layout.shape.networks
        record = self._read(layout.networks + network, np.arange(0, 48, 8)).tolist()
        first, inputs_end, rows_end, total, answer, answers_end = record
        rows = np.arange(first, rows_end, ROW_BYTES)
        yield Indexes("rows", rows, layout.row_mask, ROW_BYTES * room.rows)
        source, target, weights, weights_end = (
            self._read(layout.rows + at, rows) for at in (ROW_SOURCE, ROW_TARGET, ROW_WEIGHTS, ROW_END)
        )
        x_end = X_BYTES * len(layout.shape.features)
        yield Indexes("x", source[rows < inputs_end], layout.x_mask, x_end)
        moved = np.arange(0, max(weights_end - weights), WEIGHT_BLOCK_BYTES)
        taken = np.less.outer(moved, weights_end - weights)
        blocks = np.add.outer(moved, weights)[taken]
        yield Indexes("weights", blocks, layout.weight_mask, WEIGHT_BLOCK_BYTES * room.blocks)
        answers = np.arange(answer, answers_end, ANSWER_BYTES)
        yield Indexes("answers", answers, layout.answer_mask, ANSWER_BYTES * room.classes)
        values = np.add.outer(moved, source)[taken], target, total + 8 * np.arange(len(answers))
        yield Indexes("values", np.concatenate(values), layout.value_mask, 8 * room.values)
