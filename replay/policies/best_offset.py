"""`best-offset`: Michaud's prefetcher: the one offset that would have been in time most often."""

import numpy as np

from kdtool.replay.hook import CTX_NOW_NS
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import inner, jit

__all__ = ["OFFSETS", "BestOffset"]

SCORE_MAX, ROUND_MAX, BAD_SCORE = 31, 100, 1
RECENT, RECENT_TAGS = 256, 1 << 12
IN_FLIGHT = 64

OFFSETS = tuple(
    sorted(
        2**i * 3**j * 5**k for i in range(9) for j in range(6) for k in range(4) if 2**i * 3**j * 5**k <= 256
    )
)
"""Every number up to 256 whose prime factors are at most 5: 52 of them."""
N_OFFSETS = len(OFFSETS)

# params: latency of a read in ns | the offsets
# state: one word unused (steps) | offset in use, 0 = off; index of the offset under test; rounds done;
# index of the oldest read in flight, how many are | scores | recent requests: tag + 1, 0 = empty |
# reads in flight: page that asked, when it ends
OFFSET, TEST, ROUND, OLDEST, FLYING, SCORES = 1, 2, 3, 4, 5, 6
TABLE = SCORES + N_OFFSETS
QUEUE = TABLE + RECENT


@inner
def _place(page):  # type: ignore[no-untyped-def]
    """Return (index, tag + 1) of a page in the table of recent requests."""
    return (page ^ (page >> 8)) & (RECENT - 1), ((page >> 8) & (RECENT_TAGS - 1)) + 1


@inner
def _land(state, now_ns):  # type: ignore[no-untyped-def]
    """Enter the pages whose reads have ended among the recent requests."""
    while state[FLYING] and state[QUEUE + 2 * state[OLDEST] + 1] <= now_ns:
        index, tag = _place(state[QUEUE + 2 * state[OLDEST]])
        state[TABLE + index] = tag
        state[OLDEST] = (state[OLDEST] + 1) % IN_FLIGHT
        state[FLYING] -= 1


@inner
def _take_off(state, page, done_ns):  # type: ignore[no-untyped-def]
    """Note that `page` asked for a read that ends at `done_ns`; a full queue takes no more."""
    if state[FLYING] < IN_FLIGHT:
        at = QUEUE + 2 * ((state[OLDEST] + state[FLYING]) % IN_FLIGHT)
        state[at], state[at + 1] = page, done_ns
        state[FLYING] += 1


@inner
def _learn(params, state, page):  # type: ignore[no-untyped-def]
    """Test the next offset; at the end of the phase's last round adopt the best one, or none."""
    index, tag = _place(page - params[1 + state[TEST]])
    if state[TABLE + index] == tag:
        state[SCORES + state[TEST]] += 1
    state[TEST] += 1
    if state[TEST] < N_OFFSETS:
        return
    state[TEST] = 0
    state[ROUND] += 1
    best = 0
    for i in range(N_OFFSETS):
        if state[SCORES + i] > state[SCORES + best]:
            best = i
    if state[SCORES + best] >= SCORE_MAX or state[ROUND] == ROUND_MAX:
        state[OFFSET] = params[1 + best] if state[SCORES + best] > BAD_SCORE else 0
        state[ROUND] = 0
        state[SCORES : SCORES + N_OFFSETS] = 0


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Learn from the page, and ask for the one at the offset in use from it."""
    page = ctx[0]
    _land(state, ctx[CTX_NOW_NS])
    _learn(params, state, page)
    _take_off(state, page, ctx[CTX_NOW_NS] + params[0])
    if state[OFFSET] == 0:
        return 0
    out[0] = page + state[OFFSET]
    return 1


class BestOffset:
    """Prefetch page + D, for the D that lay between most pages and an earlier one whose read had ended.

    State: 442 words for the whole machine. Source: Michaud, Best-Offset Hardware Prefetching, HPCA 2016,
    section 4: 52 offsets, 256 recent requests of 12-bit tags, SCOREMAX 31, ROUNDMAX 100, BADSCORE 1,
    degree 1; with its throttling: a bad score turns it off while it goes on learning.
    Adapted: pages instead of cache lines, and no boundary that it may not cross; the end of a read is
    taken to be the device's latency after it was asked for, in a queue of 64, as in the author's entry
    to the Data Prefetching Championship 2015. Versions: 1.
    """

    name = "best-offset"
    version = "1"
    degree_pages = 1
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the offsets and an empty table; it starts with offset 1."""
        latency_ns = 0 if setting.device.synchronous else setting.device.number("latency_ns")
        state = np.zeros(QUEUE + 2 * IN_FLIGHT, np.int64)
        state[OFFSET] = 1
        return Prepared(np.array([latency_ns, *OFFSETS], np.int64), state)
