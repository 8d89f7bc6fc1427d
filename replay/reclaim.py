"""How memory takes pages in and gives them up: one exact LRU, Linux's lists or generations, or by a plan.

`linux` follows mm/vmscan.c, mm/swap.c, mm/workingset.c and mm/memcontrol.c of v6.18 (classic LRU, not
lru_gen) for one memory cgroup of version 1 at its limit:

    a new page      newest of the inactive list of its kind, accessed bit set once it is mapped
    one that comes  the same; newest of the active list if as many pages were evicted or activated since its
    back            own eviction as are active now or, of the other kind, on any list, or fewer:
                    workingset_refault()
    reclaim         SWAP_CLUSTER_MAX pages or more, when one page more would pass the limit: shrink.py
    statistics      both decisions, refault activation and deactivation, go by the cgroup's statistics, which
                    are up to date only every 2 s (liststats.py)

Differs from the kernel: up to 31 pages that just came wait in a CPU's batch before they are on a list, up to
63 pages of the limit may lie in the stock of a CPU on which nothing runs (charges.py); the kernel's own
memory is not there, nor file pages that the trace does not have, so give replay the limit without them.
Where the kernel would call its OOM killer, the run waits for the device.
"""

import numpy as np

from kdtool.replay.charges import charge, is_full
from kdtool.replay.evict import evict
from kdtool.replay.generations import add_generation, leave_generation
from kdtool.replay.lists import ACTIVE_LIST, INACTIVE_LIST, oldest, push_newest, unlink
from kdtool.replay.liststats import flush_stats, note_cost, update_stats
from kdtool.replay.memory import (
    ACCESSED,
    ACTIVATIONS,
    ACTIVE,
    ACTIVE_COUNT,
    AGE,
    AGENT_NS,
    COUNT,
    DEVICE_FREE_NS,
    DIRTY,
    FILE_COUNT,
    FILE_REFAULTS,
    FIRST_FILE,
    HAS_BITS,
    LRU,
    MGLRU,
    MOST_AGE,
    NOW_NS,
    OOM_KILLS,
    RECLAIM_KIND,
    STAT_ACTIVE,
    STAT_FILE_ACTIVE,
    STAT_FILE_INACTIVE,
    STAT_INACTIVE,
    VICTIM_AT,
    WORKINGSET,
    WRITEBACK,
    WRITES_END,
    WRITES_FIRST,
)
from kdtool.replay.mglru import age_and_evict
from kdtool.replay.plug import send_writes
from kdtool.replay.shrink import try_to_free_pages
from kdtool.replay.streams import COPIES
from kdtool.replay.writeends import sleep
from kdtool.replay.writeout import drop_write
from kdtool.rmt.jit import inline, inner

__all__ = [
    "add_page",
    "forget_page",
    "free_batch",
    "leave_copied",
    "make_room",
    "note_toucher",
    "touch",
    "try_room",
]

MAX_RECLAIM_RETRIES = 16


@inner
def touch(page, store, memory):  # type: ignore[no-untyped-def]
    """Note an access to a mapped page: LRU order, or the bits that reclaim will see."""
    if memory[6][RECLAIM_KIND] & HAS_BITS:
        memory[8][page] |= ACCESSED | store * DIRTY
    elif memory[6][RECLAIM_KIND] == LRU:
        push_newest(INACTIVE_LIST, page, memory)


@inner
def _bit_of(row, trace):  # type: ignore[no-untyped-def]
    """Return the bit of a row's process in memory's touchers; the 17th process has that of the first."""
    return np.uint16(1 << (trace[21][trace[3][row]] & 15))


@inner
def note_toucher(row, page, trace, memory):  # type: ignore[no-untyped-def]
    """Note whose PTE will have the accessed bit of a page, before it is touched."""
    others = memory[15][page] if memory[8][page] & ACCESSED else np.uint16(0)
    memory[15][page] = others | _bit_of(row, trace)


@inner
def leave_copied(row, page, trace, memory):  # type: ignore[no-untyped-def]
    """Take back the accessed bit of a process that copies a page: its PTE is the copy's, wp_page_copy()."""
    if trace[14][row] & COPIES:
        memory[15][page] &= ~_bit_of(row, trace)
        if not memory[15][page]:
            memory[8][page] &= ~ACCESSED


@inner
def _workingset_pages(file, scalars):  # type: ignore[no-untyped-def]
    """Return within how many evictions a page that comes back is active: workingset_test_recent()."""
    if file:
        return scalars[STAT_FILE_ACTIVE] + scalars[STAT_ACTIVE] + scalars[STAT_INACTIVE]
    return scalars[STAT_ACTIVE] + scalars[STAT_FILE_ACTIVE] + scalars[STAT_FILE_INACTIVE]


