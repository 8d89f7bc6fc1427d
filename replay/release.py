"""What happens to pages that the program unmapped: they are gone from memory and from the device."""

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
    WASTED,
)
from kdtool.replay.reclaim import forget_page
from kdtool.replay.slots import free_slot
from kdtool.rmt.jit import inner

__all__ = ["release"]


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
