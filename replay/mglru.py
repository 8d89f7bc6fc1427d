"""`mglru`: Linux's multi-generational LRU, as far as mapped pages need it.

    aging       a walk over the page tables clears accessed bits; a page found accessed for the second time
                goes to the youngest generation, and then a new one begins: try_to_inc_max_seq()
    eviction    from the oldest generation of the kind of which fewer pages come back (get_type_to_scan()),
                its oldest pages first, 64 candidates at a time. Promoted meanwhile: to its own generation; of
                a tier that comes back too often: protected, to the next one (sort_folio()); accessed: kept,
                or promoted with its accessed neighbours (lru_gen_look_around()); dirty, unless it holds
                zeros: written first
    when        MIN_NR_GENS are left in sight: at the next priority, the kernel ages first (get_nr_to_scan())

Follows mm/vmscan.c of v6.18 with CONFIG_LRU_GEN for one memory cgroup; pagetables.py has the walks. Differs
from the kernel: pages that look-around moves, and those that just came, are on their new list at once, where
the kernel has batches of up to 31; a process that has not run since the last walk is walked as well.
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.evict import evict, give_slot, work
from kdtool.replay.generations import (
    MAX_NR_GENS,
    MIN_NR_GENS,
    carry_over,
    generation_list,
    increase_generation,
    lower_ratio,
    put,
    tier_of,
)
from kdtool.replay.lists import NO_PAGE, oldest, push_newest, push_oldest, unlink
from kdtool.replay.liststats import SWAP_CLUSTER_MAX
from kdtool.replay.memory import (
    ACCESSED,
    BATCH,
    DIRTY,
    FILE_IN,
    GEN_PAGES,
    MAX_SEQ,
    MIN_SEQ,
    NOW_NS,
    PREFETCHED,
    PROTECTED,
    RECLAIM_NS,
    REFERENCED,
    SHOOTDOWN_NS,
    SYNCHRONOUS,
    UNMAPPED,
    WORKINGSET,
    WRITEBACK,
    WRITEOUT_NS,
)
from kdtool.replay.pagetables import look_around, set_refs, walk_tables
from kdtool.replay.plug import finish_reclaim
from kdtool.replay.writeends import complete_writes
from kdtool.replay.writeout import begin_write
from kdtool.replay.zeropages import holds_zeros
from kdtool.rmt.jit import inner

__all__ = ["age_and_evict"]

DEF_PRIORITY = 12
MIN_LRU_BATCH, MAX_LRU_BATCH = 64, 4096
SWAPPINESS, MAX_SWAPPINESS = 60, 200
MAX_NR_TIERS = 4
FREED, KEPT, ACTIVATED, VERDICTS = range(4)


@inner
def _inc_min_seq(file, memory):  # type: ignore[no-untyped-def]
    """Move what is left of the oldest generation to the next, as its oldest: inc_min_seq()."""
    scalars, evicted_at = memory[6], memory[9]
    min_seq = scalars[MIN_SEQ + file]
    which = generation_list(file, min_seq)
    page = oldest(which, memory)
    while page != NO_PAGE:
        scalars[PROTECTED + MAX_NR_TIERS * file + tier_of(page, memory)] += 1
        if evicted_at[page] == min_seq:
            increase_generation(page, memory)
        push_oldest(generation_list(file, evicted_at[page]), page, memory)
        page = oldest(which, memory)
    carry_over(file, scalars)
    scalars[MIN_SEQ + file] += 1


@inner
def _age(memory):  # type: ignore[no-untyped-def]
    """Look for accessed pages and begin a new generation: try_to_inc_max_seq()."""
    scalars = memory[6]
    walk_tables(memory)
    for file in range(2):
        if scalars[MAX_SEQ] - scalars[MIN_SEQ + file] + 1 == MAX_NR_GENS:
            _inc_min_seq(file, memory)
    scalars[MAX_SEQ] += 1


@inner
def _drop_empty(memory):  # type: ignore[no-untyped-def]
    """Let empty generations go, but MIN_NR_GENS; return whether any went: try_to_inc_min_seq()."""
    scalars = memory[6]
    anon, file = scalars[MIN_SEQ], scalars[MIN_SEQ + 1]
    keep = scalars[MAX_SEQ] - MIN_NR_GENS
    while anon <= keep and oldest(generation_list(0, anon), memory) == NO_PAGE:
        anon += 1
    while file <= keep and oldest(generation_list(1, file), memory) == NO_PAGE:
        file += 1
    if anon > keep and file < keep:
        anon = keep
    elif file > keep and anon < keep:
        file = keep
    went = False
    for kind, seq in ((0, anon), (1, file)):
        if seq > scalars[MIN_SEQ + kind]:
            carry_over(kind, scalars)
            scalars[MIN_SEQ + kind] = seq
            went = True
    return went


@inner
def _judge(page, memory, device):  # type: ignore[no-untyped-def]
    """Decide on a candidate, and free it or begin its write: shrink_folio_list()."""
    status, ready_ns, scalars, marks = memory[0], memory[5], memory[6], memory[8]
    if status[page] in (PREFETCHED, FILE_IN) and ready_ns[page] > scalars[NOW_NS]:
        return KEPT
    if marks[page] & ACCESSED:
        look_around(page, memory)
        return ACTIVATED if set_refs(page, memory) else KEPT
    if marks[page] & DIRTY and not device[SYNCHRONOUS]:
        work(scalars[SHOOTDOWN_NS], scalars)
        if not holds_zeros(page, memory):
            status[page] = UNMAPPED
            give_slot(page, memory)
            work(device[RECLAIM_NS] + device[WRITEOUT_NS], scalars)
            begin_write(page, memory, device)
            return KEPT
    evict(page, memory, device)
    return FREED


@inner
def _put_back(page, verdict, file, memory):  # type: ignore[no-untyped-def]
    """Put a page that was not freed back in a generation: evict_folios(), lru_gen_folio_seq()."""
    slot, scalars, marks = memory[3], memory[6], memory[8]
    max_seq, min_seq = scalars[MAX_SEQ], scalars[MIN_SEQ + file]
    working = np.int64(marks[page] & WORKINGSET != 0)
    seq = max_seq - MIN_NR_GENS + 1
    if verdict == ACTIVATED:
        seq += working
    elif (file or slot[page] >= 0) and not marks[page] & WRITEBACK:
        seq = max_seq - MAX_NR_GENS + 1 + working
    if verdict == KEPT and seq <= min_seq:  # not back to the oldest: as if just faulted in
        marks[page] &= ~REFERENCED
        seq = max_seq - MIN_NR_GENS + 1 + working
    put(page, seq, memory)


@inner
def _isolate(page, n_candidates, file, tier_limit, memory, device):  # type: ignore[no-untyped-def]
    """Take the oldest page as a candidate, or sort it; return how many candidates there are: sort_folio()."""
    scalars, marks = memory[6], memory[8]
    min_seq, tier = scalars[MIN_SEQ + file], tier_of(page, memory)
    if memory[9][page] != min_seq:
        put(page, memory[9][page], memory)
        return n_candidates
    if tier > tier_limit:
        scalars[PROTECTED + MAX_NR_TIERS * file + tier] += 1
    elif marks[page] & WRITEBACK:
        pass
    elif file and marks[page] & DIRTY:
        marks[page] &= ~DIRTY
        submit_io(len(memory[4]) + page, scalars[NOW_NS], scalars, device)
    else:
        unlink(page, memory)
        scalars[BATCH + n_candidates] = page
        return n_candidates + 1
    increase_generation(page, memory)
    push_newest(generation_list(file, min_seq + 1), page, memory)
    return n_candidates


@inner
def _isolate_some(file, tier_limit, n_pages, memory, device):  # type: ignore[no-untyped-def]
    """Return how many of a kind's oldest pages were looked at, and are candidates: scan_folios()."""
    scalars = memory[6]
    min_seq, left = scalars[MIN_SEQ + file], min(n_pages, MAX_LRU_BATCH)
    if scalars[MAX_SEQ] - min_seq + 1 == MIN_NR_GENS:
        return 0, 0
    which, candidates, scanned = generation_list(file, min_seq), 0, 0
    while left and candidates < MIN_LRU_BATCH:
        page = oldest(which, memory)
        if page == NO_PAGE:
            break
        left, scanned = left - 1, scanned + 1
        candidates = _isolate(page, candidates, file, tier_limit, memory, device)
    return scanned if candidates or not left else 0, candidates


