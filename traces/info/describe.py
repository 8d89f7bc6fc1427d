"""The document of a trace: what the manifest says, and the figures of every table, in bounded memory.

    manifest --> the trace's own facts
    table    --span (its times only)--> --figures (a batch at a time)--> tables[NAME]

State: see the figures; none grows with the rows but with what differs in them (pages, threads, names).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdtool.traces.info.accel import AccelFigures
from kdtool.traces.info.base import About, Figures
from kdtool.traces.info.blockio import BlockFigures
from kdtool.traces.info.faults import FaultFigures
from kdtool.traces.info.mappings import Mappings
from kdtool.traces.info.refs import RefFigures
from kdtool.traces.info.sched import SchedFigures
from kdtool.traces.info.sides import ForkFigures, TaskFigures, VmaFigures, WaitFigures, ZeroFigures
from kdtool.traces.info.timeline import TIMES, Span, span_of
from kdtool.traces.info.who import Who
from kdtool.traces.io import BATCH_ROWS, Trace
from kdtool.traces.sizes import PAGE_BYTES

__all__ = ["FIGURES", "describe"]

FIGURES: tuple[tuple[str, Callable[[About], Figures]], ...] = (
    ("faults", FaultFigures),
    ("refs", RefFigures),
    ("vmas", VmaFigures),
    ("forks", ForkFigures),
    ("waits", WaitFigures),
    ("zeros", ZeroFigures),
    ("sched", SchedFigures),
    ("blockio", BlockFigures),
    ("accel", AccelFigures),
    ("tasks", TaskFigures),
)

NS_PER_S = 1_000_000_000

Progress = Callable[[int, int], None]
"""Called with the rows read since the last time, and how many will have been read in the end."""


def _ignore(rows: int, total: int) -> None:
    return


def describe(path: Path, progress: Progress = _ignore, batch_rows: int = BATCH_ROWS) -> dict[str, Any]:
    """Return the document of `kdtool info --json`, see docs/formats.md; TraceError if the trace is not whole.

    batch_rows : rows that are in memory at once; changes no figure
    """
    trace = Trace(path)
    manifest = trace.manifest
    tables = _tables(trace, progress, batch_rows)
    return {
        "trace": str(path),
        "sha256": trace.sha256,
        "state": manifest.state,
        "schema_version": manifest.schema_version,
        "clock": manifest.clock,
        "command": manifest.command,
        "collector": manifest.collector,
        "cgroup": manifest.cgroup,
        "host": manifest.host,
        "workload": manifest.workload,
        "reduction": None if manifest.reduction is None else vars(manifest.reduction),
        "tables": tables,
        **_summary(tables),
    }


def _tables(trace: Trace, progress: Progress, batch_rows: int) -> dict[str, Any]:
    names, figures_of = trace.names(), dict(FIGURES)
    who = Who(trace, names)
    of = {name: info.rows for name, info in trace.manifest.tables.items() if name in figures_of}
    total = sum(rows * (2 if name in TIMES else 1) for name, rows in of.items())

    def advance(rows: int) -> None:
        progress(rows, total)

    tables: dict[str, Any] = {}
    for name, info in trace.manifest.tables.items():
        tables[name] = {"rows": info.rows, "counted": info.counted, "lost": info.lost, "bytes": info.bytes}
        if not info.rows:
            continue
        tables[name]["bytes_per_row"] = info.bytes / info.rows
        if name not in figures_of:
            continue
        span = span_of(trace, name, advance)
        mappings = Mappings(trace, name, names)
        figures = figures_of[name](About(trace, span, who, mappings, batch_rows))
        for rows in trace.batches(name, list(figures.columns), batch_rows):
            figures.add(rows)
            advance(len(rows[figures.columns[0]]))
        if trace.manifest.clock != "insns":
            tables[name] |= _when(span, info.rows)
        tables[name] |= figures.document()
    return tables


def _when(span: Span, rows: int) -> dict[str, Any]:
    """Return when a table's rows are, and their rate; nothing where they have no time."""
    if span.length_ns is None:
        return {}
    rate = rows * NS_PER_S / span.length_ns if span.length_ns else None
    return {
        "first_ns": span.first_ns,
        "last_ns": span.last_ns,
        "span_ns": span.length_ns,
        "rows_per_s": rate,
    }


def _summary(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of references, else of faults, that scripts ask for most, at the top."""
    summary: dict[str, Any] = {}
    for name in ("refs", "faults"):
        table = tables.get(name, {})
        if table.get("rows") and not summary:
            pages = table["footprint_pages"]
            summary = {"footprint_pages": pages, "footprint_bytes": pages * PAGE_BYTES}
            summary |= {key: table[key] for key in ("processes", "threads")}
    faults = tables.get("faults", {})
    if faults.get("rows"):
        summary |= {"major_faults": faults["major"], "minor_faults": faults["minor"]}
        summary["span_ns"] = faults.get("span_ns", 0)
    return summary
