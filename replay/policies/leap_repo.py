"""`leap-repo`: Leap's prefetcher as its authors' kernel has it, which differs from their paper throughout."""

import numpy as np

from kdtool.replay.hook import CTX_SLOT, NAMED_SLOT
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.replay.policies.readahead import INITIAL_HITS, WINDOW_MAX, swapin_nr_pages
from kdtool.rmt.jit import inner, jit

__all__ = ["LeapRepo", "find_trend"]

HISTORY = 32
"""init_swap_trend(32) in example/leap_functionality.c."""
N_SPLIT = 4

# state, one for the whole machine: one word unused (steps) | requests logged, last offset, hits, window,
# ring of HISTORY deltas
LOGGED, LAST, HITS, WINDOW, RING = 1, 2, 3, 4, 5


@inner
def _majority(ring, newest, width):  # type: ignore[no-untyped-def]
    """Return (found, delta) of the `width` newest deltas: find_trend_in_region()."""
    size = len(ring)
    candidate, votes = ring[newest], 1
    for i in range(1, width):
        delta = ring[(newest - i) % size]
        votes += 1 if delta == candidate else -1
        if votes == 0:
            candidate, votes = delta, 1
    count = 0
    for i in range(width):
        count += ring[(newest - i) % size] == candidate
    return count > width // 2, candidate


@jit()
def find_trend(ring, newest):  # type: ignore[no-untyped-def]
    """Return (found, delta) of the first window of 1/4, 1/2 and all of the ring that has a majority.

    Entries that were never written take part as deltas of 0.
    """
    width = len(ring) // N_SPLIT
    while width <= len(ring):
        found, delta = _majority(ring, newest, width)
        if found:
            return True, delta
        width *= 2
    return False, 0


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Log the request; on a miss read along the trend, or else the aligned cluster of slots around."""
    offset, ring = ctx[CTX_SLOT], state[RING : RING + HISTORY]
    newest = state[LOGGED] % HISTORY
    ring[newest] = offset - state[LAST] if state[LOGGED] else 0
    state[LOGGED] += 1
    state[LAST] = offset
    if not ctx[5]:
        state[HITS] += 1
        return 0
    # One hit at least: swapin_nr_pages() leaves out its rule for windows of 1 and 2 pages here.
    pages = swapin_nr_pages(0, offset, max(state[HITS], 1), WINDOW_MAX, state[WINDOW])
    state[HITS] = 0
    state[WINDOW] = pages
    found, delta = find_trend(ring, newest)
    first, step = offset, delta
    if not found:
        first, step = offset & ~(pages - 1), 1
    n = 0
    for i in range(pages):
        slot = first + i * step
        if slot >= 1 and slot != offset:  # slot 0 is the header
            out[n] = NAMED_SLOT - slot
            n += 1
    return n


class LeapRepo:
    """A majority of the last strides of swap slots is the trend; without one, Linux's cluster readahead.

    State: 37 words for the whole machine. Source: github.com/SymbioticLab/Leap, mm/swap_state.c (Linux
    4.4.125): log_swap_trend(), find_trend(), swapin_nr_pages(), swapin_readahead(). Unlike the paper
    (`leap-paper`): slots instead of pages; one history, which counts what was never written as zeros;
    windows of 8, 16 and 32 deltas; at least 4 pages, the faulting one among them. Differs: Linux frees
    slots, where theirs frees one at every swap-in; their prefetch buffer is left off, as it is by default.
    Versions: 1.
    """

    name = "leap-repo"
    version = "1"
    degree_pages = WINDOW_MAX
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return an empty history."""
        state = np.zeros(RING + HISTORY, np.int64)
        state[HITS] = INITIAL_HITS
        return Prepared(np.zeros(1, np.int64), state)
