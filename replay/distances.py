"""Stack distances: how many pages an LRU must hold for each reference to be a hit, in one pass over a trace.

An LRU of any size holds the top of one stack, the last referenced page first. A reference is a hit in every
memory of at least its depth in that stack: Mattson, Gecsei, Slutz and Traiger, Evaluation techniques for
storage hierarchies, IBM Systems Journal 9(2), 1970. The depth is counted by a tree over the times of the last
references: Bennett and Kruskal, LRU stack processing, IBM J. Res. Dev. 19(4), 1975.

    slot[p]   int32, the time slot of page p's last reference; -1: not in the stack
    bits      uint64, a bit a slot: set where a page or a hole lies
    before    int32, a tree of FAN children a node, level by level from the words of `bits` up: how many bits
              are set below the node's siblings before it. Good up to where the next slot is
    level     int64, where in `before` a level begins
    holes     int32, a heap, newest slot first

So a depth takes one load a level, and a page that leaves its slot one row of a level, a few vectors. A page
that comes takes the next slot, which nothing lies behind: only where that begins a word it takes a step.

An unmapped page leaves a hole in the stack: memories that held it have room for one page more. The next page
that comes in takes the newest hole, and where it came from deeper in the stack the hole moves there.

Unit of work: a reference, O(log n_pages). When the slots are used up, those in use move together. Memory: at
most 12.6 bytes a page, and a trace has no more pages than references.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.longarrays import zeros
from kdtool.replay.workload import Workload
from kdtool.rmt.jit import inline, inner, jit

__all__ = ["Stack", "measure_range", "new_stack"]

# Indexes into Stack.scalars: the next slot; pages and holes in the stack; holes; frees done; the counted
# references to pages that were not in the stack.
NEXT, DEPTH, N_HOLES, FREE_AT, COLD, N_SCALARS = range(6)

FAN_BITS = 5
FAN = 1 << FAN_BITS
ROWS_AHEAD = 32
"""How many rows ahead a page's slot is asked for."""

_ONE, _ALL_ONES = np.uint64(1), np.uint64(2**64 - 1)
_SHIFTS = (np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56))
_PAIRS, _FOURS, _EIGHTS, _BYTES = (
    np.uint64(0x5555555555555555),
    np.uint64(0x3333333333333333),
    np.uint64(0x0F0F0F0F0F0F0F0F),
    np.uint64(0x0101010101010101),
)


@dataclass(frozen=True)
class Stack:
    """The arrays of one measurement; histogram[d] counts the references at depth d, 1 being the top."""

    bits: npt.NDArray[np.uint64]
    before: npt.NDArray[np.int32]
    level: npt.NDArray[np.int64]
    slot: npt.NDArray[np.int32]
    holes: npt.NDArray[np.int32]
    scalars: npt.NDArray[np.int64]
    histogram: npt.NDArray[Any]


def new_stack(workload: Workload) -> Stack:
    """Return an empty stack for the pages of `workload`."""
    n_pages = workload.n_pages
    n_words = min(workload.n_refs, 2 * n_pages) // 64 + 1
    sizes = _level_sizes(n_words)
    slot = zeros(n_pages, np.int32)
    slot[:] = -1
    return Stack(
        bits=np.zeros(n_words, np.uint64),
        before=zeros(sum(sizes), np.int32),
        level=np.cumsum([0, *sizes[:-1]]),
        slot=slot,
        holes=np.empty(min(len(workload.free_row), n_pages), np.int32),
        scalars=np.zeros(N_SCALARS, np.int64),
        histogram=zeros(n_pages + 1, np.int32 if workload.n_refs < 2**31 else np.int64),
    )


