"""Who notes that a write has ended, and when.

The interrupt at once; or, behind a loop device with direct I/O, a worker of the CPU that it interrupted
(slice_ns of devices.py, iomap_dio_bio_end_io()). That is the CPU of the thread that the reads of the same
disk wake. There the worker, which to the scheduler has had its share, waits until that thread sleeps, or for
a tick once its slice is over (update_curr()). Having waited it has time to its credit, and preempts the
thread (entity_eligible()), until a write ends while that sleeps: the worker runs alone then, and has none
(update_entity_lag()).

    WOKE_NS, HAS_LAG    when the thread woke last, and whether the worker has credit
    KEEPS_NS, JIFFY_NS  the slice, 0 where the interrupt notes it or several threads run, and a tick

A page whose write is noted goes to the old end of the inactive list, so that reclaim meets it next:
folio_rotate_reclaimable() in mm/swap.c. Follows fs/iomap/direct-io.c and kernel/sched/fair.c, too, v6.18.
Differs from the kernel: the worker's own time uses up no credit, and nothing else has it run.
"""

import numpy as np

from kdtool.replay.generations import generation_list, set_generation
from kdtool.replay.lists import INACTIVE_LIST, push_oldest
from kdtool.replay.memory import (
    FLUSH_AT_NS,
    HAS_LAG,
    JIFFY_NS,
    KEEPS_NS,
    MGLRU,
    MIN_SEQ,
    NOW_NS,
    RECLAIM_KIND,
    WAITED_NS,
    WOKE_NS,
    WRITEBACK,
    WRITES_FIRST,
    WRITES_OUT,
    WRITES_SENT,
)
from kdtool.replay.slots import NO_PAGE
from kdtool.rmt.jit import inner

__all__ = ["complete_writes", "sleep"]


@inner
def _take_written(until_ns, memory):  # type: ignore[no-untyped-def]
    """Move the pages whose write has ended by a time to the oldest end of the inactive list."""
    scalars, marks, writes = memory[6], memory[8], memory[10]
    while scalars[WRITES_FIRST] < scalars[WRITES_SENT]:
        entry = scalars[WRITES_FIRST] % len(writes)
        if writes[entry, 1] > until_ns:
            break
        scalars[WRITES_FIRST] += 1
        scalars[WRITES_OUT] -= writes[entry, 2]
        page = writes[entry, 0]
        if page != NO_PAGE:
            marks[page] &= ~WRITEBACK
            which = np.int64(INACTIVE_LIST)
            if scalars[RECLAIM_KIND] == MGLRU:
                set_generation(page, scalars[MIN_SEQ], memory)
                which = generation_list(0, scalars[MIN_SEQ])
            push_oldest(which, page, memory)


@inner
def _tick_after(ns, scalars):  # type: ignore[no-untyped-def]
    """Return the first tick from a time on; statistics are brought up to date by a timer, at one."""
    at_ns = scalars[FLUSH_AT_NS]
    return at_ns - (at_ns - ns) // scalars[JIFFY_NS] * scalars[JIFFY_NS]


@inner
def _ended(until_ns, memory):  # type: ignore[no-untyped-def]
    """Tell whether the oldest write has ended by a time and is not noted yet."""
    scalars, writes = memory[6], memory[10]
    first = scalars[WRITES_FIRST]
    return first < scalars[WRITES_SENT] and writes[first % len(writes), 1] <= until_ns


@inner
def complete_writes(memory):  # type: ignore[no-untyped-def]
    """Note which writes have ended, as far as the kernel knows by now."""
    scalars, writes = memory[6], memory[10]
    now_ns = scalars[NOW_NS]
    if not _ended(now_ns, memory):
        return
    if scalars[KEEPS_NS] and not scalars[HAS_LAG]:
        ended_ns = writes[scalars[WRITES_FIRST] % len(writes), 1]
        free_ns = max(scalars[WOKE_NS] + scalars[KEEPS_NS], ended_ns)
        if _tick_after(free_ns, scalars) > now_ns:
            return
        scalars[HAS_LAG] = 1
    _take_written(now_ns, memory)


@inner
def sleep(now_ns, until_ns, memory):  # type: ignore[no-untyped-def]
    """Have the running thread wait, if that is to come: its CPU is the worker's meanwhile."""
    scalars = memory[6]
    if until_ns <= now_ns:
        return
    scalars[WAITED_NS] += until_ns - now_ns
    if not scalars[KEEPS_NS]:
        return
    scalars[WOKE_NS] = until_ns
    if _ended(now_ns, memory):
        scalars[HAS_LAG] = 1
        _take_written(now_ns, memory)
    if _ended(until_ns, memory):
        scalars[HAS_LAG] = 0
        _take_written(until_ns, memory)
