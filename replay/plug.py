"""Requests that a task has queued and not sent to the block device yet: its plug.

    a page ──next slot of the last request, same direction?──► into it, `request_pages` at most
      └─no─► a request more; first, for a write, wait where too many are on their way (throttle.py), and send
             what is queued where that is 32 requests, or the *first* of them has 128 KiB

It is sent as well when reclaim ends, or the task sleeps. Where readahead, or an agent's call, holds a plug of
its own, reclaim for its pages queues into that: what it writes stays there until all pages of the window have
been queued, unless the task sleeps or the plug is full. With a read of one page as its first request it is
full only at 32 requests, of which each write may have `request_pages`: some 8,000 pages that reclaim has
unmapped, and that nobody has begun to write.

    PLUG_HELD       1 while such a plug is held
    PLUG_REQUESTS   how many requests are queued; PLUG_FIRST and PLUG_PAGES: of how many pages the first and
                    the last one are; PLUG_NEXT: twice the slot with which the last one would go on, one more
                    if it reads
    writes[i]       (page, its slot and, once sent, when its write ends, 1 if it is the last of its request),
                    a ring; WRITES_FIRST, WRITES_SENT and WRITES_END count the entries that were completed,
                    sent and queued; a page that was unmapped is NO_PAGE. A request's pages end together

Follows blk_add_rq_to_plug() and blk_attempt_plug_merge() in block/blk-mq.c and blk-merge.c, blk_start_plug()
in block/blk-core.c, and swap_vma_readahead() in mm/swap_state.c, v6.18. Differs from the kernel: reads
go when their window ends, before its writes, also where the plug was sent before; the missed page is queued
first, wherever in the window it is; and a page of the window takes no time before what is queued after it.
"""

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.memory import (
    NOW_NS,
    PLUG_FIRST,
    PLUG_HELD,
    PLUG_NEXT,
    PLUG_PAGES,
    PLUG_REQUESTS,
    REQUEST_PAGES,
    WRITES_END,
    WRITES_SENT,
)
from kdtool.rmt.jit import inner

__all__ = ["finish_reclaim", "hold_plug", "joins_last", "queue_page", "release_plug", "send_writes"]

BLK_MAX_REQUEST_COUNT = 32
BLK_PLUG_FLUSH_PAGES = 32
"""BLK_PLUG_FLUSH_SIZE, 128 KiB."""


@inner
def send_writes(memory, device):  # type: ignore[no-untyped-def]
    """Hand what was queued to the device."""
    scalars, writes = memory[6], memory[10]
    first = scalars[WRITES_SENT]
    while scalars[WRITES_SENT] < scalars[WRITES_END]:
        entry = scalars[WRITES_SENT] % len(writes)
        ends_ns = submit_io(writes[entry, 1], scalars[NOW_NS], scalars, device)
        scalars[WRITES_SENT] += 1
        if writes[entry, 2]:
            for of_request in range(first, scalars[WRITES_SENT]):
                writes[of_request % len(writes), 1] = ends_ns
            first = scalars[WRITES_SENT]
    scalars[PLUG_REQUESTS] = 0


@inner
def hold_plug(scalars):  # type: ignore[no-untyped-def]
    """Have what reclaim writes wait for the pages of a window, or of an agent's call: blk_start_plug()."""
    scalars[PLUG_HELD] = 1


@inner
def release_plug(memory, device):  # type: ignore[no-untyped-def]
    """Send what is queued; the window's reads go before: blk_finish_plug()."""
    memory[6][PLUG_HELD] = 0
    send_writes(memory, device)


@inner
def finish_reclaim(memory, device):  # type: ignore[no-untyped-def]
    """Send what a reclaim has queued, unless it queued into the plug of another."""
    if not memory[6][PLUG_HELD]:
        send_writes(memory, device)


@inner
def joins_last(at_slot, reads, scalars, device):  # type: ignore[no-untyped-def]
    """Tell whether a page becomes part of the request that was queued last."""
    goes_on = scalars[PLUG_REQUESTS] and scalars[PLUG_NEXT] == 2 * at_slot + reads
    return goes_on and scalars[PLUG_PAGES] < device[REQUEST_PAGES]


@inner
def queue_page(at_slot, reads, memory, device):  # type: ignore[no-untyped-def]
    """Queue a page's read or write; return whether it is the first of a request."""
    scalars = memory[6]
    begins = not joins_last(at_slot, reads, scalars, device)
    if begins:
        if scalars[PLUG_REQUESTS] >= BLK_MAX_REQUEST_COUNT or (
            scalars[PLUG_REQUESTS] and scalars[PLUG_FIRST] >= BLK_PLUG_FLUSH_PAGES
        ):
            send_writes(memory, device)
        scalars[PLUG_REQUESTS] += 1
        scalars[PLUG_PAGES] = 0
    scalars[PLUG_PAGES] += 1
    if scalars[PLUG_REQUESTS] == 1:
        scalars[PLUG_FIRST] = scalars[PLUG_PAGES]
    scalars[PLUG_NEXT] = 2 * (at_slot + 1) + reads
    return begins
