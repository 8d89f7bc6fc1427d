"""`oracle`: the next pages that the trace will really miss. Not a policy, a bound to compare with."""

import numpy as np

from kdtool.replay.engine import CTX_ROW, NAMED_PAGE
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import DECIDE

__all__ = ["Oracle"]

DEGREE = 16

# params: n | rows of the shadow's major faults | their pages.  state: unused (steps) | next fault to come
NEXT = 1


@jit(DECIDE)
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Ask for the pages of the next DEGREE faults after this row; the engine skips resident ones."""
    n = params[0]
    while state[NEXT] < n and params[1 + state[NEXT]] <= ctx[CTX_ROW]:
        state[NEXT] += 1
    last = min(state[NEXT] + DEGREE, n)
    for i in range(state[NEXT], last):
        out[i - state[NEXT]] = NAMED_PAGE - params[1 + n + i]
    return last - state[NEXT]


class Oracle:
    """Prefetch the pages of the next 16 major faults of the run without prefetching.

    Looks ahead, which nothing else here may. Differs from an optimum: what its own prefetches push out
    shows up as faults that the shadow did not have. Versions: 1.
    """

    name = "oracle"
    version = "1"
    degree_pages = DEGREE
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the faults to come."""
        rows = np.flatnonzero(setting.shadow_missed)
        pages = setting.workload.page[rows].astype(np.int64)
        return Prepared(np.concatenate(([len(rows)], rows, pages)).astype(np.int64), np.zeros(2, np.int64))
