"""Pages on their way to the swap device: unmapped, still in memory, freed once they are written.

    begin_write   unmapped and queued, newest of the inactive list: pageout(), swap_writeout()
    submit        what was queued goes to the device together: before a request that would be one too many or
                  comes behind a large one, blk_add_rq_to_plug(), and at the scan's end, blk_finish_plug();
                  writes so end while the scan goes on, and it meets their pages
    complete      oldest of the inactive list, so that reclaim meets it next: folio_rotate_reclaimable()

    writes[i]     (page, when its write ends), a ring; scalars WRITES_FIRST, WRITES_SENT and WRITES_END count
                  the entries that were completed, submitted and queued; a page that was unmapped is NO_PAGE

    PLUG_REQUESTS, PLUG_PAGES, PLUG_SLOT count the requests that are queued, and say of the last one how many
                  pages it has and which slot would go on with it

Follows mm/page_io.c, mm/swap.c, shrink_folio_list() in mm/vmscan.c and block/blk-mq.c, v6.18. Reads share the
device. Differs from the kernel: a request takes no more pages once the plug is emptied for its size, as where
the queue's max_sectors_kb is 128.
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.generations import generation_list, set_generation
from kdtool.replay.lists import INACTIVE_LIST, push_newest, push_oldest
from kdtool.replay.memory import (
    DIRTY,
    MGLRU,
    MIN_SEQ,
    NOW_NS,
    PLUG_PAGES,
    PLUG_REQUESTS,
    PLUG_SLOT,
    RECLAIM_KIND,
    WAITED_NS,
    WRITEBACK,
    WRITES_END,
    WRITES_FIRST,
    WRITES_SENT,
    WRITTEN,
)
from kdtool.replay.slots import NO_PAGE
from kdtool.rmt.jit import inner

__all__ = ["begin_write", "complete_writes", "drop_write", "submit_writes", "wait_for_write"]

BLK_MAX_REQUEST_COUNT = 32
BLK_PLUG_FLUSH_PAGES = 32
"""BLK_PLUG_FLUSH_SIZE, 128 KiB."""


@inner
def submit_writes(memory, device):  # type: ignore[no-untyped-def]
    """Hand what was queued to the device."""
    slot, scalars, writes = memory[3], memory[6], memory[10]
    while scalars[WRITES_SENT] < scalars[WRITES_END]:
        entry = scalars[WRITES_SENT] % len(writes)
        page = writes[entry, 0]
        writes[entry, 1] = submit_io(slot[page], scalars[NOW_NS], scalars, device)
        scalars[WRITES_SENT] += 1
    scalars[PLUG_REQUESTS] = scalars[PLUG_PAGES] = 0


@inner
def _add_to_plug(page, memory, device):  # type: ignore[no-untyped-def]
    """Add the page to the last request, or begin another: first submit what is queued if that is enough."""
    scalars, at_slot = memory[6], memory[3][page]
    large = scalars[PLUG_PAGES] >= BLK_PLUG_FLUSH_PAGES
    if scalars[PLUG_REQUESTS] and at_slot == scalars[PLUG_SLOT] and not large:
        scalars[PLUG_PAGES] += 1
    else:
        if scalars[PLUG_REQUESTS] >= BLK_MAX_REQUEST_COUNT or large:
            submit_writes(memory, device)
        scalars[PLUG_REQUESTS] += 1
        scalars[PLUG_PAGES] = 1
    scalars[PLUG_SLOT] = at_slot + 1


@inner
def begin_write(page, memory, device):  # type: ignore[no-untyped-def]
    """Queue the write of an inactive page that has a slot, and spare it for another trip around the list."""
    scalars, marks, writes = memory[6], memory[8], memory[10]
    _add_to_plug(page, memory, device)
    marks[page] = (marks[page] & ~DIRTY) | WRITEBACK
    writes[scalars[WRITES_END] % len(writes), 0] = page
    scalars[WRITES_END] += 1
    memory[7][WRITTEN] += 1
    if scalars[RECLAIM_KIND] != MGLRU:  # else it is put back with its batch
        push_newest(INACTIVE_LIST, page, memory)


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
