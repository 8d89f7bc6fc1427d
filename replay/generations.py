"""The generations that `mglru` keeps pages in, and what it knows of those that came back.

    max_seq             the youngest generation, of both kinds
    min_seq[kind]       the oldest, MIN_NR_GENS to MAX_NR_GENS of them are there
    evicted_at[page]    of a page in memory: its generation. A page that is promoted stays on its list until
                        it is met there
    tier                MAX_NR_TIERS - 1 for a page of the working set, else 0: mapped pages have no other
    of kind and tier    pages that came back, were evicted and were protected, since the oldest generation
                        changed, and an average of before: the terms of the PID controller

Follows include/linux/mm_inline.h, lru_gen_eviction() and lru_gen_refault() in mm/workingset.c and the
functions named below in mm/vmscan.c, v6.18, with one memory cgroup and one zone.
"""

import numpy as np

from kdtool.replay.lists import push_newest
from kdtool.replay.memory import (
    AVG_REFAULTED,
    AVG_TOTAL,
    EVICTED,
    FIRST_FILE,
    GEN_PAGES,
    MAX_SEQ,
    MGLRU,
    MIN_SEQ,
    PROTECTED,
    RECLAIM_KIND,
    REFAULTED,
    REFERENCED,
    WORKINGSET,
)
from kdtool.rmt.jit import inner

__all__ = [
    "MAX_NR_GENS",
    "MIN_NR_GENS",
    "add_generation",
    "carry_over",
    "generation_list",
    "increase_generation",
    "leave_generation",
    "lower_ratio",
    "note_eviction",
    "put",
    "set_back",
    "set_generation",
    "tier_of",
]

MIN_NR_GENS, MAX_NR_GENS, MAX_NR_TIERS = 2, 4, 4
MIN_LRU_BATCH = 64


@inner
def generation_list(file, seq):  # type: ignore[no-untyped-def]
    """Return the list of a kind's generation."""
    return MAX_NR_GENS * file + seq % MAX_NR_GENS


@inner
def tier_of(page, memory):  # type: ignore[no-untyped-def]
    """Return a page's tier: lru_tier_from_refs()."""
    return MAX_NR_TIERS - 1 if memory[8][page] & WORKINGSET else 0


@inner
def set_generation(page, seq, memory):  # type: ignore[no-untyped-def]
    """Give a page in memory another generation, and leave it where it lies."""
    scalars, evicted_at = memory[6], memory[9]
    counts = GEN_PAGES + MAX_NR_GENS * np.int64(page >= scalars[FIRST_FILE])
    scalars[counts + evicted_at[page] % MAX_NR_GENS] -= 1
    scalars[counts + seq % MAX_NR_GENS] += 1
    evicted_at[page] = seq


@inner
def increase_generation(page, memory):  # type: ignore[no-untyped-def]
    """Give a page of the oldest generation the next one, as if it was not referenced: folio_inc_gen()."""
    memory[8][page] &= ~REFERENCED
    set_generation(page, memory[9][page] + 1, memory)


@inner
def put(page, seq, memory):  # type: ignore[no-untyped-def]
    """Move a page in memory to the newest end of a generation, no older than the oldest there is."""
    file = np.int64(page >= memory[6][FIRST_FILE])
    seq = max(seq, memory[6][MIN_SEQ + file])
    set_generation(page, seq, memory)
    push_newest(generation_list(file, seq), page, memory)


@inner
def add_generation(page, memory):  # type: ignore[no-untyped-def]
    """Put a page that came at a fault in its generation: lru_gen_refault(), lru_gen_folio_seq()."""
    scalars, marks, evicted_at = memory[6], memory[8], memory[9]
    file, shadow = np.int64(page >= scalars[FIRST_FILE]), np.int64(evicted_at[page])
    if shadow >= 0 and scalars[MAX_SEQ] - (shadow >> 1) < MAX_NR_GENS:
        marks[page] |= WORKINGSET * (shadow & 1)
        scalars[REFAULTED + MAX_NR_TIERS * file + tier_of(page, memory)] += 1
    seq = scalars[MAX_SEQ] - MIN_NR_GENS + 1 + (marks[page] & WORKINGSET != 0)
    seq = max(seq, scalars[MIN_SEQ + file])
    evicted_at[page] = seq
    scalars[GEN_PAGES + MAX_NR_GENS * file + seq % MAX_NR_GENS] += 1
    push_newest(generation_list(file, seq), page, memory)


@inner
def set_back(page, memory):  # type: ignore[no-untyped-def]
    """Put a page that madvise(2) had read, not a fault, in an old generation: lru_gen_folio_seq()."""
    if memory[6][RECLAIM_KIND] == MGLRU:
        working = memory[8][page] & WORKINGSET != 0
        put(page, memory[6][MAX_SEQ] - MAX_NR_GENS + 1 + working, memory)


@inner
def leave_generation(page, memory):  # type: ignore[no-untyped-def]
    """Count a page that leaves memory out of its generation."""
    scalars = memory[6]
    counts = GEN_PAGES + MAX_NR_GENS * np.int64(page >= scalars[FIRST_FILE])
    scalars[counts + memory[9][page] % MAX_NR_GENS] -= 1


@inner
def note_eviction(page, memory):  # type: ignore[no-untyped-def]
    """Return the shadow of a page that is evicted: the oldest generation, twice, plus PG_workingset."""
    scalars = memory[6]
    file = np.int64(page >= scalars[FIRST_FILE])
    leave_generation(page, memory)
    scalars[EVICTED + MAX_NR_TIERS * file + tier_of(page, memory)] += 1
    return scalars[MIN_SEQ + file] << 1 | (memory[8][page] & WORKINGSET != 0)


@inner
def carry_over(file, scalars):  # type: ignore[no-untyped-def]
    """Average the counts of a kind as its oldest generation changes: reset_ctrl_pos()."""
    for tier in range(MAX_NR_TIERS * file, MAX_NR_TIERS * (file + 1)):
        total = scalars[PROTECTED + tier] + scalars[EVICTED + tier]
        scalars[AVG_REFAULTED + tier] = (scalars[AVG_REFAULTED + tier] + scalars[REFAULTED + tier]) // 2
        scalars[AVG_TOTAL + tier] = (scalars[AVG_TOTAL + tier] + total) // 2
        scalars[REFAULTED + tier] = scalars[EVICTED + tier] = scalars[PROTECTED + tier] = 0


@inner
def _position(file, first, last, scalars):  # type: ignore[no-untyped-def]
    """Return how many pages of a kind's tiers came back, and of how many: read_ctrl_pos()."""
    refaulted, total = 0, 0
    for tier in range(MAX_NR_TIERS * file + first, MAX_NR_TIERS * file + last + 1):
        refaulted += scalars[AVG_REFAULTED + tier] + scalars[REFAULTED + tier]
        total += scalars[AVG_TOTAL + tier] + scalars[PROTECTED + tier] + scalars[EVICTED + tier]
    return refaulted, total


@inner
def lower_ratio(file, first, last, gain, other_file, other_first, other_last, other_gain, scalars):  # type: ignore[no-untyped-def]
    """Tell whether fewer of some tiers came back than of the others, or few at all: positive_ctrl_err()."""
    sp_refaulted, sp_total = _position(other_file, other_first, other_last, scalars)
    pv_refaulted, pv_total = _position(file, first, last, scalars)
    if pv_refaulted < MIN_LRU_BATCH:
        return True
    return pv_refaulted * (sp_total + MIN_LRU_BATCH) * other_gain <= (sp_refaulted + 1) * pv_total * gain
