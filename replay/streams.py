"""Each thread's references by themselves, and where a thread slept, as a trace shows it.

Which thread waited for which is not recorded, but shows: a thread that got on less than half as far as the
others since its last reference slept, or had no CPU, and is behind by then. What was recorded just before it
goes on is taken for the reason.

    thread[row]     whose reference it is, a number from 0 on
    wake_row        the rows at which a thread begins, or goes on so, rising
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.rmt.jit import jit

__all__ = ["MOST_BEHIND_INSNS", "Streams", "find_wakes", "last_insns", "own_clocks", "split"]

MOST_BEHIND_INSNS = 10_000_000
"""A thread that is behind by less did not sleep for it, but had no CPU: what one executes in a time slice of
Linux, 3 ms (sched_base_slice_ns), at some 3 instructions a ns."""


def own_clocks(insns: npt.NDArray[np.int64], thread: npt.NDArray[np.int32], n_threads: int) -> bool:
    """Have `insns`, which each thread counts by itself, go on where a clock went back: a new program (exec).

    insns, thread : of shape (n_refs,), `insns` is written over

    Returns False when what all have executed together does not fit into 63 bits.
    """
    return bool(_go_on(insns, thread, np.zeros((n_threads, 2), np.int64)))


@jit()
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


def find_wakes(
    insns: npt.NDArray[np.int64], thread: npt.NDArray[np.int32], n_threads: int
) -> npt.NDArray[np.int64]:
    """Return the rows at which a thread begins, but for the first, or goes on after it slept, rising.

    >>> find_wakes(np.array([0, 9**6, 0, 10, 9**6 + 5]), np.array([0, 0, 1, 1, 0], np.int32), 2).tolist()
    [2]
    """
    if n_threads == 1:
        return np.empty(0, np.int64)
    wakes = np.zeros(len(insns), np.bool_)
    _note_wakes(insns, thread, np.full((n_threads, 3), -1, np.int64), wakes)
    return np.flatnonzero(wakes)


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


Changes = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Streams:
    """Each thread's references by themselves.

    following : int32 of shape (n_refs,), the next row of the same thread, n_refs behind its last
    wakes : uint8 of shape (n_refs,), 1 for a row of wake_row
    free, vmas : rows, and the pages that each thread's process unmaps before one, and changes of its VMAs, as
        Workload's; n_refs for what comes after its last. Thread by thread, with a row that never comes behind
    first_row, first_free, first_vma : int64 of shape (n_threads,), a thread's first row, and where its part
        of `free` and of `vmas` begins
    process_of : int64 of shape (n_threads,)
    """

    following: npt.NDArray[np.int32]
    wakes: npt.NDArray[np.uint8]
    free: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    vmas: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    first_row: npt.NDArray[np.int64]
    first_free: npt.NDArray[np.int64]
    first_vma: npt.NDArray[np.int64]
    process_of: npt.NDArray[np.int64]


def split(
    thread: npt.NDArray[np.int32],
    wake_row: npt.NDArray[np.int64],
    process_of: npt.NDArray[np.int64],
    freed: Changes,
    vmas: Changes,
) -> Streams:
    """Return each thread's references by themselves.

    process_of : of each thread
    freed, vmas : in the order of the trace, (row, page, process) of what is unmapped before a row, and (row,
        change, process) of VMAs; a process of -1 is not known
    """
    n_refs, n_threads = len(thread), len(process_of)
    wakes = np.zeros(n_refs, np.uint8)
    wakes[wake_row] = 1
    following, first_row = np.empty(n_refs, np.int32), np.full(n_threads, n_refs, np.int64)
    _link(thread, first_row, following)
    free, first_free = _by_thread(thread, process_of, freed)
    changes, first_vma = _by_thread(thread, process_of, vmas)
    return Streams(following, wakes, free, changes, first_row, first_free, first_vma, process_of)


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
