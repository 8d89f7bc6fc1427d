"""`ghb`: Nesbit and Smith's global history buffer, with the delta correlation of each instruction (PC/DC)."""

import numpy as np

from kdtool.replay.hook import CTX_PROCESS
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import inner, jit

__all__ = ["Ghb"]

INDEX_ENTRIES = 256
BUFFER = 256
DEGREE = 4

# state: one word unused (steps) | pages entered so far | index: process + 1 (0 = empty), instruction, number
# of its newest page | buffer: page, number of the instruction's page before | scratch: one instruction's
# pages, newest first
ENTERED, INDEX = 1, 2
OWNER, IP, NEWEST, INDEX_WORDS = 0, 1, 2, 3
PAGES = INDEX + INDEX_WORDS * INDEX_ENTRIES
SCRATCH = PAGES + 2 * BUFFER


@inner
def _enter(state, owner, ip, page):  # type: ignore[no-untyped-def]
    """Enter a page at the buffer's head, linked to the instruction's page before; return its number."""
    index = INDEX + INDEX_WORDS * ((ip ^ (ip >> 8) ^ owner) & (INDEX_ENTRIES - 1))
    known = state[index + OWNER] == owner and state[index + IP] == ip
    before = state[index + NEWEST] if known else 0
    state[ENTERED] += 1
    number = state[ENTERED]
    state[index + OWNER], state[index + IP], state[index + NEWEST] = owner, ip, number
    at = PAGES + 2 * (number % BUFFER)
    state[at], state[at + 1] = page, before
    return number


@inner
def _walk(state, number):  # type: ignore[no-untyped-def]
    """Copy an instruction's pages, newest first, as far as they are in the buffer; return how many."""
    n = 0
    while number > 0 and number > state[ENTERED] - BUFFER:
        at = PAGES + 2 * (number % BUFFER)
        state[SCRATCH + n] = state[at]
        number = state[at + 1]
        n += 1
    return n


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Find where the last two deltas came before, and ask for the pages that come after them."""
    page = ctx[0]
    count = _walk(state, _enter(state, ctx[CTX_PROCESS] + 1, ctx[3], page))
    pages = state[SCRATCH : SCRATCH + count]
    # Delta i leads from pages[i + 1] to pages[i]; the newest is delta 0.
    period = 1
    while period + 2 < count and (
        pages[period] - pages[period + 1] != pages[0] - pages[1]
        or pages[period + 1] - pages[period + 2] != pages[1] - pages[2]
    ):
        period += 1
    if period + 2 >= count:
        return 0
    n, target = 0, page
    for i in range(DEGREE):
        # After the match came deltas period - 1 to 0; beyond them the pattern is taken to repeat.
        delta = period - 1 - i % period
        target += pages[delta] - pages[delta + 1]
        if target >= 0 and target != page:
            out[n] = target
            n += 1
    return n


class Ghb:
    """The last two strides of an instruction, looked up in its own history, say which strides come next.

    State: index of 256 entries and buffer of 256 pages, 1,538 words for the whole machine. Source: Nesbit
    and Smith, Data Cache Prefetching Using a Global History Buffer, HPCA 2004, section 3: of its variants
    PC/DC, the delta correlation of each instruction, with pairs of deltas and depth 4. Adapted: pages
    instead of cache lines, faults and first touches of prefetched pages instead of misses; index entries
    tagged by process and instruction. Where the history after the match is shorter than the depth it is
    taken to repeat, so that one match of a constant stride reaches as far. Versions: 1.
    """

    name = "ghb"
    version = "1"
    degree_pages = DEGREE
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return an empty index and buffer."""
        return Prepared(np.zeros(1, np.int64), np.zeros(SCRATCH + BUFFER, np.int64))
