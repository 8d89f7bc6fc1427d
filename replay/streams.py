"""Each thread's references by themselves, and which of them wait for those of others (waits.py)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.replay.waits import Wakes
from kdtool.rmt.jit import jit

__all__ = ["AFTER", "AWAITED", "BORN", "COPIES", "SLEEPS", "Streams", "last_insns", "own_clocks", "split"]

AFTER, AWAITED, SLEEPS, COPIES, BORN = 1, 2, 4, 8, 16
"""Bits of Streams.flags: the row goes on only after another one; one goes on after it; its thread slept; it
reads a page to copy it; it is its thread's first."""


def own_clocks(insns: npt.NDArray[np.int64], thread: npt.NDArray[np.int32], n_threads: int) -> bool:
    """Have `insns`, which each thread counts by itself, go on where a clock went back: a new program (exec).

    insns, thread : of shape (n_refs,), `insns` is written over

    Returns False when what all have executed together does not fit into 63 bits.
    """
    return bool(_go_on(insns, thread, np.zeros((n_threads, 2), np.int64)))


@jit(nogil=True)
def _go_on(insns, thread, clocks):  # type: ignore[no-untyped-def]
    """clocks : where each thread is, and where its program began."""
    total = np.int64(0)
    for i in range(len(insns)):
        who = thread[i]
        last, own = clocks[who, 0], insns[i] + clocks[who, 1]
        if insns[i] < 0:
            return False
        if own < last:
            clocks[who, 1] = last
            own = insns[i] + last
        total += own - last
        if own < 0 or total < 0:
            return False
        insns[i] = clocks[who, 0] = own
    return True


Changes = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Streams:
    """Each thread's references by themselves.

    following : int32 of shape (n_refs,), the next row of the same thread, n_refs behind its last
    after : int32 of shape (n_refs,), the row that is to be done before, -1 where none is
    flags : uint8 of shape (n_refs,), of the bits above
    free, vmas : rows, and the pages that each thread's process unmaps before one, and changes of its VMAs, as
        Workload's; n_refs for what comes after its last. Thread by thread, with a row that never comes behind
    first_row, first_free, first_vma : int64 of shape (n_threads,), a thread's first row, and where its part
        of `free` and of `vmas` begins
    process_of : int64 of shape (n_threads,)
    """

    following: npt.NDArray[np.int32]
    after: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    free: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    vmas: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    first_row: npt.NDArray[np.int64]
    first_free: npt.NDArray[np.int64]
    first_vma: npt.NDArray[np.int64]
    process_of: npt.NDArray[np.int64]


def split(
    thread: npt.NDArray[np.int32],
    after: npt.NDArray[np.int32],
    wakes: Wakes,
    copying_row: npt.NDArray[np.int64],
    process_of: npt.NDArray[np.int64],
    freed: Changes,
    vmas: Changes,
) -> Streams:
    """Return each thread's references by themselves.

    after : as of after_conflicts()
    copying_row : rows that read a page to copy it
    process_of : of each thread
    freed, vmas : in the order of the trace, (row, page, process) of what is unmapped before a row, and (row,
        change, process) of VMAs; a process of -1 is not known
    """
    n_refs, n_threads = len(thread), len(process_of)
    flags = (after >= 0) * np.uint8(AFTER)
    flags[after[after >= 0]] |= AWAITED
    flags[wakes.row[wakes.asked_ns > 0]] |= SLEEPS
    flags[copying_row] |= COPIES
    following, first_row = np.empty(n_refs, np.int32), np.full(n_threads, n_refs, np.int64)
    _link(thread, first_row, following)
    flags[first_row[first_row < n_refs]] |= BORN
    free, first_free = _by_thread(thread, process_of, freed)
    changes, first_vma = _by_thread(thread, process_of, vmas)
    return Streams(following, after, flags, free, changes, first_row, first_free, first_vma, process_of)


def _by_thread(
    thread: npt.NDArray[np.int32], process_of: npt.NDArray[np.int64], changes: Changes
) -> tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
    """Return rows and what changes there, thread by thread, and where each thread's begin."""
    row, what, process = changes
    who, where = _unmappers(thread, process_of, row, process)
    threads = np.arange(len(process_of))
    who, where = np.append(who, threads), np.append(where, np.full(len(threads), len(thread) + 1))
    what = np.concatenate((what, np.zeros((len(threads), *what.shape[1:]), np.int64)))
    order = np.lexsort((where, who))
    return (where[order], what[order]), np.searchsorted(who[order], threads)


@jit()
def _link(thread, first_row, following):  # type: ignore[no-untyped-def]
    for row in range(len(thread) - 1, -1, -1):
        following[row] = first_row[thread[row]]
        first_row[thread[row]] = row


def _unmappers(
    thread: npt.NDArray[np.int32],
    process_of: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
    process: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return who unmaps, and before which of its rows: whose row is the process's next, or was its last.

    row : rising; of a process that is not known the next row is anyone's
    """
    anyone, n_refs = int(max(process_of.max(), process.max(initial=-1))) + 1, len(thread)
    process = np.where(process < 0, anyone, process)
    where = np.full(len(row), n_refs, np.int64)
    last, coming = np.full((2, anyone + 1), n_refs, np.int64)
    _find_next(thread, process_of, row, process, coming, last, where)
    known = np.minimum(where, last[process])
    who = np.where(known < n_refs, thread[np.minimum(known, n_refs - 1)], 0)
    return who.astype(np.int64), where


@jit()
def _find_next(thread, process_of, row, process, coming, last, where):  # type: ignore[no-untyped-def]
    """Set `where` to the process's next row, `last` to each one's last; behind all of them is anyone."""
    n_refs, anyone, at = len(thread), len(coming) - 1, len(row) - 1
    for i in range(n_refs, -1, -1):
        if i < n_refs:
            whose = process_of[thread[i]]
            for each in (whose if whose >= 0 else anyone, anyone):
                coming[each] = i
                last[each] = i if last[each] == n_refs else last[each]
        while at >= 0 and row[at] >= i:
            where[at] = coming[process[at]]
            at -= 1


def last_insns(
    insns: npt.NDArray[np.int64], thread: npt.NDArray[np.int32], n_threads: int
) -> npt.NDArray[np.int64]:
    """Return each thread's clock at its last reference, int64 of shape (n_threads,)."""
    last = np.zeros(n_threads, np.int64)
    if n_threads == 1:
        last[0] = insns[-1]
    else:
        _keep_last(insns, thread, last)
    return last


@jit()
def _keep_last(insns, thread, last):  # type: ignore[no-untyped-def]
    for i in range(len(insns)):
        last[thread[i]] = insns[i]