@inline
def add_page(page, mapped, dirty, memory):  # type: ignore[no-untyped-def]
    """Put a page that came into memory on its list; `mapped` pages have their accessed bit set."""
    scalars, shadow = memory[6], memory[9][page]
    file = np.int64(page >= scalars[FIRST_FILE])
    scalars[FILE_COUNT] += file
    memory[7][FILE_REFAULTS] += file and shadow >= 0
    if scalars[RECLAIM_KIND] & HAS_BITS:
        memory[8][page] = mapped * ACCESSED | dirty * DIRTY
        if scalars[RECLAIM_KIND] == MGLRU:
            add_generation(page, memory)
        else:
            push_newest(_list_of_new(page, file, np.int64(shadow), memory), page, memory)
    elif scalars[RECLAIM_KIND] == LRU:
        push_newest(INACTIVE_LIST, page, memory)


@inner
def _list_of_new(page, file, shadow, memory):  # type: ignore[no-untyped-def]
    """Return the list for a page that came into memory, noted as active if it was evicted but lately."""
    scalars, marks = memory[6], memory[8]
    flush_stats(scalars)
    if shadow < 0 or (scalars[AGE] - (shadow >> 1)) & MOST_AGE > _workingset_pages(file, scalars):
        return 2 * file + INACTIVE_LIST
    marks[page] |= ACTIVE
    scalars[ACTIVE_COUNT + file] += 1
    scalars[AGE] += 1
    scalars[ACTIVATIONS + file] += 1
    if shadow & 1:
        marks[page] |= WORKINGSET
        note_cost(file, np.int64(1), np.int64(0), scalars)
    return 2 * file + ACTIVE_LIST


@inner
def forget_page(page, memory):  # type: ignore[no-untyped-def]
    """Take an anonymous page in memory that the program unmapped out of it."""
    scalars, marks = memory[6], memory[8]
    if marks[page] & WRITEBACK:
        drop_write(page, memory)
    unlink(page, memory)
    scalars[COUNT] -= 1
    if scalars[RECLAIM_KIND] == MGLRU:
        leave_generation(page, memory)
    if marks[page] & ACTIVE:
        scalars[ACTIVE_COUNT] -= 1
    marks[page] = 0


@inner
def _take_victim(memory):  # type: ignore[no-untyped-def]
    """Return the next page to go: the oldest, or what the plan says."""
    scalars = memory[6]
    if scalars[RECLAIM_KIND] == LRU:
        return oldest(INACTIVE_LIST, memory)
    page = np.int64(memory[11][scalars[VICTIM_AT]])
    scalars[VICTIM_AT] += 1
    return page


@inner
def make_room(capacity, memory, device):  # type: ignore[no-untyped-def]
    """Give up pages if memory is full, then take room for one page: try_charge_memcg()."""
    scalars = memory[6]
    if is_full(capacity, scalars):
        if scalars[RECLAIM_KIND] & HAS_BITS:
            _reclaim(capacity, memory, device)
        else:
            evict(_take_victim(memory), memory, device)
    if device[AGENT_NS]:
        charge(capacity, scalars)
    else:
        scalars[COUNT] += 1


@inner
def try_room(capacity, memory, device):  # type: ignore[no-untyped-def]
    """Take room for a page that nobody waits for, or return False: try_charge_memcg() with __GFP_NORETRY."""
    scalars = memory[6]
    if scalars[RECLAIM_KIND] & HAS_BITS and is_full(capacity, scalars):
        _free_some(memory, device)
        if is_full(capacity, scalars):
            return False
    make_room(capacity, memory, device)
    return True


@inner
def _free_some(memory, device):  # type: ignore[no-untyped-def]
    """Free SWAP_CLUSTER_MAX pages if that can be; return how many: try_to_free_mem_cgroup_pages()."""
    if memory[6][RECLAIM_KIND] == MGLRU:
        return age_and_evict(memory, device)
    return try_to_free_pages(memory, device)


@inner
def free_batch(memory, device):  # type: ignore[no-untyped-def]
    """Free some pages that nobody needs yet, and return how many: a turn of mem_cgroup_resize_max()."""
    if memory[6][RECLAIM_KIND] & HAS_BITS:
        return _free_some(memory, device)
    evict(_take_victim(memory), memory, device)
    return np.int64(1)


@inner
def _reclaim(capacity, memory, device):  # type: ignore[no-untyped-def]
    """Free pages until there is room for one."""
    scalars = memory[6]
    vain = 0
    while is_full(capacity, scalars):
        vain = 0 if _free_some(memory, device) else vain + 1
        if vain > MAX_RECLAIM_RETRIES:
            # The kernel kills now; lru_gen perhaps not while all is being written, for its scans take time.
            # What is locked is being read, and no read takes longer than this.
            unwritten = scalars[WRITES_FIRST] < scalars[WRITES_END]
            memory[7][OOM_KILLS] += not (unwritten and scalars[RECLAIM_KIND] == MGLRU)
            send_writes(memory, device)
            sleep(scalars[NOW_NS], scalars[DEVICE_FREE_NS], memory)
            scalars[NOW_NS] = max(scalars[NOW_NS], scalars[DEVICE_FREE_NS])
            update_stats(scalars)
