"""What a trace will do, for bounds alone: when a page comes again, what Belady evicts, what is read early.

`plan_memory` runs Belady's MIN (Belady, A study of replacement algorithms, IBM Systems J. 5(2), 1966): evict
the page whose next use is furthest. With a depth it also reads ahead as Aggressive does (Cao, Felten, Karlin
and Li, A study of integrated prefetching and caching strategies, SIGMETRICS 1995): at every event of the hook
the next page that is missing, and so on, until `depth` pages wait for their use, or the page that makes room
is used before the one that it makes room for.

    row           the reference being replayed: memory then holds ...
    (row, scan)   ... every page that is used here, but those that do not exist yet
    distinct      how many pages that are; never more than fit beside the page of `row`

So nothing is read in vain. A page that is read early also makes another go early, which may have to be read
again: beyond what a read takes, more depth costs reads and saves nothing. Time has no part in a plan: which
rows are events depends on what was read, not on when.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError
from kdtool.replay.longarrays import new_array
from kdtool.replay.workload import Workload
from kdtool.rmt.jit import jit

__all__ = ["Plan", "first_uses", "next_uses", "plan_memory"]


@dataclass(frozen=True)
class Plan:
    """What a memory that knows the future does.

    victims : int32 of shape (n_evictions,), page ids in order of eviction
    rows, pages : int64 and int32 of shape (n_prefetches,), what is read early at the event of which row
    """

    victims: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    pages: npt.NDArray[np.int32]


def plan_memory(workload: Workload, memory_pages: int, depth_pages: int) -> Plan:
    """Plan a memory of `memory_pages`, with at most `depth_pages` read early at any time, 0 for none.

    O(n log n) in the references. `memory_pages` is at least 1, with a depth at least 2.

    Raises ParameterError for a workload with pages of files, which a readahead brings in that no plan knows.
    """
    w = workload
    if w.files.n_pages:
        raise ParameterError(
            f"{w.name}: has pages of files, which belady and oracle-unlimited do not plan: give --files none"
        )
    uses, first = next_uses(w), first_uses(w)
    victims, rows, pages = _plan(
        w.page, uses, first, w.free_row, w.free_page, w.n_pages, memory_pages, depth_pages
    )
    return Plan(victims, rows, pages)


def next_uses(w: Workload) -> npt.NDArray[np.int64]:
    """Return the row at which each reference's page comes again, n_refs for never: int64 of shape (n_refs,).

    A page that is unmapped in between does not come again: it is a new one.
    """
    uses = new_array(w.n_refs, np.int64)
    _find_uses(w.page, w.free_row, w.free_page, np.full(w.n_pages, w.n_refs, np.int64), uses)
    return uses


@jit()
def _find_uses(page, free_row, free_page, coming, uses):  # type: ignore[no-untyped-def]
    n_refs = len(page)
    at = len(free_row) - 1
    for row in range(n_refs - 1, -1, -1):
        while at >= 0 and free_row[at] > row:
            coming[free_page[at]] = n_refs
            at -= 1
        uses[row] = coming[page[row]]
        coming[page[row]] = row


def first_uses(w: Workload) -> npt.NDArray[np.uint8]:
    """Return where a page is used for the first time since it exists: uint8 (n_refs,), 1 for a cold fault."""
    first = new_array(w.n_refs, np.uint8)
    _find_first(w.page, w.free_row, w.free_page, np.zeros(w.n_pages, np.uint8), first)
    return first


@jit()
def _find_first(page, free_row, free_page, exists, first):  # type: ignore[no-untyped-def]
    at = 0
    for row in range(len(page)):
        while at < len(free_row) and free_row[at] <= row:
            exists[free_page[at]] = 0
            at += 1
        first[row] = not exists[page[row]]
        exists[page[row]] = 1


OUT, RECENT = -1, -2
"""Where a page may be besides on the heap: not in memory; in memory and used since the last eviction.

