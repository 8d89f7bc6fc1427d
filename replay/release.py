"""What mapping changes do: pages that were unmapped are gone from memory and from the device, VMAs change."""

import numpy as np

from kdtool.replay.filecache import unmap_file_page
from kdtool.replay.memory import (
    FIRST_FILE,
    FREE_AT,
    NEVER,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    SWAPPED,
    UNMAPPED,
    VMA_AT,
    WASTED,
)
from kdtool.replay.reclaim import forget_page
from kdtool.replay.slots import free_slot
from kdtool.rmt.jit import inner

__all__ = ["change_vmas", "release"]


@inner
def release(until, trace, memory):  # type: ignore[no-untyped-def]
    """Forget the pages that were unmapped before row `until`."""
    free_row, free_page = trace[9], trace[10]
    status, clusters, slot, page_of_slot = memory[0], memory[1], memory[3], memory[4]
    scalars, counters, marks, evicted_at = memory[6], memory[7], memory[8], memory[9]
    at = scalars[FREE_AT]
    while at < len(free_row) and free_row[at] <= until:
        page = np.int64(free_page[at])
        at += 1
        if page >= scalars[FIRST_FILE]:
            unmap_file_page(page, memory)
            continue
        if status[page] in (PREFETCHED, UNMAPPED) and marks[page] & PREDICTED:
            counters[WASTED] += 1
            scalars[PREFETCHED_NOW] -= 1
        if status[page] != NEVER and status[page] != SWAPPED:
            forget_page(page, memory)
        free_slot(page, slot, page_of_slot, clusters)
        status[page] = NEVER
        evicted_at[page] = -1
    scalars[FREE_AT] = at


@inner
def change_vmas(until, trace, memory):  # type: ignore[no-untyped-def]
    """Make the changes of VMAs that come before row `until`, see vmas.py."""
    vma_of_page, vma_bounds, vma_row, vma_change = trace[7], trace[8], trace[19], trace[20]
    at = memory[6][VMA_AT]
    while at < len(vma_row) and vma_row[at] <= until:
        first, last, vma = vma_change[at, 0], vma_change[at, 1], vma_change[at, 2]
        vma_of_page[first:last] = vma
        vma_bounds[vma, 0], vma_bounds[vma, 1] = vma_change[at, 3], vma_change[at, 4]
        at += 1
    memory[6][VMA_AT] = at
