"""A trace as a picture: where, when and how often. draw.py draws what the others count."""

from collections.abc import Callable, Iterator
from functools import reduce

from kdtool.errors import TraceError
from kdtool.traces.heatmap.addresses import fault_panels, ref_panels
from kdtool.traces.heatmap.disks import disk_panels
from kdtool.traces.heatmap.occupancy import cpu_panels, device_panels
from kdtool.traces.heatmap.panel import Panel
from kdtool.traces.info.timeline import Span, span_of
from kdtool.traces.io import Trace

__all__ = ["Panel", "panels_of"]

TIMED: tuple[tuple[tuple[str, Callable[[Trace, Span], Iterator[Panel]]], ...], ...] = (
    (("faults", fault_panels),),
    (("blockio", disk_panels), ("sched", cpu_panels), ("accel", device_panels)),
)
"""Tables that share one picture and one span, the ones with addresses first."""


def panels_of(trace: Trace) -> list[Panel]:
    """Return the panels of a trace: of its addresses where it has any, else of everything else.

    Raises
    ------
    TraceError
        It has no row that says where and when.
    """
    if trace.rows("refs"):
        return list(ref_panels(trace))
    for tables in TIMED:
        spans = {table: span_of(trace, table) for table, _ in tables}
        span = reduce(Span.join, spans.values())
        panels = [
            panel for table, of in tables if spans[table].first_ns is not None for panel in of(trace, span)
        ]
        if panels:
            return panels
    have = ", ".join(name for name in trace.manifest.tables if trace.rows(name)) or "no row"
    raise TraceError(
        f"{trace.path}: nothing to plot: it holds {have}, of which no row says where and when something was "
        f"touched: record faults, refs, sched or accel"
    )
