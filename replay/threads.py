"""Threads run side by side: each has a clock of its own, and waits for its own pages alone.

A trace has the references of all threads, of one process or many, in the order in which they were recorded.
There all ran slowly, and none waited for a page: which is first under a limit is decided here. It is always
the thread whose clock is behind all others that goes on, until it is ahead of them. What they have in common
is memory, and the device. A run ends with its last thread.

A thread that slept, or comes for what another one is still to do (waits.py), goes on when that is done, and
its clock is that thread's. So does a new thread.

    clocks[thread]  (what it waited for pages; what the kernel worked for it, and how long it slept; its time;
                    the row at which it is; what was unmapped of it, as FREE_AT, and changed, as VMA_AT;
                    whether it has to wait for another) of the threads other than scalars[THREAD], whose
                    those are

An exact LRU, and memory that goes by a plan, follow the recorded order instead, and so their misses go by no
clock; each thread waits for its own pages there as well, on a device that serves in that order.

Where there are fewer CPUs than threads (`n_cpus`), who is behind also waits for one (cpus.py). In the
recorded order each thread has one.
"""

import numpy as np
import numpy.typing as npt

from kdtool.replay.clocks import clock_at, delay, own_ns, switch_thread
from kdtool.replay.cpus import SLICE_NS, earliest_cpu, leave_cpu, take_cpu
from kdtool.replay.memory import (
    BEFORE_NS,
    BLOCKED,
    BOUND_NS,
    CHANGED,
    FREE_AT,
    FREED,
    FRESH_CPUS,
    INSN_PS,
    LEFT,
    NEVER_NS,
    NOW,
    NOW_NS,
    ON_CPU,
    PROCESSES,
    ROW,
    SINCE,
    START_NS,
    START_WAITED_NS,
    THREAD,
    VMA_AT,
    WAITED,
    WAITED_NS,
    WAKE_AT,
    WORKED,
    WORKED_NS,
)
from kdtool.replay.release import release
from kdtool.replay.streams import AFTER, AWAITED, BORN, SLEEPS, Streams
from kdtool.rmt.jit import inner

__all__ = [
    "begin_counting",
    "begin_streams",
    "end_run",
    "leave_stretch",
    "next_stretch",
    "wake_threads",
]

AHEAD_NS = 10_000
"""How far a thread gets before others that are behind it: less than a read takes."""
HASH = np.uint64(0x9E3779B97F4A7C15)
"""Fibonacci hashing: Knuth, The Art of Computer Programming 3, 6.4."""
MOST_ROWS = 64
"""Looked at before the first is done, which may fault: then they are looked at again."""


