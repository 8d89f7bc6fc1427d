"""Pages on their way to the swap device: unmapped, still in memory, freed once they are written.

    begin_write   unmapped and queued, newest of the inactive list: pageout(), swap_writeout()
    plug.py       what was queued goes to the device together
    writeends.py  oldest of the inactive list, so that reclaim meets it next, when it is known to be written

Follows mm/page_io.c and shrink_folio_list() in mm/vmscan.c, v6.18. Reads share the device. Pages full of
zeros do not come here, see zeropages.py.
"""

from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    DIRTY,
    KEEPS_NS,
    MGLRU,
    NOW_NS,
    RECLAIM_KIND,
    WRITEBACK,
    WRITES_END,
    WRITES_FIRST,
    WRITES_OUT,
    WRITTEN,
)
from kdtool.replay.plug import joins_last, queue_page, send_writes
from kdtool.replay.slots import NO_PAGE
from kdtool.replay.throttle import wait_for_requests
from kdtool.replay.writeends import complete_writes, sleep
from kdtool.rmt.jit import inner

__all__ = ["begin_write", "drop_write", "wait_for_write"]


@inner
def begin_write(page, memory, device):  # type: ignore[no-untyped-def]
    """Queue the write of an inactive page that has a slot, and spare it for another trip around the list."""
    at_slot, scalars, marks, writes = memory[3][page], memory[6], memory[8], memory[10]
    if not joins_last(at_slot, 0, scalars, device):
        wait_for_requests(memory, device)
    begins = queue_page(at_slot, 0, memory, device)
    scalars[WRITES_OUT] += begins
    at = scalars[WRITES_END]
    if not begins:
        writes[(at - 1) % len(writes), 2] = 0
    entry = at % len(writes)
    writes[entry, 0], writes[entry, 1], writes[entry, 2] = page, at_slot, 1
    scalars[WRITES_END] += 1
    marks[page] = (marks[page] & ~DIRTY) | WRITEBACK
    memory[7][WRITTEN] += 1
    if scalars[RECLAIM_KIND] != MGLRU:  # else it is put back with its batch
        push_newest(INACTIVE_LIST, page, memory)


@inner
def wait_for_write(page, memory, device):  # type: ignore[no-untyped-def]
    """Stand still until the page is written, as reclaim in a v1 cgroup does: folio_wait_writeback()."""
    scalars, writes = memory[6], memory[10]
    send_writes(memory, device)
    entry = scalars[WRITES_FIRST]
    while writes[entry % len(writes), 0] != page:
        entry += 1
    # A worker that has not noted the end of this write yet does so at once: the CPU is free.
    until_ns = max(writes[entry % len(writes), 1], scalars[NOW_NS] + (scalars[KEEPS_NS] > 0))
    sleep(scalars[NOW_NS], until_ns, memory)
    scalars[NOW_NS] = max(scalars[NOW_NS], until_ns)
    complete_writes(memory)


@inner
def drop_write(page, memory):  # type: ignore[no-untyped-def]
    """Forget a page that was unmapped for good while it was being written."""
    scalars, writes = memory[6], memory[10]
    for entry in range(scalars[WRITES_FIRST], scalars[WRITES_END]):
        if writes[entry % len(writes), 0] == page:
            writes[entry % len(writes), 0] = NO_PAGE
