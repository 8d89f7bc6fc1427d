"""How Linux's lists give pages up: a part of each is scanned, more and more, until enough are freed.

Follows mm/vmscan.c of v6.18 (classic LRU, not lru_gen) for one memory cgroup of version 1 at its limit:

    how much        of each list a 2**-priority part, times what get_scan_count() grants anonymous pages
                    beside file pages by their costs; of file pages alone while their inactive list is long
                    enough and none was activated of late (cache_trim_mode). Once SWAP_CLUSTER_MAX are freed,
                    no more of the kind with the less to scan, and of the other in proportion
    inactive, old   accessed: once back to the newest end, the second time activated, executable code and what
                    several processes have accessed the first time; still being read: back as well, it is
                    locked; dirty: written first (writeout.py), freed when it comes around; else freed, and so
                    is what holds zeros, without a write: shrink_folio_list(), folio_check_references()
    active, old     to the inactive list with its accessed bit cleared, 32 at a time, while the inactive list
                    is the shorter or pages were activated since the last reclaim; executable code that was
                    accessed stays: shrink_active_list()

Differs from the kernel: a dirty page of a file is activated, as there, and written at once, where the kernel
wakes its flusher.
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.evict import evict, give_slot, work
from kdtool.replay.lists import ACTIVE_LIST, INACTIVE_LIST, NO_PAGE, oldest, push_newest, upcoming
from kdtool.replay.liststats import SWAP_CLUSTER_MAX, flush_stats, inactive_is_low, note_cost
from kdtool.replay.memory import (
    ACCESSED,
    ACTIVE,
    ACTIVE_COUNT,
    AGE,
    ANON_COST,
    COUNT,
    DIRTY,
    EXECUTABLE,
    FILE_COST,
    FILE_COUNT,
    FILE_IN,
    NOW_NS,
    PREDICTED,
    PREFETCHED,
    READAHEAD,
    RECLAIM_NS,
    REFERENCED,
    RESIDENT,
    SCAN_LEFT,
    SCAN_TARGET,
    SHOOTDOWN_NS,
    SKIPPED,
    SNAPSHOT_ACTIVATIONS,
    SNAPSHOT_FILE_ACTIVATIONS,
    STAT_ACTIVATIONS,
    STAT_FILE_ACTIVATIONS,
    STAT_FILE_INACTIVE,
    SYNCHRONOUS,
    UNMAPPED,
    WORKINGSET,
    WRITEBACK,
    WRITEOUT_NS,
)
from kdtool.replay.plug import finish_reclaim
from kdtool.replay.writeends import complete_writes
from kdtool.replay.writeout import begin_write, wait_for_write
from kdtool.replay.zeropages import holds_zeros
from kdtool.rmt.jit import inner

__all__ = ["activate", "try_to_free_pages"]

DEF_PRIORITY = 12
SWAPPINESS, MAX_SWAPPINESS = 60, 200
"""vm.swappiness as Linux ships it."""

READ_AHEAD = 12
"""How many places ahead of a scan it is asked when a page that was read ahead was there."""

ANON, FILE = 0, 1
INACTIVE_ANON, ACTIVE_ANON, INACTIVE_FILE, ACTIVE_FILE, N_LISTS = range(5)
"""enum lru_list: a kind's lists are 2 * kind and 2 * kind + 1."""


@inner
def activate(page, file, memory):  # type: ignore[no-untyped-def]
    """Put an inactive page on the active list: workingset_age_nonresident() as well."""
    scalars = memory[6]
    memory[8][page] |= ACTIVE
    scalars[ACTIVE_COUNT + file] += 1
    scalars[AGE] += 1
    push_newest(2 * file + ACTIVE_LIST, page, memory)