A page that is used often is thus moved once an eviction, not at every use.
"""

SIZE, HELD, SCAN, DISTINCT, WAITING, FREE_AT, N_COUNTS = 0, 1, 2, 3, 4, 5, 6
"""Indexes into counts: pages on the heap, pages in memory, `scan` and `distinct` of the docstring above,
pages that were read early and not used yet, and how many unmappings have happened."""


@jit(allocates=True)
def _settle(at, use, place, heap, size):  # type: ignore[no-untyped-def]
    """Move the page at index `at` of the heap, the furthest use on top, to where it belongs."""
    page = heap[at]
    while at and use[page] > use[heap[(at - 1) // 2]]:
        heap[at] = heap[(at - 1) // 2]
        place[heap[at]] = at
        at = (at - 1) // 2
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and use[heap[child + 1]] > use[heap[child]]:
            child += 1
        if use[heap[child]] <= use[page]:
            break
        heap[at] = heap[child]
        place[heap[at]] = at
        at = child
    heap[at] = page
    place[page] = at


@jit(allocates=True)
def _remove(page, memory):  # type: ignore[no-untyped-def]
    """Take a page off the heap, if it is there, so that it cannot be evicted."""
    use, place, heap, counts, _, _ = memory
    at = place[page]
    place[page] = OUT
    if at >= 0:
        counts[SIZE] -= 1
        if at < counts[SIZE]:
            heap[at] = heap[counts[SIZE]]
            _settle(at, use, place, heap, counts[SIZE])


@jit(allocates=True)
def _make_room(capacity, victims, recent, memory):  # type: ignore[no-untyped-def]
    """Evict the page whose use is furthest if memory is full; then take room for one page."""
    use, place, heap, counts, _, _ = memory
    if counts[HELD] >= capacity:
        for page in recent:
            if place[page] == RECENT:
                heap[counts[SIZE]] = page
                counts[SIZE] += 1
                _settle(counts[SIZE] - 1, use, place, heap, counts[SIZE])
        recent.clear()
        victims.append(heap[0])
        _remove(heap[0], memory)
        counts[HELD] -= 1
    counts[HELD] += 1


@jit(allocates=True)
def _forget(row, free_row, free_page, memory):  # type: ignore[no-untyped-def]
    """Take out the pages that were unmapped before `row`."""
    _, place, _, counts, _, _ = memory
    while counts[FREE_AT] < len(free_row) and free_row[counts[FREE_AT]] <= row:
        page = free_page[counts[FREE_AT]]
        counts[FREE_AT] += 1
        if place[page] != OUT:
            _remove(page, memory)
            counts[HELD] -= 1


@jit(allocates=True)
def _read_ahead(row, page, first, capacity, depth, victims, recent, prefetches, memory):  # type: ignore[no-untyped-def]
    """Move `scan` on and read what is missing there, as long as all before it fits as well."""
    use, place, _, counts, waiting, seen = memory
    while counts[WAITING] < depth and counts[SCAN] < len(page):
        at = counts[SCAN]
        p = page[at]
        if not seen[p]:
            if counts[DISTINCT] + 1 >= capacity:
                return
            counts[DISTINCT] += 1
            if place[p] == OUT and not first[at] and p != page[row]:
                _make_room(capacity, victims, recent, memory)
                use[p], place[p], waiting[p] = at, RECENT, 1
                recent.append(p)
                prefetches.append((row, p))
                counts[WAITING] += 1
        seen[p] += 1
        counts[SCAN] += 1


@jit(allocates=True)
def _plan(page, uses, first, free_row, free_page, n_pages, capacity, depth):  # type: ignore[no-untyped-def]
    """Return the victims, and the prefetches as (row, page)."""
    use, place = np.zeros(n_pages, np.int64), np.full(n_pages, OUT, np.int64)
    counts, waiting = np.zeros(N_COUNTS, np.int64), np.zeros(n_pages, np.uint8)
    memory = use, place, np.zeros(n_pages, np.int32), counts, waiting, np.zeros(n_pages, np.int64)
    victims, recent = [np.int32(0) for _ in range(0)], [np.int32(0) for _ in range(0)]
    prefetches = [(np.int64(0), np.int32(0)) for _ in range(0)]
    for row in range(len(page)):
        p = page[row]
        _forget(row, free_row, free_page, memory)
        if counts[SCAN] > row:
            memory[5][p] -= 1
            counts[DISTINCT] -= memory[5][p] == 0
        counts[SCAN] = max(counts[SCAN], row + 1)
        if place[p] == RECENT and not waiting[p]:
            use[p] = uses[row]
            continue
        event = waiting[p] == 1 or (place[p] == OUT and not first[row])
        if place[p] == OUT:
            _make_room(capacity, victims, recent, memory)
        counts[WAITING] -= waiting[p]
        waiting[p] = 0
        # At an event of the hook the page itself is being brought in: it makes no room for others.
        _remove(p, memory)
        if event:
            _read_ahead(row, page, first, capacity, depth, victims, recent, prefetches, memory)
        use[p], place[p] = uses[row], RECENT
        recent.append(p)
    rows = np.array([row for row, _ in prefetches], dtype=np.int64)
    return np.array(victims, dtype=np.int32), rows, np.array([p for _, p in prefetches], dtype=np.int32)
