"""One picture of a heat map before it is drawn: cells, and what their rows and columns are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdtool.traces.heatmap.grid import Grid
from kdtool.traces.heatmap.stack import Stack
from kdtool.traces.info.timeline import Span
from kdtool.traces.info.wording import size
from kdtool.traces.sizes import PAGE_BYTES

__all__ = ["N_X", "N_Y", "Panel", "Rows", "Run", "Tick", "grid_over", "row_of", "spread", "visible"]

N_X, N_Y = 320, 200
"""Most columns and rows of cells."""
N_TICKS = 32
"""Most names along y. A run of rows that is shorter than half its share of y has none, and no edge."""

Tick = tuple[float, str]
"""Where, in rows of cells from below, and what is there."""

Run = tuple[int, int, str]
"""First row, last row + 1, and what is there."""


@dataclass(frozen=True)
class Rows:
    """What the rows of cells are.

    label : of the axis
    ticks : names of rows or of runs of rows
    groups : what several runs belong to, such as a process; empty where all are of one
    edges : between which rows something else begins
    """

    label: str
    ticks: list[Tick]
    groups: list[Tick] = field(default_factory=list)
    edges: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """Cells and their axes.

    color : what a cell's number says
    whole : the number of a cell that is full; None where cells are counts, which are drawn by their logarithm
    marks : rows of each cell that are told apart, called `marked`; None where there is nothing to tell apart
    x_is_time : columns are ns of the trace's clock; else rows of the table
    """

    title: str
    grid: Grid
    rows: Rows
    color: str
    whole: int | None = None
    marks: Grid | None = None
    marked: str = ""
    x_is_time: bool = True


def grid_over(span: Span, n_y: int) -> Grid:
    """Return empty cells of `n_y` rows over a span, which has a beginning."""
    assert span.first_ns is not None and span.length_ns is not None
    unit = span.parts(N_X)
    return Grid(n_y, span.length_ns // unit + 1, span.first_ns, unit)


def row_of(stack: Stack) -> str:
    """Return what a row of cells is, for a title."""
    return f"a row is {size(stack.unit * PAGE_BYTES)}, large holes are left out"


def spread(runs: Sequence[Run], n_y: int) -> list[Tick]:
    """Return ticks in the middle of runs of rows (first, last + 1, name), the longest first, none too close.

    >>> spread([(0, 90, "heap"), (90, 91, "tiny"), (91, 180, "stack")], 180)
    [(45.0, 'heap'), (135.5, 'stack')]
    """
    ticks: list[Tick] = []
    for first, last, name in sorted(visible(runs, n_y), key=lambda run: (run[0] - run[1], run[0])):
        middle = (first + last) / 2
        if all(abs(middle - other) * N_TICKS >= n_y for other, _ in ticks):
            ticks.append((middle, name))
    return sorted(ticks)


def visible(runs: Sequence[Run], n_y: int) -> list[Run]:
    """Return the runs that are long enough to be told apart."""
    return [run for run in runs if 2 * N_TICKS * (run[1] - run[0]) >= n_y]
