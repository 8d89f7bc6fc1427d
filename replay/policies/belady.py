"""`belady`: the fewest major faults that reclaim could leave without prefetching. Not a policy, a bound."""

import numpy as np

from kdtool.replay.future import plan_memory
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.replay.policies.none import decide

__all__ = ["Belady"]


class Belady:
    """Read only what is asked for, and evict the page whose next use is furthest: Belady's MIN.

    A bound for reclaim, not for prefetching: no memory of this size has fewer major faults without
    prefetching, whatever it evicts. Beside it, `none` shows what reclaim costs, and `oracle-unlimited` what
    prefetching could still save. Source: replay/future.py. Versions: 1.
    """

    name = "belady"
    version = "1"
    degree_pages = 0
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return the evictions."""
        victims = plan_memory(setting.workload, setting.memory_pages, 0).victims
        return Prepared(np.zeros(1, np.int64), np.zeros(1, np.int64), victims)
