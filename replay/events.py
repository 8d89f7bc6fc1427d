"""The events of `mm.swapin` in a trace at one memory: the pages that a run without prefetching misses."""

import numpy as np
import numpy.typing as npt

from kdtool.replay.keys import VPN_BITS
from kdtool.replay.memory import SWAP_MISSED
from kdtool.replay.run import Shadow
from kdtool.replay.workload import Workload
from kdtool.rmt import CONTEXT_FIELDS

__all__ = ["miss_events"]


def miss_events(workload: Workload, shadow: Shadow, stop_row: int | None = None) -> npt.NDArray[np.int64]:
    """Return the major faults before `stop_row`: int64 (n_faults, n_context_fields), as CONTEXT_FIELDS.

    These are what the hook sees when every prefetch is right: each then is a first touch of a
    prefetched page instead of a major fault, in the same order.
    """
    rows = np.flatnonzero(shadow.missed[:stop_row] == SWAP_MISSED)
    key = workload.keys_of(rows)
    vpn = key & ((1 << VPN_BITS) - 1)
    fields = {
        "vpn": vpn,
        "pid": workload.pids[key >> VPN_BITS],
        "tid": workload.tids[workload.thread[rows]],
        "ip": workload.ip[rows],
        "region": vpn >> 13,
        "major": np.ones(len(rows)),
    }
    return np.stack([fields[name] for name in CONTEXT_FIELDS], axis=1).astype(np.int64)
