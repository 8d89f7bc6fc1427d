"""Which rows the replay loop can go through without a stop, and what it has on its way for those to come."""

import numpy as np

from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.memory import FREE_AT, NAMED, PREFETCHED, RESIDENT, VMA_AT, WAKE_AT
from kdtool.rmt.jit import inner

__all__ = ["look_ahead", "next_due"]

FAR_ROWS, NEAR_ROWS, PAGES_ROWS = 48, 16, 256
"""How many rows ahead records are asked for, once they have come what else a policy is told, and before them
which pages those rows are of."""
KEYS_A_LINE, PAGES_A_LINE = 8, 4
"""What a policy that names pages names lies behind the page that faults more often than not."""
LINE_ROWS = 8
"""Of the widest column, 8 bytes a row, in a cache line."""


@inner
def look_ahead(row, asks, trace, memory, shadow_missed):  # type: ignore[no-untyped-def]
    """Have on their way what the rows to come need; what a policy is told, too, if one is asked."""
    page, status = trace[0], memory[0]
    far = row + FAR_ROWS
    if far < len(page):
        prefetch_line(status, np.int64(page[far]))
        if far & LINE_ROWS - 1 == 0:
            prefetch_line(page, far + PAGES_ROWS)
            prefetch_line(trace[1], far)
            prefetch_line(trace[2], far)
            if asks:
                prefetch_line(shadow_missed, far)
                prefetch_line(trace[3], far)
                prefetch_line(trace[4], far)
        if asks:
            near = np.int64(page[row + NEAR_ROWS])
            # No branch, which would be taken at random: of other pages the first one's lines are asked for.
            read_ahead, out = -np.int64(status[near] == PREFETCHED), -np.int64(status[near] != RESIDENT)
            prefetch_line(memory[5], near & read_ahead)
            prefetch_line(trace[25], near & out)
            out &= -np.int64(memory[6][NAMED] > 0)
            prefetch_line(trace[5], near & out)
            prefetch_line(trace[5], near + KEYS_A_LINE & out)
            prefetch_line(status, near + PAGES_A_LINE & out)


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
