"""Pages on their way to the swap device: unmapped, still in memory, freed once they are written.

    begin_write   unmapped and queued, newest of the inactive list: pageout(), swap_writeout()
    submit        what was queued goes to the device together: before a request that would be one too many or
                  comes behind a large one, blk_add_rq_to_plug(), and at the scan's end, blk_finish_plug();
                  writes so end while the scan goes on, and it meets their pages
    complete      oldest of the inactive list, so that reclaim meets it next: folio_rotate_reclaimable()

Who notes that a write has ended is the device's matter: the interrupt at once, or, behind a loop device
with direct I/O, a worker of the CPU that it interrupted (slice_ns of devices.py, iomap_dio_bio_end_io()).
That is the CPU of the thread that the reads of the same disk wake. There the worker, which to the scheduler
has had its share, waits until that thread sleeps, or for a tick once its slice is over (update_curr()).
Having waited it has time to its credit, and preempts the thread (entity_eligible()), until a write ends
while that sleeps: the worker runs alone then, and has none (update_entity_lag()).

    WOKE_NS, HAS_LAG    when the thread woke last, and whether the worker has credit
    KEEPS_NS, JIFFY_NS  the slice, 0 where the interrupt notes it or several threads run, and a tick

    writes[i]     (page, when its write ends), a ring; scalars WRITES_FIRST, WRITES_SENT and WRITES_END count
                  the entries that were completed, submitted and queued; a page that was unmapped is NO_PAGE

    PLUG_REQUESTS, PLUG_PAGES, PLUG_SLOT count the requests that are queued, and say of the last one how many
                  pages it has and which slot would go on with it

Follows mm/page_io.c, mm/swap.c, shrink_folio_list() in mm/vmscan.c, block/blk-mq.c, fs/iomap/direct-io.c
and kernel/sched/fair.c, v6.18. Reads share the device. Pages full of zeros do not come here,
see zeropages.py. Differs from the kernel: a request takes no more
pages once the plug is emptied for its size, as where the queue's max_sectors_kb is 128; the worker's own
time uses up no credit, and nothing else has it run.
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.generations import generation_list, set_generation
from kdtool.replay.lists import INACTIVE_LIST, push_newest, push_oldest
from kdtool.replay.memory import (
    DIRTY,
    FLUSH_AT_NS,
    HAS_LAG,
    JIFFY_NS,
    KEEPS_NS,
    MGLRU,
    MIN_SEQ,
    NOW_NS,
    PLUG_PAGES,
    PLUG_REQUESTS,
    PLUG_SLOT,
    RECLAIM_KIND,
    WAITED_NS,
    WOKE_NS,
    WRITEBACK,
    WRITES_END,
    WRITES_FIRST,
    WRITES_SENT,
    WRITTEN,
)
from kdtool.replay.slots import NO_PAGE
from kdtool.rmt.jit import inner

__all__ = ["begin_write", "complete_writes", "drop_write", "sleep", "submit_writes", "wait_for_write"]

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
def _take_written(until_ns, memory):  # type: ignore[no-untyped-def]
    """Move the pages whose write has ended by a time to the oldest end of the inactive list."""
    scalars, marks, writes = memory[6], memory[8], memory[10]
    while scalars[WRITES_FIRST] < scalars[WRITES_SENT]:
        entry = scalars[WRITES_FIRST] % len(writes)
        if writes[entry, 1] > until_ns:
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
def _tick_after(ns, scalars):  # type: ignore[no-untyped-def]
    """Return the first tick from a time on; statistics are brought up to date by a timer, at one."""
    at_ns = scalars[FLUSH_AT_NS]
    return at_ns - (at_ns - ns) // scalars[JIFFY_NS] * scalars[JIFFY_NS]


@inner
def _ended(until_ns, memory):  # type: ignore[no-untyped-def]
    """Tell whether the oldest write has ended by a time and is not noted yet."""
    scalars, writes = memory[6], memory[10]
    first = scalars[WRITES_FIRST]
    return first < scalars[WRITES_SENT] and writes[first % len(writes), 1] <= until_ns


@inner
def complete_writes(memory):  # type: ignore[no-untyped-def]
    """Note which writes have ended, as far as the kernel knows by now."""
    scalars, writes = memory[6], memory[10]
    now_ns = scalars[NOW_NS]
    if not _ended(now_ns, memory):
        return
    if scalars[KEEPS_NS] and not scalars[HAS_LAG]:
        ended_ns = writes[scalars[WRITES_FIRST] % len(writes), 1]
        free_ns = max(scalars[WOKE_NS] + scalars[KEEPS_NS], ended_ns)
        if _tick_after(free_ns, scalars) > now_ns:
            return
        scalars[HAS_LAG] = 1
    _take_written(now_ns, memory)


@inner
def sleep(now_ns, until_ns, memory):  # type: ignore[no-untyped-def]
    """Have the running thread wait, if that is to come: its CPU is the worker's meanwhile."""
    scalars = memory[6]
    if until_ns <= now_ns:
        return
    scalars[WAITED_NS] += until_ns - now_ns
    if not scalars[KEEPS_NS]:
        return
    scalars[WOKE_NS] = until_ns
    if _ended(now_ns, memory):
        scalars[HAS_LAG] = 1
        _take_written(now_ns, memory)
    if _ended(until_ns, memory):
        scalars[HAS_LAG] = 0
        _take_written(until_ns, memory)


@inner
def wait_for_write(page, memory, device):  # type: ignore[no-untyped-def]
    """Stand still until the page is written, as reclaim in a v1 cgroup does: folio_wait_writeback()."""
    scalars, writes = memory[6], memory[10]
    submit_writes(memory, device)
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
