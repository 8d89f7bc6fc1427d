"""Prefetches by an agent in user space: asked for a fixed time after their fault has ended, by another CPU.

    event ─decided─► queue ──AGENT_NS after the fault──► what is still in swap is read

As `kdtool deploy` does it. A page that is touched before its turn is an ordinary major fault. To make room
and to submit reads takes the agent's time, not the workload's; the decision itself is made within the fault.
Turns are caught up with at the workload's next fault: between two faults nothing looks at what they change,
but for accessed bits.
"""

import numpy as np
import numpy.typing as npt

from kdtool.replay.memory import (
    AGENT_FREE_NS,
    AGENT_NS,
    ISSUED,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    SWAPPED,
)
from kdtool.rmt.jit import inner

__all__ = ["QUEUE_PAGES", "leave_to_agent", "new_queue", "note_issued", "take_turn"]

QUEUE_PAGES = 1024
FIRST, COUNT = 0, 1
"""Words of the queue's last row; the rows before it are a ring of (when its turn is, dense page id)."""


def new_queue() -> npt.NDArray[np.int64]:
    """Return an empty queue, of shape (QUEUE_PAGES + 1, 2)."""
    return np.zeros((QUEUE_PAGES + 1, 2), np.int64)


@inner
def note_issued(page, memory):  # type: ignore[no-untyped-def]
    """Count a page that comes into memory as one of the policy that is scored."""
    memory[8][page] |= PREDICTED
    memory[6][PREFETCHED_NOW] += 1
    memory[7][ISSUED] += 1


@inner
def leave_to_agent(n, end_ns, out, memory, queue, device):  # type: ignore[no-untyped-def]
    """Queue those of the n pages in `out` that are in swap and not queued; their fault ends at `end_ns`.

    What finds no room is dropped. A page that the kernel's own readahead is bringing in counts as the agent's
    from now on: it cannot tell it from one on the device, and asks for it.
    """
    status, marks, ends = memory[0], memory[8], queue[QUEUE_PAGES]
    for i in range(n):
        page = out[i]
        if page < 0 or marks[page] & PREDICTED:
            continue
        if status[page] == PREFETCHED:
            note_issued(page, memory)
        if status[page] != SWAPPED or ends[COUNT] == QUEUE_PAGES:
            continue
        marks[page] |= PREDICTED
        at = (ends[FIRST] + ends[COUNT]) % QUEUE_PAGES
        queue[at, 0], queue[at, 1] = end_ns + device[AGENT_NS], page
        ends[COUNT] += 1


@inner
def take_turn(now_ns, scalars, out, queue):  # type: ignore[no-untyped-def]
    """Put the pages of the first decision whose turn came up to `now_ns` into `out`.

    Returns how many they are, and when the agent begins with them.
    """
    ends = queue[QUEUE_PAGES]
    n, due_ns = 0, queue[ends[FIRST], 0]
    while ends[COUNT] and due_ns <= now_ns and queue[ends[FIRST], 0] == due_ns and n < len(out):
        out[n] = queue[ends[FIRST], 1]
        ends[FIRST] = (ends[FIRST] + 1) % QUEUE_PAGES
        ends[COUNT] -= 1
        n += 1
    return n, max(due_ns, scalars[AGENT_FREE_NS])
