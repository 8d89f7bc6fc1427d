"""How memory gives pages up: one exact LRU, Linux's two lists of anonymous pages, or by a plan.

`linux` follows mm/vmscan.c, mm/swap.c, mm/workingset.c and mm/memcontrol.c of v6.18 (classic LRU, not
lru_gen) for one memory cgroup of version 1 at its limit with nothing but anonymous pages:

    a new page      newest of the inactive list, accessed bit set once it is mapped
    a swapped-in    the same; newest of the active list if as many pages were evicted or activated since its
    page            own eviction as are active now, or fewer: workingset_refault()
    reclaim         at least SWAP_CLUSTER_MAX pages at once, when one page more would pass the limit. Of each
                    list a 2**-priority part is scanned, times what get_scan_count() grants anonymous pages
                    beside file pages by their costs, more at each priority until enough are freed
    inactive, old   accessed: once back to the newest end, the second time activated; still being read:
                    back as well, it is locked; dirty: written first (writeout.py), freed when it comes
                    around; else freed: shrink_folio_list(), folio_check_references()
    active, old     to the inactive list with its accessed bit cleared, 32 at a time, while the inactive list
                    is the shorter or pages were activated since the last reclaim: shrink_active_list()
    statistics      both decisions, refault activation and deactivation, go by the cgroup's statistics, which
                    are up to date only every 2 s (liststats.py)

Differs from the kernel: up to 31 pages that just came wait in a CPU's batch before they are on a list, up to
63 pages of the limit may lie in a CPU's stock; file pages and the kernel's own memory are not there, so give
replay the limit without them. Where the kernel would call its OOM killer, the run waits for the device.
"""

import numpy as np

from kdtool.replay.lists import push_newest, unlink
from kdtool.replay.liststats import SWAP_CLUSTER_MAX, flush_stats, inactive_is_low, note_cost, update_stats
from kdtool.replay.memory import (
    ACCESSED,
    ACTIVATIONS,
    ACTIVE,
    ACTIVE_COUNT,
    AGE,
    ANON_COST,
    COUNT,
    DEVICE_FREE_NS,
    DIRTY,
    LINUX,
    LRU,
    NEXT_SLOT,
    NOW_NS,
    PREFETCHED,
    PREFETCHED_NOW,
    RECLAIM_KIND,
    RECLAIM_NS,
    RECLAIMED,
    REFERENCED,
    SKIPPED,
    SNAPSHOT_ACTIVATIONS,
    STAT_ACTIVATIONS,
    STAT_ACTIVE,
    SWAPPED,
    SYNCHRONOUS,
    UNMAPPED,
    VICTIM_AT,
    WAITED_NS,
    WASTED,
    WORKED_NS,
    WORKINGSET,
    WRITEBACK,
)
from kdtool.replay.slots import take_slot
from kdtool.replay.writeout import begin_write, complete_writes, drop_write, submit_writes, wait_for_write
from kdtool.rmt.jit import inline, inner

__all__ = ["add_page", "forget_page", "make_room", "touch"]

DEF_PRIORITY = 12
MAX_RECLAIM_RETRIES = 16
SWAPPINESS, MAX_SWAPPINESS = 60, 200
"""vm.swappiness as Linux ships it."""


@inline
def touch(page, store, memory):  # type: ignore[no-untyped-def]
    """Note an access to a mapped page: LRU order, or the bits that reclaim will see."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    if scalars[RECLAIM_KIND] == LINUX:
        marks[page] |= ACCESSED | store * DIRTY
        return
    end = links.shape[0] - 2
    if links[end, 0] != page:
        unlink(links, page)
        push_newest(links, end, page)


@inner
def add_page(page, mapped, dirty, memory):  # type: ignore[no-untyped-def]
    """Put a page that came into memory on its list; `mapped` pages have their accessed bit set."""
    links, scalars, marks, evicted_at = memory[2], memory[6], memory[8], memory[9]
    end = links.shape[0] - 2
    if scalars[RECLAIM_KIND] == LINUX:
        marks[page] = mapped * ACCESSED | dirty * DIRTY
        flush_stats(scalars)
        shadow = evicted_at[page]
        if shadow >= 0 and scalars[AGE] - (shadow >> 1) <= scalars[STAT_ACTIVE]:
            marks[page] |= ACTIVE
            scalars[ACTIVE_COUNT] += 1
            scalars[AGE] += 1
            scalars[ACTIVATIONS] += 1
            end += 1
            if shadow & 1:
                marks[page] |= WORKINGSET
                note_cost(np.int64(1), np.int64(0), scalars)
    push_newest(links, end, page)


@inner
def forget_page(page, memory):  # type: ignore[no-untyped-def]
    """Take a page in memory that the program unmapped out of it."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    if marks[page] & WRITEBACK:
        drop_write(page, memory)
    unlink(links, page)
    scalars[COUNT] -= 1
    if marks[page] & ACTIVE:
        scalars[ACTIVE_COUNT] -= 1
    marks[page] = 0


