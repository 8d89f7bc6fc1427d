"""Which rows the replay loop can go through without a stop, and what it has on its way for those to come."""

import numpy as np

from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.memory import FREE_AT, PREFETCHED, RESIDENT, VMA_AT, WAKE_AT
from kdtool.rmt.jit import inner

__all__ = ["look_ahead", "next_due"]

FAR_ROWS, NEAR_ROWS = 48, 16
"""How many rows ahead records are asked for, and, once they have come, what else a policy is told."""


@inner
def look_ahead(row, asks, trace, memory, shadow_missed):  # type: ignore[no-untyped-def]
    """Have on their way what the rows to come need; what a policy is told, too, if one is asked."""
    page, status = trace[0], memory[0]
    far = row + FAR_ROWS
    if far < len(page):
        prefetch_line(page, far + 256)
        prefetch_line(status, np.int64(page[far]))
        prefetch_line(trace[1], far)
        prefetch_line(trace[2], far)
        if asks:
            prefetch_line(shadow_missed, far)
            near = np.int64(page[row + NEAR_ROWS])
            prefetch_line(trace[3], far)
            prefetch_line(trace[4], far)
            # No branch, which would be taken at random: of other pages the first one's lines are asked for.
            read_ahead, out = -np.int64(status[near] == PREFETCHED), -np.int64(status[near] != RESIDENT)
            prefetch_line(memory[5], near & read_ahead)
            prefetch_line(trace[5], near & out)
            prefetch_line(trace[7], near & out)


@inner
def next_due(row, stop, trace, memory):  # type: ignore[no-untyped-def]
    """Return the first row after `row` at which something is due besides its access, `stop` at most."""
    due, scalars = stop, memory[6]
    for rows, at in (
        (trace[9], scalars[FREE_AT]),
        (trace[19], scalars[VMA_AT]),
        (trace[11], scalars[WAKE_AT]),
    ):
        if at < len(rows):
            due = min(due, np.int64(rows[at]))
    return due
