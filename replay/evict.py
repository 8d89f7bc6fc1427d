"""How one page leaves memory, whatever chose it: to its place on the swap device, or back to its file.

Follows __remove_mapping() in mm/vmscan.c and workingset_eviction() in mm/workingset.c, v6.18.
"""

from kdtool.replay.generations import note_eviction
from kdtool.replay.lists import unlink
from kdtool.replay.memory import (
    AGE,
    COUNT,
    FILE_COUNT,
    FILE_OUT,
    FIRST_FILE,
    MGLRU,
    MOST_AGE,
    NEXT_SLOT,
    NOW_NS,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    RECLAIM_KIND,
    RECLAIM_NS,
    RECLAIMED,
    SHOOTDOWN_NS,
    SWAPPED,
    UNMAPPED,
    WASTED,
    WORKED_NS,
    WORKINGSET,
    WRITEOUT_NS,
    WRITTEN,
)
from kdtool.replay.slots import take_slot
from kdtool.replay.zeropages import holds_zeros
from kdtool.rmt.jit import inline, inner

__all__ = ["evict", "give_slot", "work"]


@inner
def work(ns, scalars):  # type: ignore[no-untyped-def]
    """Let the kernel work for `ns`."""
    scalars[WORKED_NS] += ns
    scalars[NOW_NS] += ns


@inline
def give_slot(page, memory):  # type: ignore[no-untyped-def]
    """Give the page a place on the device unless it has one; return whether it had none."""
    if memory[3][page] < 0:
        _give_new_slot(page, memory)
        return True
    return False


@inner
def _give_new_slot(page, memory):  # type: ignore[no-untyped-def]
    clusters, slot, page_of_slot, scalars = memory[1], memory[3], memory[4], memory[6]
    taken, scalars[NEXT_SLOT] = take_slot(scalars[NEXT_SLOT], page_of_slot, clusters)
    slot[page] = taken
    page_of_slot[taken] = page


@inner
def evict(page, memory, device):  # type: ignore[no-untyped-def]
    """Take a page off its list and out of memory, on the device already or at once, and remember when."""
    status, scalars, counters, marks = memory[0], memory[6], memory[7], memory[8]
    unlink(page, memory)
    scalars[COUNT] -= 1
    counters[RECLAIMED] += 1
    if status[page] != UNMAPPED:  # else it was paid for when it was written
        work(device[RECLAIM_NS], scalars)
    if status[page] in (PREFETCHED, UNMAPPED) and marks[page] & PREDICTED:
        counters[WASTED] += 1
        scalars[PREFETCHED_NOW] -= 1
    if page < scalars[FIRST_FILE]:
        if give_slot(page, memory) and not holds_zeros(page, memory):
            work(device[WRITEOUT_NS] + scalars[SHOOTDOWN_NS], scalars)
            counters[WRITTEN] += 1
        status[page] = SWAPPED
    else:
        scalars[FILE_COUNT] -= 1
        status[page] = FILE_OUT
    if scalars[RECLAIM_KIND] == MGLRU:
        memory[9][page] = note_eviction(page, memory)
    else:
        memory[9][page] = (scalars[AGE] & MOST_AGE) << 1 | (marks[page] & WORKINGSET != 0)
        scalars[AGE] += 1
    marks[page] = 0
