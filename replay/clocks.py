"""The clock of each thread: what it has executed, what the kernel worked for it, and what it has waited.

Those of scalars[THREAD] are in memory's scalars, the others' in clocks, see threads.py.
"""

import numpy as np

from kdtool.replay.memory import (
    HAS_BITS,
    INSN_PS,
    NOW,
    NOW_NS,
    RECLAIM_KIND,
    THREAD,
    WAITED,
    WAITED_NS,
    WORKED,
    WORKED_NS,
)
from kdtool.rmt.jit import inner

__all__ = ["clock_at", "delay", "own_ns", "switch_thread"]


@inner
def switch_thread(thread, memory):  # type: ignore[no-untyped-def]
    """Have the clock of `thread` in memory's scalars."""
    scalars, clocks = memory[6], memory[14]
    before = scalars[THREAD]
    if thread == before:
        return
    clocks[before, WAITED], clocks[before, WORKED] = scalars[WAITED_NS], scalars[WORKED_NS]
    if not scalars[RECLAIM_KIND] & HAS_BITS:  # else leave_stretch() keeps it: NOW_NS may be another's
        clocks[before, NOW] = max(clocks[before, NOW], scalars[NOW_NS])
    scalars[WAITED_NS], scalars[WORKED_NS] = clocks[thread, WAITED], clocks[thread, WORKED]
    scalars[THREAD] = thread


@inner
def own_ns(who, row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Return when a thread would be at a row of its own: what it executes before comes before it waits."""
    scalars, clocks = memory[6], memory[14]
    work_ns = trace[1][row] * device[INSN_PS] // 1000
    if who == scalars[THREAD]:
        return work_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    return work_ns + clocks[who, WAITED] + clocks[who, WORKED]


@inner
def clock_at(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Return the time of the thread whose row it is, there, having switched to it."""
    who = np.int64(trace[3][row])
    switch_thread(who, memory)
    return own_ns(who, row, trace, memory, device)


@inner
def delay(who, ns, memory):  # type: ignore[no-untyped-def]
    """Have a thread go on by so much later, if that is more than nothing."""
    scalars, clocks = memory[6], memory[14]
    if ns > 0:
        clocks[who, NOW] += ns
        if who == scalars[THREAD]:
            scalars[WORKED_NS] += ns
        else:
            clocks[who, WORKED] += ns
