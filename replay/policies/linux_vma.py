"""`linux-vma`: Linux's swap readahead by virtual address, the default on devices that do not rotate."""

import numpy as np

from kdtool.replay.hook import CTX_VMA, CTX_VMA_END, CTX_VMA_START, FOUND
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.replay.policies.readahead import INITIAL_HITS, WINDOW_MAX, swapin_nr_pages
from kdtool.rmt.jit import jit

__all__ = ["LinuxVma"]

HITS_MAX = 63
PMD_PAGES = 512

# state: one word unused (steps) | per VMA: address (vpn), window, hits; all 0 = never used
WORDS = 3


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Count a hit, or on a miss open a window; params[0] is the largest window, 1 = no readahead."""
    page, major = ctx[0], ctx[5]
    word = 1 + WORDS * ctx[CTX_VMA]
    fresh = state[word] == 0 and state[word + 1] == 0 and state[word + 2] == 0
    if major != 1:
        # swap_update_readahead(): each prefetched page is touched first just once, so it was flagged.
        hits = INITIAL_HITS if fresh else state[word + 2]
        state[word] = page
        state[word + 2] = min(hits + (major != FOUND), HITS_MAX)
        return 0
    if params[0] == 1:
        return 0
    previous, hits = state[word], INITIAL_HITS if fresh else state[word + 2]
    window = swapin_nr_pages(previous, page, hits, params[0], state[word + 1])
    state[word], state[word + 1], state[word + 2] = page, window, 0
    if window == 1:
        return 0
    if page == previous + 1:
        left = page
    elif previous == page + 1:
        left = page - window + 1
    else:
        left = page - (window - 1) // 2
    right = left + window
    pmd = page - page % PMD_PAGES
    left = max(left, 0, ctx[CTX_VMA_START], pmd)
    right = min(right, ctx[CTX_VMA_END], pmd + PMD_PAGES)
    n = 0
    for candidate in range(left, right):
        out[n] = candidate
        n += 1
    return n


class LinuxVma:
    """Read a window around the fault, sized by how many of the last window's pages were used.

    State: three words a VMA. Kernel counterpart: swap_vma_readahead() and swap_update_readahead()
    (mm/swap_state.c, v6.18); which VMA a page is in is vmas.py's matter. A synchronous device reads
    nothing ahead. Versions: 6.18; 6.18-2 reads the fault's own page in its place, not first; 6.18-3 follows
    pages that are found in the swap cache, and VMAs as they change, before that at their largest extent.
    """

    name = "linux-vma"
    version = "6.18-3"
    degree_pages = WINDOW_MAX
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the largest window and a word triple for every VMA."""
        window = 1 if setting.device.synchronous else WINDOW_MAX
        n_vmas = setting.workload.n_vmas
        state = np.zeros(1 + WORDS * n_vmas, np.int64)
        return Prepared(np.array([window], np.int64), state, follows_cache=True)
