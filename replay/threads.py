"""Threads run side by side: each has a clock of its own, and waits for its own pages alone.

A trace has the references of all threads, of one process or many, in one order, and the instructions of each
thread. Replay takes them in that order. What a thread executes and waits for moves its own clock; what all
have in common is memory, and the device, which serves in the order in which it is asked. A run ends with its
last thread.

Which thread waited for which is not recorded, but shows: a thread that got on less than half as far as the
others since its last reference slept, or had no CPU, and is behind by then. Where it goes on the order of the
trace is taken for the reason, and its clock set to that of the thread before it; so is the clock of a new
thread.

    thread[row]     whose reference it is, a number from 0 on
    wake_row        the rows at which a thread goes on so, rising
    clocks[thread]  (what it waited for pages; what the kernel worked for it, and how long it slept; its last
                    fault) of the threads other than scalars[THREAD], whose first two are WAITED_NS, WORKED_NS

Differs from a machine: each thread that is not asleep has a CPU, as long as the recording had one for it.
"""

import numpy as np
import numpy.typing as npt

from kdtool.replay.memory import (
    INSN_PS,
    NOW_NS,
    START_NS,
    START_WAITED_NS,
    THREAD,
    WAITED_NS,
    WAKE_AT,
    WORKED_NS,
)
from kdtool.rmt.jit import inner, jit

__all__ = [
    "begin_counting",
    "end_run",
    "find_wakes",
    "last_insns",
    "own_clocks",
    "switch_thread",
    "wake_threads",
]

WAITED, WORKED, NOW = range(3)
MOST_BEHIND_INSNS = 100_000
"""A thread that is behind by less did not sleep for it: 25 us at 4 instructions a ns, less than a read."""


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


@inner
def switch_thread(thread, memory):  # type: ignore[no-untyped-def]
    """Have the clock of `thread` in memory's scalars."""
    scalars, clocks = memory[6], memory[14]
    before = scalars[THREAD]
    if thread == before:
        return
    clocks[before, WAITED], clocks[before, WORKED] = scalars[WAITED_NS], scalars[WORKED_NS]
    clocks[before, NOW] = scalars[NOW_NS]
    scalars[WAITED_NS], scalars[WORKED_NS] = clocks[thread, WAITED], clocks[thread, WORKED]
    scalars[THREAD] = thread


@inner
def _clock_at(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Return the time of the thread whose row it is, there, having switched to it."""
    switch_thread(np.int64(trace[3][row]), memory)
    return trace[1][row] * device[INSN_PS] // 1000 + memory[6][WAITED_NS] + memory[6][WORKED_NS]


@inner
def wake_threads(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Set the clock of a thread that begins or wakes at `row` to that of the thread before it."""
    wake_row, scalars = trace[11], memory[6]
    at = scalars[WAKE_AT]
    if at == len(wake_row) or wake_row[at] != row:
        return
    scalars[WAKE_AT] = at + 1
    woken_ns = _clock_at(row - 1, trace, memory, device)
    slept_ns = woken_ns - _clock_at(row, trace, memory, device)
    if slept_ns > 0:
        scalars[WORKED_NS] += slept_ns


@inner
def begin_counting(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Note when `row` is reached, by the thread that is furthest, and what all have waited until then."""
    scalars, clocks = memory[6], memory[14]
    scalars[START_NS] = _clock_at(row - 1, trace, memory, device) if row else 0
    scalars[START_WAITED_NS] = scalars[WAITED_NS]
    for thread in range(len(clocks)):
        if thread != scalars[THREAD]:
            scalars[START_NS] = max(scalars[START_NS], clocks[thread, NOW])
            scalars[START_WAITED_NS] += clocks[thread, WAITED]


def end_run(
    scalars: npt.NDArray[np.int64], clocks: npt.NDArray[np.int64], work_ns: npt.NDArray[np.int64]
) -> None:
    """Leave in NOW_NS when the last thread ends, and in WAITED_NS what all have waited.

    work_ns : what each thread's instructions take, of shape (n_threads,)
    """
    own = scalars[[WAITED_NS, WORKED_NS]]
    clocks[scalars[THREAD], :NOW] = own
    scalars[NOW_NS] = (work_ns + clocks[:, WAITED] + clocks[:, WORKED]).max()
    scalars[WAITED_NS] = clocks[:, WAITED].sum()
