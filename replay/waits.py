"""Where a thread begins or slept, and what has to be done before it goes on.

A sleep in a system call is recorded with what ended it (table `waits`). In a trace without any, such as an
imported one, it only shows: a thread that got on less than half as far as the others since its last reference
slept, or had no CPU, and is behind by then; what was recorded just before it goes on is taken for the reason,
as it is where a thread begins.

Threads also wait without having slept in the recording: for what was done there before they came for it, and
here is not. Two references to a page of which one stores keep the order in which they were recorded
(after_conflicts()): who reads a block does so when it has been filled.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.rmt.jit import inner, jit

__all__ = [
    "MOST_BEHIND_INSNS",
    "Wakes",
    "after_conflicts",
    "find_wakes",
    "recorded_wakes",
    "wakes_of",
]

MOST_BEHIND_INSNS = 10_000_000
"""A thread that is behind by less did not sleep for it, but had no CPU: what one executes in a time slice of
Linux, 3 ms (sched_base_slice_ns), at some 3 instructions a ns."""
NEVER = -1
"""A row that is before all."""

Numbers = npt.NDArray[np.int64]


class Wakes(NamedTuple):
    """Rows at which a thread begins, but for the first, or goes on after it slept: arrays of int64, by row.

    row : rising
    after : the row that is to be done before it, -1 where none is
    asked_ns : how long it sleeps whatever others do
    """

    row: Numbers
    after: Numbers
    asked_ns: Numbers

    def until(self, n_refs: int) -> "Wakes":
        """Return those of the first `n_refs` rows."""
        return Wakes(*(each[self.row < n_refs] for each in self))


def _check(name: str, table: Mapping[str, npt.NDArray[Any]], n_rows: int) -> None:
    """Refuse sleeps that nothing could have ended: TraceError.

    table : the columns of `waits`, of a trace with `n_rows` references
    """
    row, by_row = table["row"], table["by_row"]
    wrong = (by_row < 0) | (by_row > row) | (row > n_rows) | (table["asked_ns"] < 0)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise TraceError(
            f"{name}: row {i} of `waits`: a sleep of {table['asked_ns'][i]} ns that ended before reference "
            f"{row[i]} for what came before {by_row[i]}: a cause comes first, and there are {n_rows} "
            f"references: record it again"
        )


def wakes_of(
    name: str,
    table: Mapping[str, npt.NDArray[Any]] | None,
    insns: Numbers,
    thread: npt.NDArray[np.int32],
    tids: Numbers,
    keep: npt.NDArray[np.bool_],
    copies: Numbers,
) -> Wakes:
    """Return where threads begin or wake, as it is recorded or, without that, as it shows.

    table : the columns of `waits`, None where a trace has no rows of it
    insns, thread : of the rows that are replayed: those of the trace in `keep`, `copies` of those told twice

    Raises TraceError for sleeps that nothing could have ended.
    """
    if table is None:
        return find_wakes(insns, thread, len(tids))
    _check(name, table, len(keep))
    kept_rows = np.flatnonzero(keep)
    kept = {name: np.searchsorted(kept_rows, table[name]) for name in ("row", "by_row")}
    replayed = {name: row + np.searchsorted(copies, row) for name, row in kept.items()}
    return recorded_wakes({**table, **replayed}, thread, tids)


def recorded_wakes(
    table: Mapping[str, npt.NDArray[Any]], thread: npt.NDArray[np.int32], tids: Numbers
) -> Wakes:
    """Return where threads begin, and go on as a trace tells.

    table : columns of `waits`, their rows those of `thread`
    thread : of shape (n_refs,), indexes into `tids`, which are sorted
    """
    where = _Places(thread, len(tids))
    told = np.isin(table["tid"], tids)
    tid, row, by_tid, by_row, asked_ns = (
        table[name][told].astype(np.int64) for name in ("tid", "row", "by_tid", "by_row", "asked_ns")
    )
    woken = where.next_of(np.searchsorted(tids, tid), row)
    by = np.isin(by_tid, tids)
    after = np.where(by, where.last_of(np.searchsorted(tids, by_tid) * by, by_row), woken - 1)
    after[asked_ns > 0] = NEVER
    first = where.first[where.first > 0]
    return _merged(
        np.append(first, woken), np.append(first - 1, after), np.append(first * 0, asked_ns), len(thread)
    )


class _Places:
    """Where each thread's rows are."""

    def __init__(self, thread: npt.NDArray[np.int32], n_threads: int) -> None:
        # Radix sort, which NumPy has for 16 bits, takes a tenth of the time.
        narrow = thread.astype(np.int16) if n_threads <= 1 << 15 else thread
        self._rows = np.argsort(narrow, kind="stable")
        self._n = len(thread) + 1
        self._places = thread[self._rows] * np.int64(self._n) + self._rows
        self.first = self._rows[np.searchsorted(self._places, np.arange(n_threads) * self._n)]

    def next_of(self, who: Numbers, row: Numbers) -> Numbers:
        """Return the first row of each thread that is not before `row`, n_refs where none is."""
        at = np.searchsorted(self._places, who * self._n + row)
        found = np.append(self._places, -1)[at] - who * self._n
        return np.where((found >= 0) & (found < self._n), found, self._n - 1)

    def last_of(self, who: Numbers, row: Numbers) -> Numbers:
        """Return the last row of each thread before `row`, NEVER where none is."""
        at = np.searchsorted(self._places, who * self._n + row)
        found = np.append(self._places, -1)[at - 1] - who * self._n
        return np.where((found >= 0) & (found < self._n), found, NEVER)


