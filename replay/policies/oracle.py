"""`oracle`: the next pages that will really be missing. Not a policy, a bound to compare with."""

import numpy as np

from kdtool.replay.future import first_uses
from kdtool.replay.hook import CTX_ROW, NAMED_PAGE
from kdtool.replay.longarrays import new_array
from kdtool.replay.memory import PAGE, PREFETCHED, SWAPPED
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import jit

__all__ = ["Oracle"]

DEGREE = 16
PAGE_BYTES = PAGE.itemsize

# params: the records of all pages, whose first byte is the status
# state: one word unused (steps) | references, pages of memory, pages of the trace | per page: the last row at
# which it was looked at | per reference, 32 bits each: its page, ~page where it is used for the first time
N_REFS, CAPACITY, N_PAGES, LOOKED = 1, 2, 3, 4


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Ask for those of the next DEGREE pages to be missing that are not on their way yet."""
    status = params.view(np.uint8)[::PAGE_BYTES]
    looked = state[LOOKED : LOOKED + state[N_PAGES]]
    coming = state[LOOKED + state[N_PAGES] :].view(np.int32)
    row = ctx[CTX_ROW]
    n = missing = distinct = 0
    for at in range(row + 1, state[N_REFS]):
        page = coming[at] if coming[at] >= 0 else ~coming[at]
        if looked[page] == row:
            continue
        looked[page] = row
        distinct += 1
        if missing == DEGREE or distinct == state[CAPACITY]:
            break
        if status[page] == SWAPPED and coming[at] >= 0:
            out[n] = NAMED_PAGE - page
            n += 1
        missing += status[page] == SWAPPED or status[page] == PREFETCHED
    return n


class Oracle:
    """Prefetch the 16 pages that will be missing next, as memory now is, if they fit until they are used.

    A bound for prefetchers of that degree in the run's own reclaim. Looks ahead, which nothing else here
    may. Differs from an optimum: reclaim decides what goes, so that what goes for a prefetched page may be
    used before it, which is then asked for as well. Versions: 2 looks at what is in memory; 1 asked for the
    faults of the run without prefetching, which are others once anything is prefetched.
    """

    name = "oracle"
    version = "2"
    degree_pages = DEGREE
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the status of memory, and the references to come."""
        w = setting.workload
        n_pages = w.n_pages
        head = 4 + n_pages
        state = new_array(head + (w.n_refs + 1) // 2, np.int64)
        state[:4] = 0, w.n_refs, setting.memory_pages, n_pages
        state[4:head] = -1
        coming = state[head:].view(np.int32)[: w.n_refs]
        coming[:] = w.page
        np.invert(coming, out=coming, where=first_uses(w).view(np.bool_))
        return Prepared(setting.memory.pages.view(np.int64), state)
