"""`oracle-unlimited`: what prefetching and reclaim could do if both knew the future. A bound, no policy."""

import numpy as np

from kdtool.replay.future import plan_memory
from kdtool.replay.hook import CTX_ROW, NAMED_PAGE
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import jit

__all__ = ["OracleUnlimited"]

DEPTHS = (0, 1, 4, 16, 64)

# params: n | rows of the events, rising | pages to read at them.  state: unused (steps) | next of them
NEXT = 1


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Ask for what the plan reads at this row."""
    rows, n = params[1 : 1 + params[0]], 0
    while state[NEXT] < len(rows) and rows[state[NEXT]] == ctx[CTX_ROW]:
        out[n] = NAMED_PAGE - params[1 + params[0] + state[NEXT]]
        state[NEXT] += 1
        n += 1
    return n


class OracleUnlimited:
    """Evict the page whose use is furthest, and read the next missing ones early, as many as helps.

    A bound on the run time of all prefetchers under any reclaim, since it brings its own: no page that is
    used sooner makes room for one that is used later, and nothing is read in vain. As many as helps: it is
    replayed with 0, 1, 4, 16 and 64 pages ahead, which is the most that a program may ask for, and the
    shortest run counts; further ahead it only reads more. On a synchronous device that is 0: there a fault
    costs less than a prefetch and its first touch. Source: replay/future.py. Differs from an optimum: one
    depth for the whole run, and an order of reads that ignores which of them the device could merge.
    Versions: 1.
    """

    name = "oracle-unlimited"
    version = "1"
    degree_pages = max(DEPTHS)
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the plan of the depth that makes the run shortest."""
        return min((self._plan(setting, depth) for depth in DEPTHS), key=setting.runtime_ns)

    def _plan(self, setting: Setting, depth_pages: int) -> Prepared:
        plan = plan_memory(setting.workload, setting.memory_pages, depth_pages)
        params = np.concatenate(([len(plan.rows)], plan.rows, plan.pages)).astype(np.int64)
        return Prepared(params, np.zeros(2, np.int64), plan.victims)
