"""Which threads have a CPU, where there are fewer of these than of those.

A thread keeps its CPU until it waits, sleeps or ends, or for a slice; then the one that has been ready for
the longest time has it. That is EEVDF's order for threads of one weight (kernel/sched/fair.c, v6.18), but for
what a thread that slept is owed: here it takes its place behind those that are ready.

    clocks[thread]  (ON_CPU: whether it has one; SINCE: since when; LEFT: when it left one that nobody has
                    taken since, or NEVER_NS), beside what threads.py keeps
"""

import numpy as np

from kdtool.replay.memory import FRESH_CPUS, LEFT, NEVER_NS, ON_CPU, SINCE
from kdtool.rmt.jit import inner

__all__ = ["SLICE_NS", "earliest_cpu", "leave_cpu", "take_cpu"]

SLICE_NS = 3_000_000
"""base_slice_ns is 0.7 ms times 1 + log2 of the CPUs, but looked at once a tick, which is 1 to 4 ms."""


@inner
def earliest_cpu(memory):  # type: ignore[no-untyped-def]
    """Return when a CPU is free, NEVER_NS while none is, and who left it, -1 for one that nobody had."""
    clocks, whose = memory[14], np.int64(-1)
    if memory[6][FRESH_CPUS]:
        return np.int64(0), whose
    free_ns = np.int64(NEVER_NS)
    for each in range(len(clocks)):
        if clocks[each, LEFT] < free_ns:
            free_ns, whose = clocks[each, LEFT], np.int64(each)
    return free_ns, whose


@inner
def take_cpu(who, whose, now_ns, memory):  # type: ignore[no-untyped-def]
    """Give a thread the CPU that it left itself or, if somebody has taken that, the one that another left."""
    clocks = memory[14]
    if clocks[who, LEFT] < NEVER_NS:
        clocks[who, LEFT] = NEVER_NS
    elif whose < 0:
        memory[6][FRESH_CPUS] -= 1
    else:
        clocks[whose, LEFT] = NEVER_NS
    clocks[who, ON_CPU], clocks[who, SINCE] = 1, now_ns


@inner
def leave_cpu(who, now_ns, memory):  # type: ignore[no-untyped-def]
    """Have a thread leave its CPU, if it has one."""
    clocks = memory[14]
    if clocks[who, ON_CPU]:
        clocks[who, ON_CPU], clocks[who, LEFT] = 0, now_ns
