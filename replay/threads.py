"""Threads run side by side: each has a clock of its own, and waits for its own pages alone.

A trace has the references of all threads, of one process or many, in the order in which they were recorded.
There all ran slowly, and none waited for a page: which is first under a limit is decided here. It is always
the thread whose clock is behind all others that goes on, until it is ahead of them. What they have in common
is memory, and the device. A run ends with its last thread.

A thread that slept, or comes for what another one is still to do (waits.py), goes on when that is done, and
its clock is that thread's. So does a new thread.

    clocks[thread]  (what it waited for pages; what the kernel worked for it, and how long it slept; its time;
                    the row at which it is; what was unmapped of it, as FREE_AT, and changed, as VMA_AT;
                    whether it had to wait for another; until when it had a CPU last) of the threads other
                    than scalars[THREAD], whose those are

An exact LRU, and memory that goes by a plan, follow the recorded order instead, and so their misses go by no
clock; each thread waits for its own pages there as well, on a device that serves in that order.

Where there are fewer CPUs than threads that do not wait (`n_cpus`), these share them evenly, as under a fair
scheduler: each takes longer by as much. In the recorded order each has one.
"""

import numpy as np
import numpy.typing as npt

from kdtool.replay.memory import (
    BEFORE_NS,
    BOUND_NS,
    CLOCK_WORDS,
    FREE_AT,
    INSN_PS,
    N_CPUS,
    N_READY,
    NEVER_NS,
    NOW_NS,
    PROCESSES,
    START_NS,
    START_WAITED_NS,
    STRETCH_NS,
    THREAD,
    VMA_AT,
    WAITED_NS,
    WAKE_AT,
    WORKED_NS,
)
from kdtool.replay.release import release
from kdtool.replay.streams import AFTER, AWAITED, SLEEPS, Streams
from kdtool.rmt.jit import inner

__all__ = [
    "begin_counting",
    "begin_streams",
    "end_run",
    "leave_stretch",
    "next_stretch",
    "switch_thread",
    "wake_threads",
]

WAITED, WORKED, NOW, ROW, FREED, CHANGED, BLOCKED, BUSY = range(CLOCK_WORDS)
AHEAD_NS = 10_000
"""How far a thread gets before others that are behind it: less than a read takes."""
MOST_ROWS = 64
"""Looked at before the first is done, which may fault: then they are looked at again."""


@inner
def switch_thread(thread, memory):  # type: ignore[no-untyped-def]
    """Have the clock of `thread` in memory's scalars."""
    scalars, clocks = memory[6], memory[14]
    before = scalars[THREAD]
    if thread == before:
        return
    clocks[before, WAITED], clocks[before, WORKED] = scalars[WAITED_NS], scalars[WORKED_NS]
    clocks[before, NOW] = max(clocks[before, NOW], scalars[NOW_NS])
    scalars[WAITED_NS], scalars[WORKED_NS] = clocks[thread, WAITED], clocks[thread, WORKED]
    scalars[THREAD] = thread