@inner
def _spare(page, file, memory):  # type: ignore[no-untyped-def]
    """Put an accessed inactive page back; activate one found accessed before, or by several processes."""
    marks = memory[8]
    touchers = memory[15][page]
    again = marks[page] & REFERENCED or touchers & touchers - 1
    if again or (file and memory[3][page] == EXECUTABLE):
        activate(page, file, memory)
    else:
        push_newest(2 * file + INACTIVE_LIST, page, memory)
    marks[page] = marks[page] & ~ACCESSED | REFERENCED


@inner
def _write(page, file, memory, device):  # type: ignore[no-untyped-def]
    """Begin to write a dirty page: unmapped and queued for swap, or activated and sent to its file."""
    status, scalars, marks = memory[0], memory[6], memory[8]
    marks[page] &= ~REFERENCED
    if file:
        marks[page] &= ~DIRTY
        submit_io(len(memory[4]) + page, scalars[NOW_NS], scalars, device)
        activate(page, file, memory)
        return
    status[page] = UNMAPPED
    give_slot(page, memory)
    work(device[RECLAIM_NS] + device[WRITEOUT_NS] + scalars[SHOOTDOWN_NS], scalars)
    begin_write(page, memory, device)


@inner
def _shrink_inactive_list(n_pages, file, memory, device):  # type: ignore[no-untyped-def]
    """Look at the `n_pages` oldest inactive pages of a kind; return how many were freed."""
    status, ready_ns, scalars, marks = memory[0], memory[5], memory[6], memory[8]
    inactive = 2 * file + INACTIVE_LIST
    scanned, written, freed, unmaps = 0, 0, 0, False
    complete_writes(memory)
    for _ in range(n_pages):
        page = oldest(inactive, memory)
        if page == NO_PAGE:
            break  # the page being faulted in is counted already and on no list yet
        scanned += 1
        ahead = upcoming(inactive, READ_AHEAD, memory)
        if status[ahead] == PREFETCHED:
            prefetch_line(ready_ns, ahead)
        if marks[page] & WRITEBACK:
            wait_for_write(page, memory, device)
        if status[page] in (PREFETCHED, FILE_IN) and ready_ns[page] > scalars[NOW_NS]:
            push_newest(inactive, page, memory)
        elif marks[page] & ACCESSED:
            _spare(page, file, memory)
        elif marks[page] & DIRTY and (file or not device[SYNCHRONOUS]):
            written += 1 - file
            if holds_zeros(page, memory):
                work(scalars[SHOOTDOWN_NS], scalars)  # as for any dirty page: try_to_unmap_flush_dirty()
                evict(page, memory, device)
                freed += 1
            else:
                _write(page, file, memory, device)
        else:
            unmaps |= status[page] == RESIDENT
            evict(page, memory, device)
            freed += 1
    work(unmaps * scalars[SHOOTDOWN_NS], scalars)
    note_cost(file, written, scanned - freed, scalars)
    return freed


@inner
def _shrink_active_list(n_pages, file, memory):  # type: ignore[no-untyped-def]
    """Deactivate the `n_pages` oldest active pages of a kind."""
    scalars, marks = memory[6], memory[8]
    inactive, rotated = 2 * file + INACTIVE_LIST, 0
    for _ in range(min(n_pages, scalars[ACTIVE_COUNT + file])):
        page = oldest(inactive + 1, memory)
        if file and marks[page] & ACCESSED and memory[3][page] == EXECUTABLE:
            marks[page] &= ~ACCESSED
            push_newest(inactive + 1, page, memory)
            rotated += 1
            continue
        scalars[ACTIVE_COUNT + file] -= 1
        marks[page] = marks[page] & (REFERENCED | DIRTY | READAHEAD | PREDICTED) | WORKINGSET
        push_newest(inactive, page, memory)
    note_cost(file, 0, rotated, scalars)