@inner
def wake_threads(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Set the clock of a thread that begins or wakes at `row` to that of the thread that it waited for."""
    wake_row, after, asked_ns, scalars = trace[11], trace[22], trace[23], memory[6]
    at = scalars[WAKE_AT]
    if at == len(wake_row) or wake_row[at] != row:
        return
    scalars[WAKE_AT] = at + 1
    woken_ns = clock_at(after[at], trace, memory, device) if after[at] >= 0 else np.int64(0)
    slept_ns = woken_ns - clock_at(row, trace, memory, device)
    scalars[WORKED_NS] += max(slept_ns, 0) + asked_ns[at]


@inner
def next_stretch(most, trace, memory, device):  # type: ignore[no-untyped-def]
    """Switch to the thread that is behind all others; return the rows that it goes on with: first, end.

    most : rows
    """
    scalars, clocks = memory[6], memory[14]
    if not scalars[BOUND_NS]:
        _follow_others(trace, memory, device)
        who = _furthest_behind(len(trace[13]), memory)
        clocks[scalars[THREAD], FREED], clocks[scalars[THREAD], CHANGED] = scalars[FREE_AT], scalars[VMA_AT]
        switch_thread(who, memory)
        scalars[FREE_AT], scalars[VMA_AT] = clocks[who, FREED], clocks[who, CHANGED]
    scalars[BEFORE_NS] = scalars[WAITED_NS]
    row = clocks[scalars[THREAD], ROW]
    end = row + 1
    while end - row < min(most, MOST_ROWS) and _goes_on(end, trace, scalars, device):
        end += 1
    return row, end


@inner
def _follow_others(trace, memory, device):  # type: ignore[no-untyped-def]
    """Block those that are at a row which comes after another, and let go on those for which that is done."""
    clocks, thread, after = memory[14], trace[3], trace[24]
    for each in range(len(clocks)):
        row = clocks[each, ROW]
        if row == len(trace[13]):
            continue
        if _has_to_wait(each, trace, clocks):
            clocks[each, BLOCKED] = 1
            leave_cpu(each, clocks[each, NOW], memory)
        elif clocks[each, BLOCKED]:
            clocks[each, BLOCKED] = 0
            done_ns = clocks[thread[after[row]], NOW]
            delay(each, done_ns - own_ns(each, row, trace, memory, device), memory)
            if trace[14][row] & BORN:
                _sleep(each, row, trace, memory)


@inner
def _furthest_behind(n_refs, memory):  # type: ignore[no-untyped-def]
    """Return who goes on next, on a CPU, having set until when at most."""
    clocks, who = memory[14], np.int64(-1)
    free_ns, whose = earliest_cpu(memory)
    now_ns, next_ns = np.int64(NEVER_NS), np.int64(NEVER_NS - AHEAD_NS)
    for each in range(len(clocks)):
        if clocks[each, ROW] == n_refs or clocks[each, BLOCKED]:
            continue
        own_ns = clocks[each, NOW]
        if not clocks[each, ON_CPU] and clocks[each, LEFT] == NEVER_NS:
            own_ns = max(own_ns, free_ns)
        if own_ns < now_ns or (own_ns == now_ns and clocks[each, NOW] < clocks[who, NOW]):
            who, next_ns, now_ns = np.int64(each), min(next_ns, now_ns), own_ns
        else:
            next_ns = min(next_ns, own_ns)
    if not clocks[who, ON_CPU]:
        delay(who, now_ns - clocks[who, NOW], memory)
        take_cpu(who, whose, now_ns, memory)
    memory[6][BOUND_NS] = min(next_ns + AHEAD_NS, clocks[who, SINCE] + SLICE_NS)
    return who


@inner
def _sleeps(row, trace):  # type: ignore[no-untyped-def]
    """Tell whether a thread asked to sleep before a row of its own."""
    return row < len(trace[13]) and trace[14][row] & SLEEPS


@inner
def _sleep(who, row, trace, memory):  # type: ignore[no-untyped-def]
    """Have a thread sleep for as long as it asked to before a row of its own."""
    if _sleeps(row, trace):
        delay(who, trace[23][np.searchsorted(trace[11], row)], memory)


@inner
def _has_to_wait(who, trace, clocks):  # type: ignore[no-untyped-def]
    """Tell whether the row at which a thread is comes after one that is not done."""
    thread, flags, after, row = trace[3], trace[14], trace[24], clocks[who, ROW]
    return flags[row] & AFTER and clocks[thread[after[row]], ROW] <= after[row]


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
    row = np.int64(end) if is_due else np.int64(trace[13][end - 1])
    waited_ns = scalars[WAITED_NS] - scalars[BEFORE_NS]
    if waited_ns > 0:
        uneven_ns = waited_ns * _unevenness(end) // 1024
        waited_ns += uneven_ns
        scalars[WAITED_NS] += uneven_ns
    now_ns = trace[1][end - 1] * device[INSN_PS] // 1000 + scalars[WAITED_NS] + scalars[WORKED_NS]
    sleeps = not is_due and _sleeps(row, trace)
    clocks[who, ROW], clocks[who, NOW] = row, now_ns
    if waited_ns or sleeps or row == len(trace[13]) or now_ns >= clocks[who, SINCE] + SLICE_NS:
        leave_cpu(who, now_ns - waited_ns, memory)
    if sleeps:
        _sleep(who, row, trace, memory)
    if faulted or not clocks[who, ON_CPU] or not _goes_on(end, trace, scalars, device):
        scalars[BOUND_NS] = 0
    if row == len(trace[13]):
        _end_thread(trace, memory)


@inner
def _unevenness(row):  # type: ignore[no-untyped-def]
    """Return by how many 1024ths a wait differs from the device's, an eighth at most, by a hash of the row.

    Reads do not take equally long: `calibrate` found quartiles 16 % off the median. Threads that do the same
    would else stay in step for ever, which changes what readahead makes of their faults.
    """
    return np.int64(np.uint64(row) * HASH >> np.uint64(56)) - 128


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
        scalars[START_NS] = clock_at(row - 1, trace, memory, device)
    scalars[START_WAITED_NS] = scalars[WAITED_NS]
    for thread in range(len(clocks)):
        scalars[START_NS] = max(scalars[START_NS], clocks[thread, NOW])
        if thread != scalars[THREAD]:
            scalars[START_WAITED_NS] += clocks[thread, WAITED]


def begin_streams(
    scalars: npt.NDArray[np.int64], clocks: npt.NDArray[np.int64], streams: Streams, n_cpus: int
) -> None:
    """Have every thread at its first row; 0 CPUs are as many as there are threads."""
    scalars[FRESH_CPUS] = n_cpus or len(clocks)
    clocks[:, LEFT] = NEVER_NS
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