@inner
def _clock_at(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Return the time of the thread whose row it is, there, having switched to it."""
    switch_thread(np.int64(trace[3][row]), memory)
    return trace[1][row] * device[INSN_PS] // 1000 + memory[6][WAITED_NS] + memory[6][WORKED_NS]


@inner
def wake_threads(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Set the clock of a thread that begins or wakes at `row` to that of the thread that it waited for."""
    wake_row, after, asked_ns, scalars = trace[11], trace[22], trace[23], memory[6]
    at = scalars[WAKE_AT]
    if at == len(wake_row) or wake_row[at] != row:
        return
    scalars[WAKE_AT] = at + 1
    woken_ns = _clock_at(after[at], trace, memory, device) if after[at] >= 0 else np.int64(0)
    slept_ns = woken_ns - _clock_at(row, trace, memory, device)
    scalars[WORKED_NS] += max(slept_ns, 0) + asked_ns[at]


@inner
def next_stretch(most, trace, memory, device):  # type: ignore[no-untyped-def]
    """Switch to the thread that is behind all others; return the rows that it goes on with: first, end.

    most : rows
    """
    insns, thread, after, scalars, clocks = trace[1], trace[3], trace[24], memory[6], memory[14]
    if not scalars[BOUND_NS]:
        who, scalars[BOUND_NS] = _furthest_behind(trace, clocks)
        clocks[scalars[THREAD], FREED], clocks[scalars[THREAD], CHANGED] = scalars[FREE_AT], scalars[VMA_AT]
        switch_thread(who, memory)
        scalars[FREE_AT], scalars[VMA_AT] = clocks[who, FREED], clocks[who, CHANGED]
        scalars[N_READY] = _n_ready(clocks[who, NOW], trace, clocks) if device[N_CPUS] else 0
    who = scalars[THREAD]
    row = clocks[who, ROW]
    scalars[STRETCH_NS], scalars[BEFORE_NS] = clocks[who, NOW] - scalars[WAITED_NS], scalars[WAITED_NS]
    if clocks[who, BLOCKED]:
        clocks[who, BLOCKED] = 0
        own_ns = insns[row] * device[INSN_PS] // 1000 + scalars[WAITED_NS] + scalars[WORKED_NS]
        blocked_ns = max(clocks[thread[after[row]], NOW] - own_ns, 0)
        scalars[WORKED_NS] += blocked_ns
        scalars[STRETCH_NS] += blocked_ns
    end = row + 1
    while end - row < min(most, MOST_ROWS) and _goes_on(end, trace, scalars, device):
        end += 1
    return row, end


@inner
def _furthest_behind(trace, clocks):  # type: ignore[no-untyped-def]
    """Return who goes on next, and until when at most."""
    n_refs, who = len(trace[13]), np.int64(-1)
    now_ns, next_ns = np.int64(NEVER_NS), np.int64(NEVER_NS - AHEAD_NS)
    for each in range(len(clocks)):
        if clocks[each, ROW] == n_refs:
            continue
        if _has_to_wait(each, trace, clocks):
            clocks[each, BLOCKED] = 1
        elif clocks[each, NOW] < now_ns:
            who, next_ns, now_ns = np.int64(each), min(next_ns, now_ns), clocks[each, NOW]
        else:
            next_ns = min(next_ns, clocks[each, NOW])
    return who, next_ns + AHEAD_NS


@inner
def _has_to_wait(who, trace, clocks):  # type: ignore[no-untyped-def]
    """Tell whether the row at which a thread is comes after one that is not done."""
    thread, flags, after, row = trace[3], trace[14], trace[24], clocks[who, ROW]
    return flags[row] & AFTER and clocks[thread[after[row]], ROW] <= after[row]


@inner
def _n_ready(now_ns, trace, clocks):  # type: ignore[no-untyped-def]
    """Return how many threads want a CPU now."""
    n = 0
    for each in range(len(clocks)):
        if clocks[each, NOW] <= now_ns + AHEAD_NS:
            n += clocks[each, ROW] < len(trace[13]) and not _has_to_wait(each, trace, clocks)
        else:
            n += clocks[each, BUSY] > now_ns
    return n


@inner
def _goes_on(row, trace, scalars, device):  # type: ignore[no-untyped-def]
    """Tell whether a thread that has done the row before goes on with this one, and is not ahead then."""
    insns, following, flags = trace[1], trace[13], trace[14]
    if row == len(following) or following[row - 1] != row:
        return False
    if flags[row] & (AFTER | SLEEPS) or flags[row - 1] & AWAITED:
        return False
    work_ns = insns[row] * device[INSN_PS] // 1000
    return work_ns + scalars[WAITED_NS] + scalars[WORKED_NS] <= scalars[BOUND_NS]


@inner
def leave_stretch(end, is_due, faulted, trace, memory, device):  # type: ignore[no-untyped-def]
    """Note that the thread has done its rows up to `end`, which may have been its last.

    is_due : that row was begun, and is to be done after the guards were asked
    faulted : the last one waited, or may have: others come first
    """
    scalars, clocks, who = memory[6], memory[14], memory[6][THREAD]
    work_ns = trace[1][end - 1] * device[INSN_PS] // 1000
    row = np.int64(end) if is_due else np.int64(trace[13][end - 1])
    clocks[who, ROW] = row
    had_ns = work_ns + scalars[WORKED_NS] - scalars[STRETCH_NS]
    if scalars[N_READY] > device[N_CPUS]:
        scalars[WORKED_NS] += had_ns * (scalars[N_READY] - device[N_CPUS]) // device[N_CPUS]
    clocks[who, BUSY] = work_ns + scalars[WORKED_NS] + scalars[BEFORE_NS]
    if not is_due and row < len(trace[13]) and trace[14][row] & SLEEPS:
        scalars[WORKED_NS] += trace[23][np.searchsorted(trace[11], row)]
    clocks[who, NOW] = work_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if faulted or not _goes_on(end, trace, scalars, device):
        scalars[BOUND_NS] = 0
    if row == len(trace[13]):
        _end_thread(trace, memory)


@inner
def _end_thread(trace, memory):  # type: ignore[no-untyped-def]
    """Forget what a process had mapped to its end, if the thread that has ended was the last of it."""
    scalars, clocks, process_of, n_refs = memory[6], memory[14], trace[21], len(trace[13])
    who = scalars[THREAD]
    for each in range(len(clocks)):
        if process_of[each] == process_of[who] and clocks[each, ROW] < n_refs:
            return
    clocks[who, FREED] = scalars[FREE_AT]
    for each in range(len(clocks)):
        if process_of[each] == process_of[who]:
            scalars[FREE_AT] = clocks[each, FREED]
            release(n_refs, trace, memory)
            clocks[each, FREED] = scalars[FREE_AT]
    scalars[FREE_AT] = clocks[who, FREED]


@inner
def begin_counting(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Note when `row` is reached, by the thread that is furthest, and what all have waited until then."""
    scalars, clocks = memory[6], memory[14]
    scalars[START_NS] = 0
    if row and not len(trace[13]):
        scalars[START_NS] = _clock_at(row - 1, trace, memory, device)
    scalars[START_WAITED_NS] = scalars[WAITED_NS]
    for thread in range(len(clocks)):
        scalars[START_NS] = max(scalars[START_NS], clocks[thread, NOW])
        if thread != scalars[THREAD]:
            scalars[START_WAITED_NS] += clocks[thread, WAITED]


def begin_streams(scalars: npt.NDArray[np.int64], clocks: npt.NDArray[np.int64], streams: Streams) -> None:
    """Have every thread at its first row."""
    scalars[PROCESSES] = len(np.unique(streams.process_of))
    clocks[:, ROW] = streams.first_row
    clocks[:, FREED], clocks[:, CHANGED] = streams.first_free, streams.first_vma
    scalars[THREAD] = np.argmin(streams.first_row)
    scalars[[FREE_AT, VMA_AT]] = clocks[scalars[THREAD], [FREED, CHANGED]]


def end_run(
    scalars: npt.NDArray[np.int64], clocks: npt.NDArray[np.int64], work_ns: npt.NDArray[np.int64]
) -> None:
    """Leave in NOW_NS when the last thread ends, and in WAITED_NS what all have waited.

    work_ns : what each thread's instructions take, of shape (n_threads,)
    """
    own = scalars[[WAITED_NS, WORKED_NS]]
    clocks[scalars[THREAD], [WAITED, WORKED]] = own
    scalars[NOW_NS] = (work_ns + clocks[:, WAITED] + clocks[:, WORKED]).max()
    scalars[WAITED_NS] = clocks[:, WAITED].sum()
