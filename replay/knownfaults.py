"""The faults of an LRU where nothing is read ahead: they are known before, and hits need not be looked at.

lrupass.py finds their rows and which pages go for them. What happens at a cold and at a major fault is what
engine.py does there; with no list and no policy the clocks stay in registers.

    faults           the rows, rising, ended by one that is no earlier than the last that is asked for
    memory's victims the pages that go, one a fault from when memory is full, from VICTIM_AT on
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.clocks import switch_thread
from kdtool.replay.evict import give_slot
from kdtool.replay.memory import (
    AT_ROW,
    COLD,
    COLD_NS,
    COUNT,
    DECISIONS,
    INSN_PS,
    MAJOR,
    NEVER,
    NOW_NS,
    POLLUTION,
    RECLAIM_NS,
    RECLAIMED,
    RESIDENT,
    SWAP_MISSED,
    SWAPPED,
    SYNCHRONOUS,
    VICTIM_AT,
    WAITED_NS,
    WORKED_NS,
    WRITEOUT_NS,
)
from kdtool.replay.slots import free_slot
from kdtool.replay.zeropages import holds_zeros, major_ns
from kdtool.rmt.jit import inner

__all__ = ["known_faults"]

FAR_FAULTS, NEAR_FAULTS = 48, 16
"""How many faults ahead rows are asked for, and, once they have come, records of pages."""


@inner
def _look_ahead(at, gone, faults, trace, memory):  # type: ignore[no-untyped-def]
    """Have on their way what the faults to come need, and the pages that go for them."""
    page, victims = trace[0], memory[11]
    if at + FAR_FAULTS < len(faults) - 1:
        far = np.int64(faults[at + FAR_FAULTS])
        prefetch_line(page, far)
        prefetch_line(trace[1], far)
        prefetch_line(trace[2], far)
        prefetch_line(memory[0], np.int64(page[np.int64(faults[at + NEAR_FAULTS])]))
    if gone + NEAR_FAULTS < len(victims):
        prefetch_line(memory[0], np.int64(victims[gone + NEAR_FAULTS]))


@inner
def known_faults(at, end, capacity, trace, memory, device, faults, missed, shadow_missed):  # type: ignore[no-untyped-def]
    """Handle the faults from the `at`th on that come before row `end`; return how many.

    capacity : pages
    missed, shadow_missed : see engine.py
    """
    status, slot, scalars, counters, victims = memory[0], memory[3], memory[6], memory[7], memory[11]
    first, first_gone, major, gone = at, scalars[VICTIM_AT], 0, scalars[VICTIM_AT]
    held, waited, worked = scalars[COUNT], scalars[WAITED_NS], scalars[WORKED_NS]
    threads = len(memory[14])
    while faults[at] < end:
        _look_ahead(at, gone, faults, trace, memory)
        row = np.int64(faults[at])
        page = np.int64(trace[0][row])
        at += 1
        scalars[AT_ROW] = row
        if threads > 1:
            scalars[WAITED_NS], scalars[WORKED_NS] = waited, worked
            switch_thread(np.int64(trace[3][row]), memory)
            waited, worked = scalars[WAITED_NS], scalars[WORKED_NS]
        compute_ns = trace[1][row] * device[INSN_PS] // 1000
        if held < capacity:
            held += 1
        else:
            victim = np.int64(victims[gone])
            gone += 1
            worked += device[RECLAIM_NS]
            if give_slot(victim, memory) and not holds_zeros(victim, memory):
                worked += device[WRITEOUT_NS]
            status[victim] = SWAPPED
        scalars[NOW_NS] = compute_ns + waited + worked
        if status[page] == NEVER:
            worked += device[COLD_NS]
        else:
            major += 1
            missed[row] = SWAP_MISSED
            if len(shadow_missed) and not shadow_missed[row]:
                counters[POLLUTION] += 1
            worked += major_ns(page, memory, device)
            now_ns = compute_ns + waited + worked
            if not holds_zeros(page, memory):
                waited += max(submit_io(slot[page], now_ns, scalars, device) - now_ns, 0)
            if trace[2][row] or device[SYNCHRONOUS]:
                free_slot(page, slot, memory[4], memory[1])
        status[page] = RESIDENT
    scalars[COUNT], scalars[WAITED_NS], scalars[WORKED_NS] = held, waited, worked
    scalars[VICTIM_AT] = gone
    counters[RECLAIMED] += gone - first_gone
    counters[COLD] += at - first - major
    counters[MAJOR] += major
    counters[DECISIONS] += major
    return at - first
