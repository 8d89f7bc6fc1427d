"""Page tables, as `mglru` walks them: which pages are looked at together, and which tables it looks at again.

    ptes[p]      512 * the number of the page table that maps page p + its entry in there
    tables[t]    first page, last + 1, how many entries its pages span, and whether it is in the Bloom filter
                 of even and of odd generations
    filter       an aging looks only at tables in which the one before found every eighth entry accessed, or
                 look-around did meanwhile: suitable_to_scan(), update_bloom_filter(). The first looks at all

Follows walk_pmd_range(), walk_pte_range() and lru_gen_look_around() in mm/vmscan.c, v6.18. Pages on no list
are passed by: reclaim has them in hand (get_pfn_folio()). Differs from the kernel: a table's VMA is what its
pages span; a filter takes no table for another; a table that is in the filter and whose own accessed bit is
not set is looked at; copies of a shared page and pages of files have tables of their own, by their numbers.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdtool.replay.generations import put, set_generation
from kdtool.replay.memory import ACCESSED, AGED, MAX_SEQ, REFERENCED, RESIDENT, WORKINGSET, Memory
from kdtool.rmt.jit import inner

__all__ = ["look_around", "set_refs", "walk_tables", "with_page_tables"]

PTE_BITS = 9
PTES = 1 << PTE_BITS
"""PTRS_PER_PTE of x86-64."""
FIRST, LAST, SPAN, FILTERS, TABLE_WORDS = 0, 1, 2, 3, 5
WINDOW = 64
"""MIN_LRU_BATCH, entries that look-around sees."""
YOUNG_PER = 8
"""suitable_to_scan(): PTEs in a cache line of 64 bytes."""


def with_page_tables(memory: Memory, keys: npt.NDArray[np.int64]) -> Memory:
    """Return an empty memory with page tables for its pages; `keys` are those of the first, see Workload."""
    n_pages = len(memory.pages)
    beyond = (int(keys[-1]) // PTES + 1) * PTES if len(keys) else 0
    places = np.concatenate([keys, beyond + np.arange(n_pages - len(keys))])
    first = np.flatnonzero(np.diff(places >> PTE_BITS, prepend=-1))
    last = np.append(first[1:], n_pages)
    tables = np.zeros((len(first), TABLE_WORDS), np.int64)
    tables[:, FIRST], tables[:, LAST] = first, last
    tables[:, SPAN] = places[last - 1] - places[first] + 1
    number = np.repeat(np.arange(len(first)), last - first)
    return replace(memory, ptes=number << PTE_BITS | places % PTES, tables=tables)


@inner
def set_refs(page, memory):  # type: ignore[no-untyped-def]
    """Note that a page was found accessed; return whether that was not the first time: lru_gen_set_refs()."""
    marks = memory[8]
    marks[page] &= ~ACCESSED
    if not marks[page] & (REFERENCED | WORKINGSET):
        marks[page] |= REFERENCED
        return False
    marks[page] = marks[page] & ~REFERENCED | WORKINGSET
    return True


@inner
def _is_young(page, memory):  # type: ignore[no-untyped-def]
    """Tell whether a walk finds the page accessed: mapped, and on a list."""
    return memory[0][page] == RESIDENT and memory[8][page] & ACCESSED != 0 and memory[2][page] >= 0


@inner
def walk_tables(memory):  # type: ignore[no-untyped-def]
    """Promote pages that are found accessed again, where they lie: walk_mm(), folio_update_gen()."""
    scalars, tables = memory[6], memory[20]
    seq, forced = scalars[MAX_SEQ], not scalars[AGED]
    now, following = FILTERS + (seq & 1), FILTERS + (seq + 1 & 1)
    scalars[AGED] = 1
    for table in range(len(tables)):
        tables[table, following] = 0
        if forced or tables[table, now]:
            young = 0
            for page in range(tables[table, FIRST], tables[table, LAST]):
                if _is_young(page, memory):
                    young += 1
                    if set_refs(page, memory):
                        set_generation(page, seq, memory)
            tables[table, following] = young * YOUNG_PER >= tables[table, SPAN]


@inner
def _activate(page, memory):  # type: ignore[no-untyped-def]
    """Move a page that is found accessed again to the youngest generation: folio_activate()."""
    if set_refs(page, memory) and memory[9][page] != memory[6][MAX_SEQ]:
        put(page, memory[6][MAX_SEQ], memory)


@inner
def look_around(page, memory):  # type: ignore[no-untyped-def]
    """Look at the neighbours of a page that reclaim found accessed: lru_gen_look_around()."""
    ptes, tables = memory[19], memory[20]
    table = ptes[page] >> PTE_BITS
    first, last = tables[table, FIRST], tables[table, LAST]
    start, end = ptes[first], ptes[first] + tables[table, SPAN]
    if end - start > WINDOW:
        start = min(max(ptes[page] - WINDOW // 2, start), end - WINDOW)
        end = start + WINDOW
    young, at = 1, page
    while at > first and ptes[at - 1] >= start:
        at -= 1
    while at < last and ptes[at] < end:
        if at != page and _is_young(at, memory):
            young += 1
            _activate(at, memory)
        at += 1
    if young * YOUNG_PER >= end - start:
        tables[table, FILTERS + (memory[6][MAX_SEQ] & 1)] = 1
