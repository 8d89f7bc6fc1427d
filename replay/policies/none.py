"""`none`: no prefetching, as Linux with vm.page-cluster = 0."""

import numpy as np

from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import jit

__all__ = ["NoPrefetch"]


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Ask for nothing."""
    return np.int64(0)  # a literal 0 would make the signature another one


class NoPrefetch:
    """Read only what is asked for.

    Kernel counterpart: do_swap_page() with vm.page-cluster = 0 (mm/memory.c, v6.18).
    Versions: 1.
    """

    name = "none"
    version = "1"
    degree_pages = 0
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return empty arrays."""
        return Prepared(np.zeros(1, np.int64), np.zeros(1, np.int64))
