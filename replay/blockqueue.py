"""The one swap device of a replay: a queue that serves reads and writes in the order in which they come.

An operation ends `latency_ns` after it was submitted, and at least `service_ns` after the one before it, or
`transfer_ns` when it is merged with that: the next slot, while the device is busy. That pages of one request
come together is the caller's matter, who knows what was submitted together (hook.py).
"""

from kdtool.replay.memory import DEVICE_FREE_NS, LAST_SLOT, LATENCY_NS, SERVICE_NS, TRANSFER_NS
from kdtool.rmt.jit import inner

__all__ = ["submit_io"]


@inner
def submit_io(at_slot, now_ns, scalars, device):  # type: ignore[no-untyped-def]
    """Submit the read or write of a slot and return when it ends."""
    merged = at_slot == scalars[LAST_SLOT] + 1 and scalars[DEVICE_FREE_NS] > now_ns
    gap = device[TRANSFER_NS] if merged else device[SERVICE_NS]
    done = max(now_ns + device[LATENCY_NS], scalars[DEVICE_FREE_NS] + gap)
    scalars[DEVICE_FREE_NS] = done
    scalars[LAST_SLOT] = at_slot
    return done
