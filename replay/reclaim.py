"""How memory gives pages up: one exact LRU, Linux's two lists of anonymous pages, or by a plan.

`linux` follows mm/vmscan.c, mm/swap.c and mm/workingset.c of v6.18 (classic LRU, not lru_gen) for one memory
cgroup at its limit with nothing but anonymous pages:

    a new page      newest of the inactive list, accessed bit set once it is mapped
    a swapped-in    the same; newest of the active list if as many pages were evicted or activated since its
    page            own eviction as are active now, or fewer: workingset_refault()
    reclaim         at least SWAP_CLUSTER_MAX pages at once, when one page more would pass the limit
    inactive, old   accessed: once back to the newest end, the second time activated; still being read:
                    back as well, it is locked; else evicted: shrink_folio_list(), folio_check_references()
    active, old     to the inactive list with its accessed bit cleared, 32 at a time, while the inactive list
                    is the shorter or pages were activated since the last reclaim: shrink_active_list()
    statistics      both decisions, refault activation and deactivation, go by the cgroup's statistics, which
                    are up to date only every 2 s: lruvec_page_state(), flush_memcg_stats_dwork()

Differs from the kernel: write-out ends at once, where the kernel keeps a dirty page on the list until its
write has ended; file pages and the kernel's own memory are not there, so give replay the limit without them.
"""

from kdtool.replay.memory import (
    ACTIVATIONS,
    ACTIVE_COUNT,
    AGE,
    COUNT,
    FLUSH_AT_NS,
    FLUSH_PERIOD_NS,
    LINUX,
    LRU,
    NEXT_SLOT,
    NOW_NS,
    PREFETCHED,
    PREFETCHED_NOW,
    RECLAIM_KIND,
    RECLAIM_NS,
    RECLAIMED,
    SNAPSHOT_ACTIVATIONS,
    STAT_ACTIVATIONS,
    STAT_ACTIVE,
    STAT_INACTIVE,
    SWAPPED,
    VICTIM_AT,
    WASTED,
    WORKED_NS,
)
from kdtool.replay.slots import take_slot
from kdtool.rmt.jit import jit

__all__ = ["add_page", "forget_page", "make_room", "touch"]

ACCESSED, REFERENCED, ACTIVE = 1, 2, 4
"""Bits of Memory.marks: the PTE's accessed bit, PG_referenced and PG_active."""

SWAP_CLUSTER_MAX = 32
DEF_PRIORITY = 12
MAX_RECLAIM_RETRIES = 16


@jit(inline="always")
def _push_newest(links, end, page):  # type: ignore[no-untyped-def]
    newest = links[end, 0]
    links[page, 0] = newest
    links[page, 1] = end
    links[newest, 1] = page
    links[end, 0] = page


@jit(inline="always")
def _unlink(links, page):  # type: ignore[no-untyped-def]
    older, newer = links[page, 0], links[page, 1]
    links[older, 1] = newer
    links[newer, 0] = older


@jit(inline="always")
def touch(page, memory):  # type: ignore[no-untyped-def]
    """Note an access to a resident page: LRU order, or the accessed bit that reclaim will see."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    if scalars[RECLAIM_KIND] == LINUX:
        marks[page] |= ACCESSED
        return
    end = links.shape[0] - 2
    if links[end, 0] != page:
        _unlink(links, page)
        _push_newest(links, end, page)


@jit(inline="always")
def _update_stats(scalars):  # type: ignore[no-untyped-def]
    scalars[STAT_ACTIVE] = scalars[ACTIVE_COUNT]
    scalars[STAT_INACTIVE] = scalars[COUNT] - scalars[ACTIVE_COUNT]
    scalars[STAT_ACTIVATIONS] = scalars[ACTIVATIONS]


@jit(inline="always")
def _flush_stats(scalars):  # type: ignore[no-untyped-def]
    """Bring the statistics up to date if it is time."""
    if scalars[NOW_NS] >= scalars[FLUSH_AT_NS]:
        if scalars[FLUSH_PERIOD_NS]:
            behind = scalars[NOW_NS] - scalars[FLUSH_AT_NS]
            scalars[FLUSH_AT_NS] += (behind // scalars[FLUSH_PERIOD_NS] + 1) * scalars[FLUSH_PERIOD_NS]
        _update_stats(scalars)


@jit(inline="always")
def add_page(page, mapped, memory):  # type: ignore[no-untyped-def]
    """Put a page that came into memory on its list; `mapped` pages have their accessed bit set."""
    links, scalars, marks, evicted_at = memory[2], memory[6], memory[8], memory[9]
    end = links.shape[0] - 2
    if scalars[RECLAIM_KIND] == LINUX:
        marks[page] = ACCESSED if mapped else 0
        _flush_stats(scalars)
        if evicted_at[page] >= 0 and scalars[AGE] - evicted_at[page] <= scalars[STAT_ACTIVE]:
            marks[page] |= ACTIVE
            scalars[ACTIVE_COUNT] += 1
            scalars[AGE] += 1
            scalars[ACTIVATIONS] += 1
            end += 1
    _push_newest(links, end, page)


@jit(inline="always")
def forget_page(page, memory):  # type: ignore[no-untyped-def]
    """Take a resident page that was unmapped out of memory."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    _unlink(links, page)
    scalars[COUNT] -= 1
    if marks[page] & ACTIVE:
        scalars[ACTIVE_COUNT] -= 1
    marks[page] = 0


