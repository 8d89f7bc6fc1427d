"""Which pages a program predicted: their tags, by which the first touch of one is known as an event.

An event of mm.swapin is a major fault, or the first fault on a predicted page. Tags are kept as in the kernel
(rmt/bpf/fault.py): in a direct-mapped table, where a later page takes the place of another with the same
slot. So all who decide do so at the same events, whatever was asked for meanwhile.
"""

import numpy as np

from kdtool.rmt.jit import jit
from kdtool.rmt.vm import MULTIPLIER

__all__ = ["forget_prediction", "is_predicted", "page_tag", "remember"]

_MULTIPLIER = np.uint64(MULTIPLIER)
_HALF = np.uint64(32)


@jit(nogil=True)
def page_tag(pid, vpn):  # type: ignore[no-untyped-def]
    """Return the tag of a process's page, rmt.vm.hash_key([pid]) + vpn, as int64."""
    process = (_MULTIPLIER ^ np.uint64(pid)) * _MULTIPLIER
    return np.int64((process ^ (process >> _HALF)) + np.uint64(vpn))


@jit(nogil=True)
def is_predicted(predicted, tag):  # type: ignore[no-untyped-def]
    """Tell whether a page, by its tag, was predicted and not touched since."""
    return predicted[tag & (len(predicted) - 1)] == tag


@jit(nogil=True)
def forget_prediction(predicted, tag):  # type: ignore[no-untyped-def]
    """Free the page's slot, if it is its own."""
    if is_predicted(predicted, tag):
        predicted[tag & (len(predicted) - 1)] = 0


@jit(nogil=True)
def remember(predicted, pid, out, n):  # type: ignore[no-untyped-def]
    """Keep the pages of a decision, the last one first, as the kernel does."""
    for i in range(n - 1, -1, -1):
        tag = page_tag(pid, out[i])
        predicted[tag & (len(predicted) - 1)] = tag
