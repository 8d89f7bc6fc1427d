"""Which references an LRU misses, and what it gives up for each, found before a replay and without its lists.

An LRU without prefetching goes by no clock: the order of the references alone says what is in memory. The
trace itself is the queue:

    last[p]      the row after the latest reference to page p; 0: none, or it was unmapped since
    passed       a bit a row: the reference is not its page's latest, or its page is gone
    state[TAIL]  the row after the latest reference of the page that was given up last: a page is in memory
                 if its latest is that row or a later one; who goes next is the first from there that is
                 not passed

So a replay need only walk over the rows that fault, see knownfaults.py. Two places a reference are looked up
that lie anywhere, of which one stays in a cache, and neither waits for the other; in a list four, which do.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import types

from kdtool.replay.bits import first_set
from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.longarrays import zeros
from kdtool.replay.workload import Workload
from kdtool.rmt.jit import inner, jit

__all__ = ["MOST_REFS", "LruPass"]

MOST_REFS = (1 << 31) - 2
"""Rows are 32-bit numbers here."""

TAIL, HELD, FREED = range(3)
AHEAD_ROWS = 48
"""How many rows ahead `last` is asked for."""

_I4, _I8, _U8 = (types.Array(dtype, 1, "C") for dtype in (types.int32, types.int64, types.uint64))


@dataclass(frozen=True)
class LruPass:
    """An LRU of `capacity` pages on its way through a workload without pages of files.

    rows : of the part that was looked at last: those that fault, and one more, the end of the part
    victims : the pages that go for them once memory is full, in order
    """

    workload: Workload
    capacity: int
    last: npt.NDArray[np.int32]
    passed: npt.NDArray[np.uint64]
    state: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    victims: npt.NDArray[np.int32]

    @classmethod
    def at_start(cls, workload: Workload, capacity: int, most_rows: int) -> "LruPass":
        """Return one that has seen nothing, and goes on by `most_rows` at a time."""
        return cls(
            workload,
            capacity,
            zeros(workload.n_pages, np.int32),
            zeros((workload.n_refs >> 6) + 2, np.uint64),
            np.zeros(3, np.int64),
            zeros(most_rows + 1, np.int32),
            zeros(most_rows, np.int32),
        )

    def find(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Return the rows from `start` to `stop` that fault, and `stop`; `victims` has the pages that go."""
        w = self.workload
        n = _find_faults(
            start, stop, self.capacity, w.page, w.free_row, w.free_page, self.last, self.passed, self.state,
            self.rows, self.victims,
        )  # fmt: skip
        return self.rows[: n + 1]


@inner
def _pass_by(row, passed):  # type: ignore[no-untyped-def]
    """Note that a row's reference is no more its page's latest; that of row -1 is none."""
    passed[(row + 64) >> 6] |= np.uint64(1) << np.uint64(row & 63)


@inner
def _next_victim_row(tail, passed):  # type: ignore[no-untyped-def]
    """Return the first row from `tail` on whose reference is its page's latest."""
    word = (tail >> 6) + 1
    while passed[word] == ~np.uint64(0):
        word += 1
    return ((word - 1) << 6) + first_set(~passed[word])


@inner
def _forget(until, free_row, free_page, last, passed, state):  # type: ignore[no-untyped-def]
    """Take out what was unmapped before row `until`; return before which row something is next."""
    at = state[FREED]
    while at < len(free_row) and free_row[at] <= until:
        page = np.int64(free_page[at])
        if last[page] > state[TAIL]:
            _pass_by(np.int64(last[page]) - 1, passed)
            state[HELD] -= 1
        last[page] = 0
        at += 1
    state[FREED] = at
    return free_row[at] if at < len(free_row) else np.int64(MOST_REFS)


@jit(
    types.int64(
        types.int64, types.int64, types.int64, _I4, _I8, _I8, _I4, _U8, _I8, _I4, _I4
    )
)  # fmt: skip
def _find_faults(  # type: ignore[no-untyped-def]
    start, stop, capacity, page, free_row, free_page, last, passed, state, rows, victims
):
    """Put the rows that fault in `rows`, then `stop`, and who goes in `victims`; return how many rows."""
    n, gone, row = 0, 0, start
    while row < stop:
        end = min(_forget(row, free_row, free_page, last, passed, state), stop)
        tail, held = state[TAIL], state[HELD]
        for at in range(row, end):
            if at + AHEAD_ROWS < len(page):
                prefetch_line(last, np.int64(page[at + AHEAD_ROWS]))
            p = np.int64(page[at])
            before = np.int64(last[p])
            last[p] = at + 1
            hit = before > tail
            _pass_by(before - 1 if hit else np.int64(-1), passed)
            if hit:
                continue
            rows[n] = at
            n += 1
            if held < capacity:
                held += 1
                continue
            oldest = _next_victim_row(tail, passed)
            _pass_by(oldest, passed)
            victims[gone] = page[oldest]
            gone += 1
            tail = oldest + 1
        state[TAIL], state[HELD] = tail, held
        row = end
    rows[n] = stop
    return n