@inner
def make_room(capacity, memory, device):  # type: ignore[no-untyped-def]
    """Give up pages if memory is full, then take room for one page: try_charge_memcg()."""
    links, scalars = memory[2], memory[6]
    if scalars[COUNT] >= capacity:
        if scalars[RECLAIM_KIND] == LINUX:
            _reclaim(capacity, memory, device)
        elif scalars[RECLAIM_KIND] == LRU:
            _free(np.int64(links[links.shape[0] - 2, 1]), memory, device)
        else:
            _free(np.int64(memory[11][scalars[VICTIM_AT]]), memory, device)
            scalars[VICTIM_AT] += 1
    scalars[COUNT] += 1


@inner
def _work(ns, scalars):  # type: ignore[no-untyped-def]
    scalars[WORKED_NS] += ns
    scalars[NOW_NS] += ns


@inner
def _give_slot(page, memory):  # type: ignore[no-untyped-def]
    """Give the page a place on the device unless it has one."""
    clusters, slot, page_of_slot, scalars = memory[1], memory[3], memory[4], memory[6]
    if slot[page] < 0:
        taken, scalars[NEXT_SLOT] = take_slot(scalars[NEXT_SLOT], page_of_slot, clusters)
        slot[page] = taken
        page_of_slot[taken] = page


@inner
def _free(page, memory, device):  # type: ignore[no-untyped-def]
    """Take a page that is on the device, or goes there at once, out of memory, and remember when."""
    status, links, scalars, counters, marks = memory[0], memory[2], memory[6], memory[7], memory[8]
    unlink(links, page)
    scalars[COUNT] -= 1
    counters[RECLAIMED] += 1
    if status[page] != UNMAPPED:  # else it was paid for when it was written
        _work(device[RECLAIM_NS], scalars)
    if status[page] == PREFETCHED:
        counters[WASTED] += 1
        scalars[PREFETCHED_NOW] -= 1
    _give_slot(page, memory)
    status[page] = SWAPPED
    memory[9][page] = scalars[AGE] << 1 | (marks[page] & WORKINGSET != 0)
    scalars[AGE] += 1
    marks[page] = 0


@inner
def _spare(page, memory):  # type: ignore[no-untyped-def]
    """Put an accessed inactive page back, or on the active list if it was found accessed before."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    end = links.shape[0] - 2
    unlink(links, page)
    if marks[page] & REFERENCED:
        marks[page] |= ACTIVE
        scalars[ACTIVE_COUNT] += 1
        scalars[AGE] += 1
        end += 1
    marks[page] = marks[page] & ~ACCESSED | REFERENCED
    push_newest(links, end, page)


@inner
def _shrink_inactive_list(n_pages, memory, device):  # type: ignore[no-untyped-def]
    """Look at the `n_pages` oldest inactive pages; return how many were freed."""
    status, links, ready_ns, scalars, marks = memory[0], memory[2], memory[5], memory[6], memory[8]
    inactive = links.shape[0] - 2
    scanned, written, freed = 0, 0, 0
    complete_writes(memory)
    for _ in range(n_pages):
        page = np.int64(links[inactive, 1])
        if page == inactive:
            break  # the page being faulted in is counted already and on no list yet
        scanned += 1
        if marks[page] & WRITEBACK:
            wait_for_write(page, memory, device)
        if status[page] == PREFETCHED and ready_ns[page] > scalars[NOW_NS]:
            unlink(links, page)
            push_newest(links, inactive, page)
        elif marks[page] & ACCESSED:
            _spare(page, memory)
        elif marks[page] & DIRTY and not device[SYNCHRONOUS]:
            marks[page] &= ~REFERENCED
            status[page] = UNMAPPED
            _give_slot(page, memory)
            _work(device[RECLAIM_NS], scalars)
            begin_write(page, memory)
            written += 1
        else:
            _free(page, memory, device)
            freed += 1
    note_cost(written, scanned - freed, scalars)
    return freed


@inner
def _shrink_active_list(n_pages, memory):  # type: ignore[no-untyped-def]
    """Deactivate the `n_pages` oldest active pages."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    inactive = links.shape[0] - 2
    for _ in range(min(n_pages, scalars[ACTIVE_COUNT])):
        page = np.int64(links[inactive + 1, 1])
        unlink(links, page)
        scalars[ACTIVE_COUNT] -= 1
        marks[page] = marks[page] & (REFERENCED | DIRTY) | WORKINGSET
        push_newest(links, inactive, page)