def _merged(row: Numbers, after: Numbers, asked_ns: Numbers, n_refs: int) -> Wakes:
    """Return each row once: after the last that it waits for, having slept for all that it asked for."""
    rows, which = np.unique(row, return_inverse=True)
    latest, asked = np.full(len(rows), NEVER), np.zeros(len(rows), np.int64)
    np.maximum.at(latest, which, after)
    np.add.at(asked, which, asked_ns)
    return Wakes(rows, latest, asked).until(n_refs)


def find_wakes(insns: Numbers, thread: npt.NDArray[np.int32], n_threads: int) -> Wakes:
    """Return where a thread begins, or goes on after it must have slept.

    >>> find_wakes(np.array([0, 9**6, 0, 10, 9**6 + 5]), np.array([0, 0, 1, 1, 0], np.int32), 2).row
    array([2])
    """
    wakes = np.zeros(len(insns), np.bool_)
    if n_threads > 1:
        _note_wakes(insns, thread, np.full((n_threads, 3), -1, np.int64), wakes)
    row = np.flatnonzero(wakes)
    return Wakes(row, row - 1, row * 0)


@jit()
def _note_wakes(insns, thread, clocks, wakes):  # type: ignore[no-untyped-def]
    """clocks : of each thread, its time if none waited for a page, -1 before it begins; the latest time of
    all at its last row; and its instructions there."""
    latest = np.int64(0)
    for i in range(len(insns)):
        who = thread[i]
        time, seen, last = clocks[who, 0], clocks[who, 1], clocks[who, 2]
        advanced = insns[i] - last
        if time < 0:
            time = latest
            wakes[i] = i > 0
        else:
            time += advanced
            if latest - time > MOST_BEHIND_INSNS and 2 * advanced < latest - seen:
                time = latest
                wakes[i] = True
        latest = max(latest, time)
        clocks[who, 0], clocks[who, 1], clocks[who, 2] = time, latest, insns[i]


def after_conflicts(
    page: npt.NDArray[np.int32],
    store: npt.NDArray[np.uint8],
    thread: npt.NDArray[np.int32],
    n_pages: int,
    n_threads: int,
    wakes: Wakes,
) -> npt.NDArray[np.int32]:
    """Return the row that is to be done before each, -1 where none is; int32 of shape (n_refs,).

    That is the last of what it conflicts with and what its thread slept for. A conflict with what its thread
    has waited for already, or with what comes before that in the same other thread, is left out.
    """
    after = np.full(len(page), NEVER, np.int32)
    after[wakes.row] = wakes.after
    last = np.full((n_pages, 4), NEVER, np.int32)
    _find_conflicts(page, store, thread, last, np.full(n_threads, NEVER, np.int32), after)
    return after


@jit()
def _find_conflicts(page, store, thread, last, waited, after):  # type: ignore[no-untyped-def]
    """last : of each page, its last row and the last of another thread before that, and the same of stores.
    waited : what each thread has waited for last"""
    for row in range(len(page)):
        who, rows = thread[row], last[page[row]]
        before = _others(who, rows[:2] if store[row] else rows[2:], thread)
        seen = waited[who]
        if before > after[row] and not (seen >= before and thread[seen] == thread[before]):
            after[row] = before
        if after[row] >= 0:
            waited[who] = after[row]
        _keep_two(row, who, rows[:2], thread)
        if store[row]:
            _keep_two(row, who, rows[2:], thread)


@inner
def _others(who, two, thread):  # type: ignore[no-untyped-def]
    """Return the last of two rows, of two threads, that is not of this one."""
    return two[1] if two[0] >= 0 and thread[two[0]] == who else two[0]


@inner
def _keep_two(row, who, two, thread):  # type: ignore[no-untyped-def]
    """Have `row` as the last, and behind it the last of another thread."""
    if two[0] >= 0 and thread[two[0]] != who:
        two[1] = two[0]
    two[0] = row