@inner
def _judge_batch(candidates, file, memory, device):  # type: ignore[no-untyped-def]
    """Judge all candidates, then put back those that stay; return how many were freed.

    A page that was written meanwhile missed its way to the oldest end and is freed at once: the `retry` of
    evict_folios().
    """
    status, scalars, marks = memory[0], memory[6], memory[8]
    freed = 0
    for i in range(BATCH, BATCH + candidates):
        page = scalars[i]
        scalars[i] = page * VERDICTS + _judge(page, memory, device)
    complete_writes(memory)
    for i in range(BATCH, BATCH + candidates):
        page, verdict = scalars[i] // VERDICTS, scalars[i] % VERDICTS
        if verdict == FREED:
            freed += 1
        elif status[page] == UNMAPPED and not marks[page] & WRITEBACK:
            evict(page, memory, device)
            freed += 1
        else:
            _put_back(page, verdict, file, memory)
    work((freed > 0) * scalars[SHOOTDOWN_NS], scalars)
    return freed


@inner
def _tier_limit(file, scalars):  # type: ignore[no-untyped-def]
    """Return the last tier that is not protected: get_tier_idx()."""
    for tier in range(1, MAX_NR_TIERS):
        if not lower_ratio(file, tier, tier, 3, file, 0, 0, 2, scalars):
            return tier - 1
    return MAX_NR_TIERS - 1


