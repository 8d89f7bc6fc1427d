"""`stride`: Chen and Baer's reference prediction table: each instruction's stride, trusted by its state."""

import numpy as np

from kdtool.replay.hook import CTX_PROCESS
from kdtool.replay.policies.base import Prepared, Setting
from kdtool.rmt.jit import jit

__all__ = ["INITIAL", "NO_PREDICTION", "STEADY", "TRANSIENT", "Stride", "next_state"]

ENTRIES = 512
DEGREE = 8

INITIAL, TRANSIENT, STEADY, NO_PREDICTION = 0, 1, 2, 3

# state: one word unused (steps) | per entry: process + 1 (0 = empty), instruction, page, stride, state
OWNER, IP, PAGE, STRIDE, STATE, WORDS = 0, 1, 2, 3, 4, 5


@jit()
def next_state(state, correct):  # type: ignore[no-untyped-def]
    """Return (state, whether the stride is taken anew) after a prediction: the paper's transitions.

    >>> [tuple(int(n) for n in next_state(state, True)) for state in range(4)]
    [(2, 0), (2, 0), (2, 0), (1, 0)]
    >>> [tuple(int(n) for n in next_state(state, False)) for state in range(4)]
    [(1, 1), (3, 1), (0, 0), (3, 1)]
    """
    if correct:
        return (TRANSIENT if state == NO_PREDICTION else STEADY), False
    if state == STEADY:
        return INITIAL, False
    return (TRANSIENT if state == INITIAL else NO_PREDICTION), True


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Train the faulting instruction's entry; if it predicts, ask for the next pages along its stride."""
    page, ip, owner = ctx[0], ctx[3], ctx[CTX_PROCESS] + 1
    at = 1 + WORDS * ((ip ^ (ip >> 9) ^ owner) & (ENTRIES - 1))
    if state[at + OWNER] != owner or state[at + IP] != ip:
        state[at + OWNER], state[at + IP], state[at + PAGE] = owner, ip, page
        state[at + STRIDE], state[at + STATE] = 0, INITIAL
        return 0
    delta = page - state[at + PAGE]
    state[at + STATE], anew = next_state(state[at + STATE], delta == state[at + STRIDE])
    if anew:
        state[at + STRIDE] = delta
    state[at + PAGE] = page
    stride = state[at + STRIDE]
    if stride == 0 or state[at + STATE] == NO_PREDICTION:
        return 0
    n = 0
    for i in range(1, (DEGREE if state[at + STATE] == STEADY else 1) + 1):
        if page + i * stride >= 0:
            out[n] = page + i * stride
            n += 1
    return n


class Stride:
    """A table of the last page and stride of each instruction, with four states of trust.

    State: 512 entries of 5 words. Source: Chen and Baer, Effective Hardware-Based Data Prefetching for
    High-Performance Processors, IEEE Trans. Computers 44(5), 1995, section 3, the basic scheme. Adapted:
    pages instead of addresses; faults and first touches of prefetched pages instead of every access;
    direct-mapped, tagged in full by process and instruction; a steady entry asks for 8 pages ahead, as
    far as Linux's and Leap's windows reach, where the paper's look-ahead scheme counts loop iterations;
    others ask for 1. Versions: 1.
    """

    name = "stride"
    version = "1"
    degree_pages = DEGREE
    decide = staticmethod(decide)

    def prepare(self, setting: Setting) -> Prepared:
        """Return an empty table."""
        return Prepared(np.zeros(1, np.int64), np.zeros(1 + WORDS * ENTRIES, np.int64))
