"""What is in a trace, in one screen."""

from pathlib import Path
from typing import Any

import numpy as np

from kdtool.traces.io import Trace

__all__ = ["describe", "print_description"]


def describe(path: Path) -> dict[str, Any]:
    """Return the document of `kdtool info --json`; TraceError if the trace is not whole."""
    trace = Trace(path)
    manifest = trace.manifest
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
        "tables": {
            name: {"rows": info.rows, "counted": info.counted, "lost": info.lost, "bytes": info.bytes}
            for name, info in manifest.tables.items()
        },
        **_figures(trace),
    }


def _figures(trace: Trace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if trace.rows("refs"):
        refs = trace.columns("refs", ["pid", "tid", "vpn"])
        pages = np.unique(refs["pid"].astype(np.int64) << 52 | refs["vpn"].astype(np.int64))
        figures["footprint_pages"] = len(pages)
        figures["processes"] = len(np.unique(refs["pid"]))
        figures["threads"] = len(np.unique(refs["tid"]))
    if trace.rows("faults"):
        faults = trace.columns("faults", ["ts_ns", "pid", "major"])
        figures["major_faults"] = int(faults["major"].sum())
        figures["minor_faults"] = int(len(faults["major"]) - faults["major"].sum())
        figures["span_ns"] = int(faults["ts_ns"].max() - faults["ts_ns"].min())
    return figures


def print_description(description: dict[str, Any]) -> None:
    """Print it for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{description['trace']} · {description['state']}", title_justify="left")
    for column in ("table", "rows", "counted", "lost", "bytes"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for name, counts in description["tables"].items():
        table.add_row(name, *(f"{counts[key]:,}" for key in ("rows", "counted", "lost", "bytes")))
    console = Console()
    console.print(table)
    for key in ("footprint_pages", "processes", "threads", "major_faults", "minor_faults", "span_ns"):
        if key in description:
            console.print(f"{key}: {description[key]:,}")
    if description["reduction"]:
        console.print(f"reduction: {description['reduction']['method']}, k = {description['reduction']['k']}")
    console.print(f"command: {' '.join(description['command'])}", highlight=False, markup=False)
