"""`markov`: Joseph and Grunwald's prefetcher: the pages that followed this one the last times."""

import numpy as np

from kdtool.replay.hook import CTX_PROCESS
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import inner, jit

__all__ = ["Markov"]

SETS, WAYS = 4096, 4
FAN_OUT = 4

# state: one word unused (steps) | clock | per row: process + 1 (0 = empty), page, time of last use, pages
# that followed + 1, newest first | per process: last page + 1
CLOCK, ROWS = 1, 2
OWNER, PAGE, USED, NEXT = 0, 1, 2, 3
WORDS = NEXT + FAN_OUT
LAST = ROWS + SETS * WAYS * WORDS


@inner
def _find_row(state, owner, page, may_replace):  # type: ignore[no-untyped-def]
    """Return a page's row, -1 if it has none; `may_replace` gives it the set's least recently used one."""
    first = ROWS + WORDS * WAYS * ((page ^ (page >> 12) ^ owner) & (SETS - 1))
    oldest = first
    for way in range(WAYS):
        row = first + WORDS * way
        if state[row + OWNER] == owner and state[row + PAGE] == page:
            state[row + USED] = state[CLOCK]
            return row
        if state[row + USED] < state[oldest + USED]:
            oldest = row
    if not may_replace:
        return -1
    state[oldest : oldest + WORDS] = 0
    state[oldest + OWNER], state[oldest + PAGE], state[oldest + USED] = owner, page, state[CLOCK]
    return oldest


@inner
def _follow(state, row, page):  # type: ignore[no-untyped-def]
    """Make `page` the newest successor of a row; the oldest falls out."""
    at = 0
    while at < FAN_OUT - 1 and state[row + NEXT + at] != page + 1:
        at += 1
    for i in range(at, 0, -1):
        state[row + NEXT + i] = state[row + NEXT + i - 1]
    state[row + NEXT] = page + 1


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Note that the page followed the process's last one, and ask for those that followed it before."""
    page, owner = ctx[0], ctx[CTX_PROCESS] + 1
    state[CLOCK] += 1
    last = LAST + ctx[CTX_PROCESS]
    if state[last]:
        _follow(state, _find_row(state, owner, state[last] - 1, True), page)
    state[last] = page + 1
    row, n = _find_row(state, owner, page, False), 0
    if row < 0:
        return 0
    while n < FAN_OUT and state[row + NEXT + n]:
        out[n] = state[row + NEXT + n] - 1
        n += 1
    return n


class Markov:
    """A table from a page to the 4 different pages that most recently came after it.

    State: 16,384 rows of 7 words (896 KiB), and a word a process. Source: Joseph and Grunwald,
    Prefetching Using Markov Predictors, ISCA 1997, section 3: the miss stream as a first-order Markov
    chain, several next-address predictors a row, replaced least recently used first, all of them
    prefetched in that order, a table of at most 1 MB. Adapted: pages instead of cache lines; the stream
    of each process by itself; 4-way sets; rows replaced least recently used first. Versions: 1.
    """

    name = "markov"
    version = "1"
    degree_pages = FAN_OUT
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return an empty table."""
        return Prepared(np.zeros(1, np.int64), np.zeros(LAST + len(setting.workload.pids), np.int64))