@inner
def _set_targets(priority, deactivate_file, scalars):  # type: ignore[no-untyped-def]
    """Set how many pages of each list are to be scanned: get_scan_count()."""
    total = scalars[ANON_COST] + scalars[FILE_COST]
    both = 2 * total + total
    fraction = SWAPPINESS * (both + 1) // (total + scalars[ANON_COST] + 1)
    file_fraction = (MAX_SWAPPINESS - SWAPPINESS) * (both + 1) // (total + scalars[FILE_COST] + 1)
    trim_cache = priority and scalars[STAT_FILE_INACTIVE] >> priority and not deactivate_file
    for which in range(N_LISTS):
        file = which >> 1
        pages = scalars[FILE_COUNT] if file else scalars[COUNT] - scalars[FILE_COUNT]
        active = scalars[ACTIVE_COUNT + file]
        target = (active if which & 1 else pages - active) >> priority
        if trim_cache:
            target *= file
        elif priority:
            target = target * (file_fraction if file else fraction) // (fraction + file_fraction)
        scalars[SCAN_TARGET + which] = scalars[SCAN_LEFT + which] = target


@inner
def _in_proportion(scalars):  # type: ignore[no-untyped-def]
    """Once enough is freed, scan no more of one kind, and of the other no greater part than of that one.

    Return whether there is a rest to scan: the loop's second half in shrink_lruvec().
    """
    anon = scalars[SCAN_LEFT] + scalars[SCAN_LEFT + ACTIVE_ANON]
    file = scalars[SCAN_LEFT + INACTIVE_FILE] + scalars[SCAN_LEFT + ACTIVE_FILE]
    if anon == 0 or file == 0:
        return False
    end, go_on, less = (
        (INACTIVE_ANON, INACTIVE_FILE, anon) if file > anon else (INACTIVE_FILE, INACTIVE_ANON, file)
    )
    target = scalars[SCAN_TARGET + end] + scalars[SCAN_TARGET + end + 1] + 1
    percent = less * 100 // target
    for active in range(2):
        scalars[SCAN_LEFT + end + active] = 0
        target, left = scalars[SCAN_TARGET + go_on + active], scalars[SCAN_LEFT + go_on + active]
        rest = target * (100 - percent) // 100
        scalars[SCAN_LEFT + go_on + active] = rest - min(rest, target - left)
    return True


@inner
def _shrink_lruvec(priority, force, memory, device):  # type: ignore[no-untyped-def]
    """Scan a part of each list, 32 pages at a time, until enough is freed; return it."""
    scalars = memory[6]
    flush_stats(scalars)
    deactivate = 0
    for file in range(2):
        activated = scalars[STAT_ACTIVATIONS + file] != scalars[SNAPSHOT_ACTIVATIONS + file]
        if force or activated or inactive_is_low(file, scalars):
            deactivate |= 1 << file
    _set_targets(priority, deactivate & 1 << FILE, scalars)
    freed = 0
    while scalars[SCAN_LEFT] or scalars[SCAN_LEFT + INACTIVE_FILE] or scalars[SCAN_LEFT + ACTIVE_FILE]:
        for which in range(N_LISTS):
            n_pages = min(scalars[SCAN_LEFT + which], SWAP_CLUSTER_MAX)
            scalars[SCAN_LEFT + which] -= n_pages
            if n_pages and not which & 1:
                freed += _shrink_inactive_list(n_pages, which >> 1, memory, device)
            elif n_pages and deactivate >> (which >> 1) & 1:
                _shrink_active_list(n_pages, which >> 1, memory)
            elif n_pages:
                scalars[SKIPPED] = 1
        if freed >= SWAP_CLUSTER_MAX and not _in_proportion(scalars):
            break
    finish_reclaim(memory, device)
    flush_stats(scalars)
    if inactive_is_low(ANON, scalars):
        _shrink_active_list(np.int64(SWAP_CLUSTER_MAX), ANON, memory)
    return freed


@inner
def try_to_free_pages(memory, device):  # type: ignore[no-untyped-def]
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
        scalars[SNAPSHOT_FILE_ACTIVATIONS] = scalars[STAT_FILE_ACTIVATIONS]
        if freed or not scalars[SKIPPED]:
            break
    return freed
