"""Address x time: the touches of pages in `faults` or `refs`, by process and mapping."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePosixPath

import numpy as np

from kdtool.traces.heatmap.panel import N_Y, Panel, Rows, Run, grid_over, row_of, spread, visible
from kdtool.traces.heatmap.stack import Stack
from kdtool.traces.info.mappings import Label, Mappings
from kdtool.traces.info.pages import Footprint, distinct, split
from kdtool.traces.info.timeline import Span
from kdtool.traces.info.who import Who
from kdtool.traces.info.wording import shorten, size
from kdtool.traces.io import Trace
from kdtool.traces.sizes import PAGE_BYTES

__all__ = ["fault_panels", "ref_panels"]

NAME = 26
"""Columns of a mapping's name."""


def fault_panels(trace: Trace, span: Span) -> Iterator[Panel]:
    """Yield the panel of `faults`."""
    stack, pages = _stack(trace, "faults")
    cells, marks = grid_over(span, stack.n_rows), grid_over(span, stack.n_rows)
    for batch in trace.batches("faults", ["ts_ns", "pid", "vpn", "major"]):
        for pid, at in split(batch["pid"]):
            t_ns = batch["ts_ns"][at]
            y, known = stack.rows_of(pid, batch["vpn"][at]), t_ns >= 0
            major = known & batch["major"][at]
            cells.add_points(y[known], t_ns[known])
            marks.add_points(y[major], t_ns[major])
    yield Panel(
        title=f"{int(cells.cells.sum()):,} page faults, {int(marks.cells.sum()):,} major, "
        f"{_pages(pages, stack)}",
        grid=cells,
        rows=_names(trace, "faults", stack),
        color="page faults in a cell",
        marks=marks,
        marked="major faults",
    )


def ref_panels(trace: Trace) -> Iterator[Panel]:
    """Yield the panel of `refs`, over the rows of the table: references have no time."""
    reduction = trace.manifest.reduction
    how = f", reduced ({reduction.method}, k = {reduction.k})" if reduction is not None else ""
    stack, pages = _stack(trace, "refs")
    cells = grid_over(Span(0, trace.rows("refs") - 1), stack.n_rows)
    n_rows = 0
    for batch in trace.batches("refs", ["pid", "vpn"]):
        row = np.arange(n_rows, n_rows + len(batch["pid"]))
        n_rows += len(row)
        for pid, at in split(batch["pid"]):
            cells.add_points(stack.rows_of(pid, batch["vpn"][at]), row[at])
    yield Panel(
        title=f"{n_rows:,} references{how}, {_pages(pages, stack)}",
        grid=cells,
        rows=_names(trace, "refs", stack),
        color="references in a cell",
        x_is_time=False,
    )


def _stack(trace: Trace, table: str) -> tuple[Stack, int]:
    """Return where each page is, the processes with most rows lowest, and how many pages there are."""
    footprint, n_rows = Footprint(), dict[int, int]()
    for batch in trace.batches(table, ["pid", "vpn"]):
        for pid, at in split(batch["pid"]):
            footprint.add(pid, distinct(batch["vpn"][at]))
            n_rows[pid] = n_rows.get(pid, 0) + len(batch["vpn"][at])
    pids = sorted(n_rows, key=lambda pid: (-n_rows[pid], pid))
    return Stack(footprint, pids, N_Y), footprint.count


def _pages(pages: int, stack: Stack) -> str:
    return f"{pages:,} pages ({size(pages * PAGE_BYTES)}); {row_of(stack)}"


def _names(trace: Trace, table: str, stack: Stack) -> Rows:
    """Return the mapping and process of each row of cells: that of the page in its middle."""
    names = trace.names()
    mappings, who = Mappings(trace, table, names), Who(trace, names)
    owners = []
    for row in range(stack.n_rows):
        pid, page = stack.middle_of(row)
        number = int(mappings.label_of(pid, np.array([page], np.uint64))[0])
        owners.append((pid, _short(mappings.labels[number])))
    runs = _runs(owners)
    groups = _processes(stack, who) if len(stack.spaces) > 1 else []
    return Rows(
        label="touched addresses",
        ticks=spread(runs, stack.n_rows),
        groups=spread(groups, stack.n_rows),
        edges=[first for first, _, _ in visible(groups or runs, stack.n_rows)],
    )


def _runs(owners: list[tuple[int, str]]) -> list[Run]:
    """Return the runs of rows of one process and name; those too short to be seen do not interrupt others."""
    runs, first = list[tuple[Run, int]](), 0
    for (pid, name), rows in groupby(owners):
        run = first, first + len(list(rows)), name
        first = run[1]
        if runs and (runs[-1][0][2], runs[-1][1]) == (name, pid):
            run = runs.pop()[0][0], first, name
        if visible([run], len(owners)):
            runs.append((run, pid))
    return [run for run, _ in runs]


def _processes(stack: Stack, who: Who) -> list[Run]:
    """Return which rows are whose; what is too small to be seen is taken together."""
    runs, small = list[Run](), 0
    for i, pid in enumerate(stack.spaces):
        rows = stack.bounds[i] // stack.unit, -(-stack.bounds[i + 1] // stack.unit)
        run = (*rows, f"{shorten(who.name(pid) or 'no name', NAME)} ({pid})")
        if visible([run], stack.n_rows):
            runs.append(run)
            small = 0
        else:
            small += 1
            first = runs.pop()[0] if small > 1 else run[0]
            runs.append((first, run[1], run[2] if small == 1 else f"{small:,} small processes"))
    return runs


def _short(label: Label) -> str:
    kind, path = label
    return shorten(PurePosixPath(path).name, NAME) if path else {"anonymous": "anon"}.get(kind, kind)