@jit(inline="always")
def make_room(capacity, memory, device):  # type: ignore[no-untyped-def]
    """Give up pages if memory is full, then take room for one page."""
    links, scalars = memory[2], memory[6]
    if scalars[COUNT] >= capacity:
        if scalars[RECLAIM_KIND] == LINUX:
            _try_to_free_pages(memory, device)
        elif scalars[RECLAIM_KIND] == LRU:
            _evict(links[links.shape[0] - 2, 1], memory, device)
        else:
            _evict(memory[10][scalars[VICTIM_AT]], memory, device)
            scalars[VICTIM_AT] += 1
    scalars[COUNT] += 1


@jit(inline="always")
def _evict(page, memory, device):  # type: ignore[no-untyped-def]
    """Unmap a page, give it a slot unless it has one, and remember when."""
    status, clusters, links, slot, page_of_slot, _, scalars, counters, marks, evicted_at, _ = memory
    _unlink(links, page)
    scalars[COUNT] -= 1
    scalars[WORKED_NS] += device[RECLAIM_NS]
    counters[RECLAIMED] += 1
    if status[page] == PREFETCHED:
        counters[WASTED] += 1
        scalars[PREFETCHED_NOW] -= 1
    if slot[page] < 0:
        taken, scalars[NEXT_SLOT] = take_slot(scalars[NEXT_SLOT], page_of_slot, clusters)
        slot[page] = taken
        page_of_slot[taken] = page
    status[page] = SWAPPED
    marks[page] = 0
    evicted_at[page] = scalars[AGE]
    scalars[AGE] += 1


@jit()
def _shrink_inactive_list(n_pages, spare_locked, memory, device):  # type: ignore[no-untyped-def]
    """Look at the `n_pages` oldest inactive pages; return how many were evicted."""
    status, links, ready_ns, scalars, marks = memory[0], memory[2], memory[5], memory[6], memory[8]
    inactive = links.shape[0] - 2
    evicted = 0
    for _ in range(n_pages):
        page = links[inactive, 1]
        if page == inactive:
            break  # the page being faulted in is counted already and on no list yet
        locked = spare_locked and status[page] == PREFETCHED and ready_ns[page] > scalars[NOW_NS]
        if not marks[page] & ACCESSED and not locked:
            _evict(page, memory, device)
            evicted += 1
            continue
        _unlink(links, page)
        if locked:
            _push_newest(links, inactive, page)
        elif marks[page] & REFERENCED:
            marks[page] = REFERENCED | ACTIVE
            scalars[ACTIVE_COUNT] += 1
            scalars[AGE] += 1
            _push_newest(links, inactive + 1, page)
        else:
            marks[page] = REFERENCED
            _push_newest(links, inactive, page)
    return evicted


@jit()
def _shrink_active_list(n_pages, memory):  # type: ignore[no-untyped-def]
    """Deactivate the `n_pages` oldest active pages."""
    links, scalars, marks = memory[2], memory[6], memory[8]
    inactive = links.shape[0] - 2
    for _ in range(min(n_pages, scalars[ACTIVE_COUNT])):
        page = links[inactive + 1, 1]
        _unlink(links, page)
        scalars[ACTIVE_COUNT] -= 1
        marks[page] &= REFERENCED
        _push_newest(links, inactive, page)


@jit()
def _shrink_lruvec(priority, spare_locked, memory, device):  # type: ignore[no-untyped-def]
    """Scan a 2**-priority part of both lists, 32 pages at a time, until enough is evicted; return it."""
    scalars = memory[6]
    active = scalars[ACTIVE_COUNT]
    inactive = scalars[COUNT] - active
    _flush_stats(scalars)
    activated = scalars[STAT_ACTIVATIONS] != scalars[SNAPSHOT_ACTIVATIONS]
    deactivate = activated or scalars[STAT_INACTIVE] < scalars[STAT_ACTIVE]
    inactive >>= priority
    active = active >> priority if deactivate else 0
    evicted = 0
    while (inactive or active) and evicted < SWAP_CLUSTER_MAX:
        n_pages = min(inactive, SWAP_CLUSTER_MAX, scalars[COUNT] - scalars[ACTIVE_COUNT])
        evicted += _shrink_inactive_list(n_pages, spare_locked, memory, device)
        _shrink_active_list(min(active, SWAP_CLUSTER_MAX), memory)
        inactive -= min(inactive, SWAP_CLUSTER_MAX)
        active -= min(active, SWAP_CLUSTER_MAX)
    _flush_stats(scalars)
    if scalars[STAT_INACTIVE] < scalars[STAT_ACTIVE]:
        _shrink_active_list(SWAP_CLUSTER_MAX, memory)
    return evicted


@jit()
def _try_to_free_pages(memory, device):  # type: ignore[no-untyped-def]
    """Scan more and more until SWAP_CLUSTER_MAX pages, or at least one of all of them, are evicted.

    Where nothing but locked or active pages is left and the statistics are too old to say so, the kernel
    calls its OOM killer. Here the statistics are brought up to date and locked pages go: a run goes on.
    """
    scalars = memory[6]
    evicted = 0
    priority = DEF_PRIORITY
    while evicted < SWAP_CLUSTER_MAX and (priority >= 0 or not evicted):
        if priority == -MAX_RECLAIM_RETRIES:
            _update_stats(scalars)
        evicted += _shrink_lruvec(max(priority, 0), priority > -MAX_RECLAIM_RETRIES, memory, device)
        priority -= 1
    scalars[SNAPSHOT_ACTIVATIONS] = scalars[STAT_ACTIVATIONS]
