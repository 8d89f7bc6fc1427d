"""Pages on their way to the swap device: unmapped, still in memory, freed once they are written.

    begin_write   unmapped and queued, newest of the inactive list: pageout(), swap_writeout()
    submit        what was queued goes to the device together: blk_finish_plug()
    complete      oldest of the inactive list, so that reclaim meets it next: folio_rotate_reclaimable()

    writes[i]     (page, when its write ends), a ring; scalars WRITES_FIRST, WRITES_SENT and WRITES_END count
                  the entries that were completed, submitted and queued; a page that was unmapped is NO_PAGE

Follows mm/page_io.c, mm/swap.c and shrink_folio_list() in mm/vmscan.c, v6.18. Reads share the device.
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.generations import MIN_NR_GENS, generation_list, put, set_generation
from kdtool.replay.lists import INACTIVE_LIST, push_newest, push_oldest
from kdtool.replay.memory import (
    DIRTY,
    MAX_SEQ,
    MGLRU,
    MIN_SEQ,
    NOW_NS,
    RECLAIM_KIND,
    WAITED_NS,
    WRITEBACK,
    WRITES_END,
    WRITES_FIRST,
    WRITES_SENT,
)
from kdtool.replay.slots import NO_PAGE
from kdtool.rmt.jit import inner

__all__ = ["begin_write", "complete_writes", "drop_write", "submit_writes", "wait_for_write"]


@inner
def begin_write(page, memory):  # type: ignore[no-untyped-def]
    """Queue the write of an inactive page that has a slot, and spare it for another trip around the list."""
    scalars, marks, writes = memory[6], memory[8], memory[10]
    marks[page] = (marks[page] & ~DIRTY) | WRITEBACK
    writes[scalars[WRITES_END] % len(writes), 0] = page
    scalars[WRITES_END] += 1
    if scalars[RECLAIM_KIND] == MGLRU:
        put(page, scalars[MAX_SEQ] - MIN_NR_GENS + 1, memory)
        return
    push_newest(INACTIVE_LIST, page, memory)


@inner
def submit_writes(memory, device):  # type: ignore[no-untyped-def]
    """Hand what was queued to the device."""
    slot, scalars, writes = memory[3], memory[6], memory[10]
    while scalars[WRITES_SENT] < scalars[WRITES_END]:
        entry = scalars[WRITES_SENT] % len(writes)
        page = writes[entry, 0]
        writes[entry, 1] = submit_io(slot[page], scalars[NOW_NS], scalars, device)
        scalars[WRITES_SENT] += 1


@inner
def complete_writes(memory):  # type: ignore[no-untyped-def]
    """Move the pages whose write has ended by now to the oldest end of the inactive list."""
    scalars, marks, writes = memory[6], memory[8], memory[10]
    while scalars[WRITES_FIRST] < scalars[WRITES_SENT]:
        entry = scalars[WRITES_FIRST] % len(writes)
        if writes[entry, 1] > scalars[NOW_NS]:
            break
        scalars[WRITES_FIRST] += 1
        page = writes[entry, 0]
        if page != NO_PAGE:
            marks[page] &= ~WRITEBACK
            which = np.int64(INACTIVE_LIST)
            if scalars[RECLAIM_KIND] == MGLRU:
                set_generation(page, scalars[MIN_SEQ], memory)
                which = generation_list(0, scalars[MIN_SEQ])
            push_oldest(which, page, memory)


@inner
def wait_for_write(page, memory, device):  # type: ignore[no-untyped-def]
    """Stand still until the page is written, as reclaim in a v1 cgroup does: folio_wait_writeback()."""
    scalars, writes = memory[6], memory[10]
    submit_writes(memory, device)
    entry = scalars[WRITES_FIRST]
    while writes[entry % len(writes), 0] != page:
        entry += 1
    wait_ns = max(writes[entry % len(writes), 1] - scalars[NOW_NS], 0)
    scalars[WAITED_NS] += wait_ns
    scalars[NOW_NS] += wait_ns
    complete_writes(memory)


@inner
def drop_write(page, memory):  # type: ignore[no-untyped-def]
    """Forget a page that was unmapped for good while it was being written."""
    scalars, writes = memory[6], memory[10]
    for entry in range(scalars[WRITES_FIRST], scalars[WRITES_END]):
        if writes[entry % len(writes), 0] == page:
            writes[entry % len(writes), 0] = NO_PAGE