def _level_sizes(n_words: int) -> list[int]:
    """Return how many nodes the tree's levels have, whole rows of siblings, up to one row."""
    sizes = [-(-n_words // FAN) * FAN]
    while sizes[-1] > FAN:
        n_parents = sizes[-1] // FAN
        sizes.append(-(-n_parents // FAN) * FAN)
    return sizes


@inline
def _popcount(word):  # type: ignore[no-untyped-def]
    word -= (word >> _SHIFTS[0]) & _PAIRS
    word = (word & _FOURS) + ((word >> _SHIFTS[1]) & _FOURS)
    word = (word + (word >> _SHIFTS[2])) & _EIGHTS
    return np.int64((word * _BYTES) >> _SHIFTS[3])


@inline
def _older(slot, bits, before, level):  # type: ignore[no-untyped-def]
    """Return how many slots before this one are in use."""
    node = slot >> 6
    count = _popcount(bits[node] & ((_ONE << np.uint64(slot & 63)) - _ONE))
    for at in range(len(level)):
        count += before[level[at] + node]
        node >>= FAN_BITS
    return count


@inline
def _leave(slot, bits, before, level):  # type: ignore[no-untyped-def]
    """Take a slot out of use."""
    bits[slot >> 6] ^= _ONE << np.uint64(slot & 63)
    node = slot >> 6
    for at in range(len(level)):
        siblings, own = level[at] + (node & -FAN), node & (FAN - 1)
        for i in range(FAN):
            before[siblings + i] -= np.int32(i > own)
        node >>= FAN_BITS


@inner
def _begin_word(word, bits, before, level):  # type: ignore[no-untyped-def]
    """Count what lies before a word, of which no slot was in use yet, at each level where it is the first."""
    count = _popcount(bits[word - 1])
    for at in range(len(level)):
        if word & (FAN - 1):
            before[level[at] + word] = before[level[at] + word - 1] + count
            break
        before[level[at] + word] = 0
        count += before[level[at] + word - 1]
        word >>= FAN_BITS


@inline
def _enter(slot, bits, before, level):  # type: ignore[no-untyped-def]
    """Take the next slot into use."""
    if slot & 63 == 0 and slot:
        _begin_word(slot >> 6, bits, before, level)
    bits[slot >> 6] |= _ONE << np.uint64(slot & 63)


@inner
def _compact(bits, before, level, slot, holes, scalars):  # type: ignore[no-untyped-def]
    """Move everything to the first slots, in the same order."""
    for page in range(len(slot)):
        if slot[page] >= 0:
            slot[page] = _older(slot[page], bits, before, level)
    for i in range(scalars[N_HOLES]):
        holes[i] = _older(holes[i], bits, before, level)
    used = scalars[DEPTH]
    bits[:] = 0
    bits[: used >> 6] = _ALL_ONES
    bits[used >> 6] = (_ONE << np.uint64(used & 63)) - _ONE
    for word in range(1, (used - 1 >> 6) + 1):
        _begin_word(word, bits, before, level)
    scalars[NEXT] = used


@inner
def _add_hole(slot, holes, scalars):  # type: ignore[no-untyped-def]
    at = scalars[N_HOLES]
    scalars[N_HOLES] += 1
    while at and holes[(at - 1) >> 1] < slot:
        holes[at] = holes[(at - 1) >> 1]
        at = (at - 1) >> 1
    holes[at] = slot


@inner
def _replace_newest_hole(slot, holes, n_holes):  # type: ignore[no-untyped-def]
    """Put an older slot in the place of the newest one of `n_holes`."""
    at = 0
    while 2 * at + 1 < n_holes:
        child = 2 * at + 1
        if child + 1 < n_holes and holes[child + 1] > holes[child]:
            child += 1
        if holes[child] <= slot:
            break
        holes[at] = holes[child]
        at = child
    holes[at] = slot


@inline
def _unmap(row, free_row, free_page, slot, holes, scalars):  # type: ignore[no-untyped-def]
    """Leave holes where the pages lay that were unmapped before this row."""
    while scalars[FREE_AT] < len(free_row) and free_row[scalars[FREE_AT]] <= row:
        page = free_page[scalars[FREE_AT]]
        scalars[FREE_AT] += 1
        if slot[page] >= 0:
            _add_hole(slot[page], holes, scalars)
            slot[page] = -1


@jit()
def measure_range(start, stop, from_row, page, free_row, free_page, stack):  # type: ignore[no-untyped-def]
    """Take references [start, stop) in, and count the depths of those from `from_row` on.

    `stack` is the tuple of a Stack's fields, in their order.
    """
    bits, before, level, slot, holes, scalars, histogram = stack
    for row in range(start, stop):
        if row + ROWS_AHEAD < len(page):
            prefetch_line(slot, np.int64(page[row + ROWS_AHEAD]))
        _unmap(row, free_row, free_page, slot, holes, scalars)
        if scalars[NEXT] == 64 * len(bits) - 1:
            _compact(bits, before, level, slot, holes, scalars)
        old, n_holes = slot[page[row]], scalars[N_HOLES]
        if old < 0:
            scalars[COLD] += row >= from_row
            if n_holes:
                _leave(holes[0], bits, before, level)
                scalars[N_HOLES] -= 1
                _replace_newest_hole(holes[n_holes - 1], holes, n_holes - 1)
            else:
                scalars[DEPTH] += 1
        elif old == scalars[NEXT] - 1:
            histogram[1] += row >= from_row
            continue
        else:
            histogram[scalars[DEPTH] - _older(old, bits, before, level)] += row >= from_row
            gone = old
            if n_holes and holes[0] > old:
                gone = holes[0]
                _replace_newest_hole(old, holes, n_holes)
            _leave(gone, bits, before, level)
        slot[page[row]] = scalars[NEXT]
        _enter(scalars[NEXT], bits, before, level)
        scalars[NEXT] += 1
