"""How many write requests may be on their way to a device: blk-wbt, writeback throttling.

Swap may have the most that it allows, `write_requests` of the device at first (RWB_DEF_DEPTH, 16); 0: it
does not throttle. Who would have one more sleeps until *all* have ended, as where the device has a write
cache. Each 100 ms in which something is written double the number, and take one off, up to 12 times as many
(3/4 of a queue of 256); each five in which nothing is undo one such step.

    THROTTLE_STEP       how often it was doubled
    THROTTLE_AT_NS      when the 100 ms end, 0 before the first write

Follows wbt_wait(), get_limit(), wbt_rqw_done() and wb_timer_fn() in block/blk-wbt.c, and block/blk-rq-qos.c,
v6.18. Differs from the kernel: no read is ever so slow (wbt_lat_usec) that writes are held back, and the most
is that of a queue of 256, whatever the disk has.
"""

from kdtool.replay.memory import (
    KEEPS_NS,
    NOW_NS,
    THROTTLE_AT_NS,
    THROTTLE_STEP,
    WRITE_REQUESTS,
    WRITES_FIRST,
    WRITES_OUT,
    WRITES_SENT,
)
from kdtool.replay.plug import send_writes
from kdtool.replay.writeends import sleep
from kdtool.rmt.jit import inner

__all__ = ["wait_for_requests"]

WINDOW_NS = 100_000_000
"""RWB_WINDOW_NSEC."""
UNKNOWN_BUMP = 5
MOST_STEPS = 4
MOST_TIMES = 12
"""So many times `write_requests` are three quarters of a queue of 256 requests, scaled_max."""


@inner
def _change_step(now_ns, scalars):  # type: ignore[no-untyped-def]
    """Bring the number up to date for a write request that begins: one step a window with writes."""
    at_ns = scalars[THROTTLE_AT_NS]
    if at_ns and now_ns < at_ns:
        return
    idle = (now_ns - at_ns) // WINDOW_NS
    if at_ns:
        scalars[THROTTLE_STEP] = max(min(scalars[THROTTLE_STEP] + 1, MOST_STEPS) - idle // UNKNOWN_BUMP, 0)
    if at_ns and scalars[THROTTLE_STEP]:
        scalars[THROTTLE_AT_NS] += (idle + 1) * WINDOW_NS
    else:
        scalars[THROTTLE_AT_NS] = now_ns + WINDOW_NS


@inner
def _on_their_way(memory):  # type: ignore[no-untyped-def]
    """Return how many write requests have not ended; that a worker has to note it is the device's matter."""
    scalars, writes = memory[6], memory[10]
    n, at = scalars[WRITES_OUT], scalars[WRITES_FIRST]
    sent = at if scalars[KEEPS_NS] else scalars[WRITES_SENT]
    while at < sent and writes[at % len(writes), 1] <= scalars[NOW_NS]:
        n -= writes[at % len(writes), 2]
        at += 1
    return n


@inner
def wait_for_requests(memory, device):  # type: ignore[no-untyped-def]
    """Before a write request begins, sleep until all others have ended, if they are too many."""
    most, scalars, writes = device[WRITE_REQUESTS], memory[6], memory[10]
    if not most:
        return
    _change_step(scalars[NOW_NS], scalars)
    most = min(1 + (most - 1 << scalars[THROTTLE_STEP]), most * MOST_TIMES)
    if scalars[WRITES_OUT] < most or _on_their_way(memory) < most:
        return
    send_writes(memory, device)
    last_ns = writes[(scalars[WRITES_SENT] - 1) % len(writes), 1]
    until_ns = max(last_ns, scalars[NOW_NS] + (scalars[KEEPS_NS] > 0))  # as in wait_for_write()
    sleep(scalars[NOW_NS], until_ns, memory)
    scalars[NOW_NS] = max(scalars[NOW_NS], until_ns)
