"""The one swap device of a replay: a queue that serves reads and writes in the order in which they come.

An operation ends `latency_ns` after it was submitted, and at least `service_ns` after the one before it, or
`transfer_ns` when it is merged with that: the next slot, while the device is busy.
"""

import numpy as np

from kdtool.replay.memory import (
    BATCHED,
    DEVICE_FREE_NS,
    LAST_SLOT,
    LATENCY_NS,
    SERVICE_NS,
    SYNCHRONOUS,
    TRANSFER_NS,
    WAITED_NS,
    WORKED_NS,
)
from kdtool.replay.zeropages import fill_zero_pages
from kdtool.rmt.jit import inner

__all__ = ["read_pages", "submit_io"]


@inner
def submit_io(at_slot, now_ns, scalars, device):  # type: ignore[no-untyped-def]
    """Submit the read or write of a slot and return when it ends."""
    merged = at_slot == scalars[LAST_SLOT] + 1 and scalars[DEVICE_FREE_NS] > now_ns
    gap = device[TRANSFER_NS] if merged else device[SERVICE_NS]
    done = max(now_ns + device[LATENCY_NS], scalars[DEVICE_FREE_NS] + gap)
    scalars[DEVICE_FREE_NS] = done
    scalars[LAST_SLOT] = at_slot
    return done


@inner
def read_pages(m, missing, compute_ns, out, memory, device):  # type: ignore[no-untyped-def]
    """Submit the m reads in `out` together; pages of one request come together, on some devices all.

    Returns when that of `missing` ends, 0 if it is -1 or needs none.
    """
    slot, ready_ns, scalars = memory[3], memory[5], memory[6]
    if len(memory[16]):
        m, missing = fill_zero_pages(m, missing, out, memory, device)
    if device[SYNCHRONOUS]:
        # The faulting thread itself does the work of a synchronous device.
        scalars[WORKED_NS] += (m - (missing >= 0)) * device[LATENCY_NS]
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    missing_ns, first = np.int64(0), 0
    for i in range(m):
        ends_ns = submit_io(slot[out[i]], now_ns, scalars, device)
        if i + 1 < m and (device[BATCHED] or slot[out[i + 1]] == slot[out[i]] + 1):
            continue
        if device[SYNCHRONOUS] and out[i] != missing:
            ends_ns = now_ns
        for j in range(first, i + 1):
            if out[j] == missing:  # nobody looks it up later: its line of ready_ns need not come
                missing_ns = ends_ns
            else:
                ready_ns[out[j]] = ends_ns
        first = i + 1
    return missing_ns