@inner
def _evict_folios(n_pages, memory, device):  # type: ignore[no-untyped-def]
    """Evict some of the oldest pages of one kind; return how many were looked at, and freed."""
    scalars = memory[6]
    last = MAX_NR_TIERS - 1
    file = np.int64(lower_ratio(1, 0, last, MAX_SWAPPINESS - SWAPPINESS, 0, 0, last, SWAPPINESS, scalars))
    complete_writes(memory)
    scanned, candidates = 0, 0
    for _ in range(2):
        scanned, candidates = _isolate_some(file, _tier_limit(file, scalars), n_pages, memory, device)
        if scanned:
            break
        file = 1 - file
    scanned += _drop_empty(memory)
    if min(scalars[MIN_SEQ], scalars[MIN_SEQ + 1]) + MIN_NR_GENS > scalars[MAX_SEQ]:
        scanned = 0
    return scanned, _judge_batch(candidates, file, memory, device)


@inner
def _shrink(priority, memory, device):  # type: ignore[no-untyped-def]
    """Age or evict at a priority; return how many pages were freed: try_to_shrink_lruvec()."""
    scalars = memory[6]
    scanned, freed = 0, 0
    while True:
        spare = scalars[MAX_SEQ] - MIN_NR_GENS - min(scalars[MIN_SEQ], scalars[MIN_SEQ + 1])
        if spare <= 0 and priority < DEF_PRIORITY:
            _age(memory)
            break
        n_pages = 0
        for generation in range(GEN_PAGES, GEN_PAGES + 2 * MAX_NR_GENS):
            n_pages += scalars[generation] if spare >= 0 else 0
        n_pages >>= priority
        if n_pages == 0:
            break
        looked_at, gone = _evict_folios(n_pages, memory, device)
        freed, scanned = freed + gone, scanned + looked_at
        if looked_at == 0 or scanned >= n_pages:
            break
    finish_reclaim(memory, device)
    return freed


@inner
def age_and_evict(memory, device):  # type: ignore[no-untyped-def]
    """Go on until SWAP_CLUSTER_MAX pages are freed; return how many were: do_try_to_free_pages()."""
    freed = 0
    for above in range(DEF_PRIORITY + 1):
        if freed >= SWAP_CLUSTER_MAX:
            break
        freed += _shrink(DEF_PRIORITY - above, memory, device)
    return freed
