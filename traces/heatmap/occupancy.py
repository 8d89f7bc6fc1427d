"""What was busy when: CPUs by `sched`, devices by `accel`, each x time.

A cell's number is the time that threads ran, or commands took, in it; a full one is a column long for each.
"""

from collections.abc import Iterator

import numpy as np

from kdtool.traces.heatmap.panel import Panel, Rows, grid_over
from kdtool.traces.info.base import kind_name
from kdtool.traces.info.pages import distinct
from kdtool.traces.info.sched import OnCpu
from kdtool.traces.info.timeline import Span
from kdtool.traces.info.who import Who
from kdtool.traces.info.wording import duration
from kdtool.traces.io import Trace
from kdtool.traces.schema import AccelKind, SchedEvent

__all__ = ["cpu_panels", "device_panels"]


def cpu_panels(trace: Trace, span: Span) -> Iterator[Panel]:
    """Yield the panel of `sched` over `span`: how much of the time each CPU ran a thread of the workload."""
    seen = set[int]()
    for batch in trace.batches("sched", ["cpu"]):
        seen.update(distinct(batch["cpu"]).tolist())
    cpus = np.array(sorted(seen))
    cells = grid_over(span, len(cpus))
    on_cpu = OnCpu(Who(trace, {}).threads)
    for batch in trace.batches("sched", ["event", *OnCpu.columns]):
        switch = batch["event"] == SchedEvent.SWITCH
        for ran in on_cpu.add({name: batch[name][switch] for name in OnCpu.columns}):
            cells.add_stretches(np.searchsorted(cpus, ran["cpu"]), ran["start_ns"], ran["end_ns"])
    names = [(i + 0.5, f"CPU {cpu}") for i, cpu in enumerate(cpus.tolist())]
    yield Panel(
        title=f"threads of the workload were on CPUs for {duration(int(cells.cells.sum()))}",
        grid=cells,
        rows=Rows("", _every(names)),
        color="share of the time",
        whole=cells.unit,
    )


def device_panels(trace: Trace, span: Span) -> Iterator[Panel]:
    """Yield the panel of `accel` over `span`: how many commands of each kind each device ran at once."""
    seen = set[tuple[int, int]]()
    for batch in trace.batches("accel", ["device", "kind"]):
        seen.update(zip(batch["device"].tolist(), batch["kind"].tolist(), strict=True))
    rows = sorted(seen)
    cells = grid_over(span, len(rows))
    for batch in trace.batches("accel", ["device", "kind", "start_ns", "end_ns"]):
        ran = (batch["start_ns"] >= 0) & (batch["end_ns"] >= batch["start_ns"])
        for y, (device, kind) in enumerate(rows):
            at = np.flatnonzero(ran & (batch["device"] == device) & (batch["kind"] == kind))
            cells.add_stretches(np.full(len(at), y), batch["start_ns"][at], batch["end_ns"][at])
    names = [
        (i + 0.5, f"device {device} {kind_name(AccelKind, kind)}") for i, (device, kind) in enumerate(rows)
    ]
    yield Panel(
        title=f"commands took {duration(int(cells.cells.sum()))}",
        grid=cells,
        rows=Rows("", _every(names)),
        color="commands at once",
        whole=cells.unit,
    )


def _every(names: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return as many names as there is room for."""
    return names[:: -(-len(names) // 32)]
