"""`leap-paper`: Leap's prefetcher as its paper describes it (ATC'20): a majority vote over strides."""

import numpy as np

from kdtool.replay.hook import CTX_PROCESS
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import jit

__all__ = ["LeapPaper", "find_trend", "prefetch_window"]

HISTORY = 32
N_SPLIT = 2
WINDOW_MAX = 8

# state: one word unused (steps) | per process: n deltas seen, last page, hits, window, last trend,
# ring of HISTORY deltas
SEEN, LAST, HITS, WINDOW, TREND, RING = 0, 1, 2, 3, 4, 5
WORDS = RING + HISTORY


@jit()
def find_trend(ring, newest, seen):  # type: ignore[no-untyped-def]
    """Return (found, delta): Boyer-Moore's majority over growing windows of the newest deltas.

    `ring` holds the last len(ring) deltas, the newest at index `newest`, `seen` of them so far.
    Algorithm 1 of the paper; a window that is not full yet finds nothing.
    """
    size = len(ring)
    width = size // N_SPLIT
    while width <= min(size, seen):
        candidate, votes = 0, 0
        for i in range(width):
            delta = ring[(newest - i) % size]
            if votes == 0:
                candidate = delta
            votes += 1 if delta == candidate else -1
        count = 0
        for i in range(width):
            count += ring[(newest - i) % size] == candidate
        if count > width // 2:
            return True, candidate
        width *= 2
    return False, 0


@jit()
def prefetch_window(hits, follows_trend, previous):  # type: ignore[no-untyped-def]
    """Return the window in pages: Algorithm 2 of the paper.

    >>> [int(prefetch_window(hits, False, 0)) for hits in range(6)]
    [0, 2, 4, 4, 8, 8]
    """
    if hits == 0:
        window = 1 if follows_trend else 0
    else:
        window = 1
        while window < hits + 1:
            window *= 2
    window = min(window, WINDOW_MAX)
    return max(window, previous // 2)


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Log the request; on a miss prefetch along the trend, or around with the last one."""
    page, base = ctx[0], 1 + WORDS * ctx[CTX_PROCESS]
    ring = state[base + RING : base + WORDS]
    # The very first delta is taken from page 0, as in the paper's worked example.
    newest, delta = state[base + SEEN] % HISTORY, page - state[base + LAST]
    ring[newest] = delta
    state[base + SEEN] += 1
    state[base + LAST] = page
    if not ctx[5]:
        state[base + HITS] += 1
        return 0
    found, trend = find_trend(ring, newest, state[base + SEEN])
    follows = found and delta == trend
    window = prefetch_window(state[base + HITS], follows, state[base + WINDOW])
    state[base + HITS] = 0
    state[base + WINDOW] = window
    if found:
        state[base + TREND] = trend
    step, n = state[base + TREND], 0
    if step == 0:
        return 0
    for i in range(1, window + 1):
        # Without a trend: speculatively around the page, with the last known one.
        distance = i if found else ((i + 1) // 2 if i % 2 else -(i // 2))
        if page + distance * step >= 0:
            out[n] = page + distance * step
            n += 1
    return n


class LeapPaper:
    """A majority of the last strides is the trend; the window grows with the hits it earns.

    State: 37 words a process. Source: Al Maruf and Chowdhury, Effectively Prefetching Remote Memory
    with Leap, USENIX ATC'20, algorithms 1 and 2; history 32, window at most 8 pages. Differs: pages
    enter the one LRU instead of a prefetch FIFO with eager eviction. Versions: 1.
    """

    name = "leap-paper"
    version = "1"
    degree_pages = WINDOW_MAX
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return a history for every process."""
        return Prepared(np.zeros(1, np.int64), np.zeros(1 + WORDS * len(setting.workload.pids), np.int64))
