"""Sector x time: the requests of each disk in `blockio`, those that failed marked."""

from collections.abc import Iterator

import numpy as np

from kdtool.traces.heatmap.panel import N_Y, Panel, Rows, grid_over, row_of
from kdtool.traces.heatmap.stack import Stack
from kdtool.traces.info.blockio import SECTOR_BYTES, device_name
from kdtool.traces.info.counts import Sums
from kdtool.traces.info.pages import Footprint, distinct, split
from kdtool.traces.info.timeline import Span, first_known
from kdtool.traces.info.wording import count, size
from kdtool.traces.io import Trace
from kdtool.traces.sizes import PAGE_BYTES

__all__ = ["disk_panels"]

MAX_DISKS = 4
SECTORS_A_BLOCK = np.uint64(PAGE_BYTES // SECTOR_BYTES)
N_TICKS = 8
COLUMNS = ["dev", "sector", "queue_ns", "issue_ns", "complete_ns", "error"]


def disk_panels(trace: Trace, span: Span) -> Iterator[Panel]:
    """Yield a panel over `span` for each of the MAX_DISKS disks with most requests."""
    footprint, requests = Footprint(), Sums()
    for batch in trace.batches("blockio", ["dev", "sector"]):
        requests.count(batch["dev"])
        for dev, at in split(batch["dev"]):
            footprint.add(dev, distinct(batch["sector"][at] // SECTORS_A_BLOCK))
    stacks = {}
    for dev, _ in requests.top(MAX_DISKS):
        alone = Footprint()
        alone.sets[dev] = footprint.sets[dev]
        stacks[dev] = Stack(alone, [dev], N_Y)
    grids = {dev: [grid_over(span, stack.n_rows) for _ in range(2)] for dev, stack in stacks.items()}
    for batch in trace.batches("blockio", COLUMNS):
        t_ns = first_known(batch, "blockio")
        for dev, stack in stacks.items():
            at = np.flatnonzero((batch["dev"] == dev) & (t_ns >= 0))
            y, failed = stack.rows_of(dev, batch["sector"][at] // SECTORS_A_BLOCK), batch["error"][at] != 0
            grids[dev][0].add_points(y, t_ns[at])
            grids[dev][1].add_points(y[failed], t_ns[at][failed])
    more = f", the busiest {MAX_DISKS} of {len(requests)} disks" if len(requests) > MAX_DISKS else ""
    for dev, (cells, marks) in grids.items():
        yield Panel(
            title=f"disk {device_name(dev)}, {count(requests[dev], 'request')}{more}; {row_of(stacks[dev])}",
            grid=cells,
            rows=_rows(stacks[dev]),
            color="requests in a cell",
            marks=marks,
            marked="failed requests",
        )


def _rows(stack: Stack) -> Rows:
    """Name rows by how far into the disk they are."""
    steps = range(0, stack.n_rows, max(1, stack.n_rows // N_TICKS))
    ticks = [(row + 0.5, size(stack.middle_of(row)[1] * PAGE_BYTES)) for row in steps]
    return Rows("touched offsets", ticks)
