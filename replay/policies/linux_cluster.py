"""`linux-cluster`: Linux's swap readahead by place on the device, used when a swap device rotates."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kdtool.replay.hook import CTX_SLOT, FOUND, NAMED_SLOT
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.replay.policies.readahead import INITIAL_HITS, WINDOW_MAX, swapin_nr_pages
from kdtool.rmt.jit import jit

__all__ = ["LinuxCluster"]

# state: one word unused (steps) | hits, previous offset, last window; one for the whole machine
HITS, PREVIOUS, WINDOW = 1, 2, 3


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Count a hit, or on a miss read the aligned cluster of slots around; params[0] is its size."""
    if not ctx[5]:
        state[HITS] += 1
        return 0
    if params[0] == 1 or ctx[5] == FOUND:
        return 0
    offset, hits = ctx[CTX_SLOT], state[HITS]
    state[HITS] = 0
    pages = swapin_nr_pages(state[PREVIOUS], offset, hits, params[0], state[WINDOW])
    if hits == 0:
        state[PREVIOUS] = offset
    state[WINDOW] = pages
    if pages == 1:
        return 0
    start, n = offset & ~(pages - 1), 0
    for slot in range(max(start, 1), start + pages):  # slot 0 is the header
        out[n] = NAMED_SLOT - slot
        n += 1
    return n


@dataclass(frozen=True)
class LinuxCluster:
    """Read the aligned group of swap slots that the fault's is in, in order.

    State: three words for the whole machine. Kernel counterpart: swap_cluster_readahead() and
    swapin_nr_pages() (mm/swap_state.c, v6.18). A synchronous device reads nothing ahead. What lies
    around a slot is replay/slots.py's matter. Versions: 6.18; 6.18-2 with Linux's slots, before that
    slots were handed out in rising order; 6.18-3 reads the fault's own page in its place, not first;
    6.18-4 counts pages that are touched while they are written as read ahead.

    initial_hits : swapin_readahead_hits at the start. They and the window are the machine's, so that earlier
        programs leave them: as at boot by default, 0 after one whose readahead was of no use
    """

    initial_hits: int = INITIAL_HITS

    name: ClassVar[str] = "linux-cluster"
    version: ClassVar[str] = "6.18-4"
    degree_pages: ClassVar[int] = WINDOW_MAX
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the cluster's size and the initial counters."""
        window = 1 if setting.device.synchronous else WINDOW_MAX
        state = np.array([0, self.initial_hits, 0, 0], np.int64)
        return Prepared(np.array([window], np.int64), state, follows_cache=True)