@inner
def _scan_target(pages, priority, scalars):  # type: ignore[no-untyped-def]
    """Return how many of a list's `pages` are to be scanned: get_scan_count(), without file pages."""
    if priority == 0:
        return pages
    total = scalars[ANON_COST]
    anon = SWAPPINESS * (3 * total + 1) // (2 * total + 1)
    file = (MAX_SWAPPINESS - SWAPPINESS) * (3 * total + 1) // (total + 1)
    return (pages >> priority) * anon // (anon + file)


@inner
def _shrink_lruvec(priority, force, memory, device):  # type: ignore[no-untyped-def]
    """Scan a part of both lists, 32 pages at a time, until enough is freed; return it."""
    scalars = memory[6]
    flush_stats(scalars)
    activated = scalars[STAT_ACTIVATIONS] != scalars[SNAPSHOT_ACTIVATIONS]
    deactivate = force or activated or inactive_is_low(scalars)
    inactive = _scan_target(scalars[COUNT] - scalars[ACTIVE_COUNT], priority, scalars)
    active = _scan_target(scalars[ACTIVE_COUNT], priority, scalars)
    freed = 0
    while inactive and freed < SWAP_CLUSTER_MAX:
        n_pages = min(inactive, SWAP_CLUSTER_MAX)
        inactive -= n_pages
        freed += _shrink_inactive_list(n_pages, memory, device)
        n_pages = min(active, SWAP_CLUSTER_MAX)
        active -= n_pages
        if deactivate:
            _shrink_active_list(n_pages, memory)
        elif n_pages:
            scalars[SKIPPED] = 1
    submit_writes(memory, device)
    flush_stats(scalars)
    if inactive_is_low(scalars):
        _shrink_active_list(np.int64(SWAP_CLUSTER_MAX), memory)
    return freed


@inner
def _try_to_free_pages(memory, device):  # type: ignore[no-untyped-def]
    """Scan more and more until SWAP_CLUSTER_MAX pages are freed; return how many: do_try_to_free_pages()."""
    scalars = memory[6]
    freed = 0
    for force in range(2):
        scalars[SKIPPED] = 0
        for above in range(DEF_PRIORITY + 1):
            if freed >= SWAP_CLUSTER_MAX:
                break
            freed += _shrink_lruvec(DEF_PRIORITY - above, force, memory, device)
        scalars[SNAPSHOT_ACTIVATIONS] = scalars[STAT_ACTIVATIONS]
        if freed or not scalars[SKIPPED]:
            break
    return freed


@inner
def _reclaim(capacity, memory, device):  # type: ignore[no-untyped-def]
    """Free pages until there is room for one."""
    scalars = memory[6]
    vain = 0
    while scalars[COUNT] >= capacity:
        vain = 0 if _try_to_free_pages(memory, device) else vain + 1
        if vain > MAX_RECLAIM_RETRIES:
            # The kernel would kill now. What is locked is being read, and no read takes longer than this.
            wait_ns = max(scalars[DEVICE_FREE_NS] - scalars[NOW_NS], 0)
            scalars[WAITED_NS] += wait_ns
            scalars[NOW_NS] += wait_ns
            update_stats(scalars)
