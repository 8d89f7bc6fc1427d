"""Drawing the panels of a trace into a PNG.

Figure: panels one below the other, each cells | colour bar; written beside the file, then renamed
"""

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdtool.errors import ParameterError, TraceError
from kdtool.traces.heatmap import Panel, panels_of
from kdtool.traces.info.wording import count, duration, shorten
from kdtool.traces.io import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plot", "draw", "plot_trace"]

WIDTH_IN, DPI = 13.0, 100
SUFFIX = ".png"
UNITS = (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000), ("ns", 1))


def check_plot(path: Path) -> None:
    """Raise ParameterError unless `path` is the name of a PNG that can be written or replaced."""
    if path.suffix.lower() != SUFFIX:
        raise ParameterError(f"{path}: a heat map is a PNG: give --plot {path.stem or 'heat'}.png")
    if path.is_dir():
        raise ParameterError(f"{path}: is a folder: give the name of a file")


def plot_trace(trace: Path, path: Path) -> None:
    """Draw the heat map of the trace at `trace` into the PNG `path`, which is replaced.

    Raises ParameterError for a name that is not a PNG's, TraceError for a trace without anything to draw and
    a file that cannot be written; then what was there stays.
    """
    check_plot(path)
    opened = Trace(trace)
    figure = draw(panels_of(opened), _title(opened))
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # Names may hold letters that the font lacks: it draws boxes for them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(partial, format="png", dpi=DPI)
        partial.replace(path)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _title(trace: Trace) -> str:
    command = " ".join(trace.manifest.command)
    state = "" if trace.manifest.state == "complete" else f" ({trace.manifest.state})"
    return shorten(f"{trace.path.name}{state}" + (f": {command}" if command else ""), 120)


def draw(panels: list[Panel], title: str) -> "Figure":
    """Return a figure of the panels, one below the other."""
    from matplotlib.figure import Figure

    heights = [_height_in(panel, alone=len(panels) == 1) for panel in panels]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", parse_math=False)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel, height_in in zip(axes, panels, heights, strict=True):
        _draw_panel(figure, axis, panel, height_in)
    return figure


def _height_in(panel: Panel, *, alone: bool) -> float:
    """Return inches: a few named rows need as much as their names, many rows of cells no more than this."""
    return float(np.clip(1.2 + 0.3 * panel.grid.cells.shape[0], 2.0, 6.5 if alone else 4.5))


def _draw_panel(figure: "Figure", axis: "Axes", panel: Panel, height_in: float) -> None:
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    cells, columns = panel.grid.cells, _Columns(panel)
    shown = cells if panel.whole is None else cells / panel.whole
    most = float(shown.max())
    image = axis.imshow(
        np.ma.masked_equal(shown, 0),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, columns.right, 0, cells.shape[0]),
        norm=LogNorm(1, max(most, 10)) if panel.whole is None else Normalize(0, max(most, 1)),
        # Without the lightest eighth: a lone touch is to be seen on white.
        cmap=ListedColormap(mpl.colormaps["viridis_r"](np.linspace(0.125, 1, 256))),
    )
    figure.colorbar(
        image, ax=axis, label=panel.color, pad=0.01, aspect=30, format=lambda value, _: f"{value:,.10g}"
    )
    if panel.marks is not None:
        _mark(axis, panel, columns, height_in)
    axis.set_title(panel.title, loc="left", fontsize="medium", parse_math=False)
    axis.set_xlabel(columns.label)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    _name_rows(axis, panel)


def _mark(axis: "Axes", panel: Panel, columns: "_Columns", height_in: float) -> None:
    """Put a dot on each cell with rows that are told apart."""
    assert panel.marks is not None
    y, x = np.nonzero(panel.marks.cells)
    if len(y):
        n_y, n_x = panel.marks.cells.shape
        # Half as large as a cell, whose colour is to be seen around it; in points, of which an inch has 72.
        dot = float(np.clip(36 * max(height_in / n_y, WIDTH_IN / n_x), 1.3, 5))
        axis.plot(
            (x + 0.5) * columns.width,
            y + 0.5,
            linestyle="",
            marker=".",
            markersize=dot,
            color="red",
            label=panel.marked,
        )
        axis.legend(loc="upper right", markerscale=8 / dot, fontsize="small")


def _name_rows(axis: "Axes", panel: Panel) -> None:
    rows = panel.rows
    axis.set_ylabel(rows.label)
    axis.set_yticks([at for at, _ in rows.ticks], [name for _, name in rows.ticks], parse_math=False)
    for edge in rows.edges:
        axis.axhline(edge, color="0.75", linewidth=0.5, zorder=0)
    if rows.groups:
        right = axis.secondary_yaxis("right")
        right.set_yticks([at for at, _ in rows.groups], [name for _, name in rows.groups], parse_math=False)


class _Columns:
    """The columns of a panel in the unit in which they are drawn: rows, or s, ms, µs or ns."""

    def __init__(self, panel: Panel) -> None:
        grid = panel.grid
        n_x = grid.cells.shape[1]
        if panel.x_is_time:
            name, unit = next(((name, ns) for name, ns in UNITS if n_x * grid.unit >= 2 * ns), UNITS[-1])
            self.label = f"time since the first row, {name} (a column: {duration(grid.unit)})"
        else:
            unit = 1
            self.label = f"row of the table (a column: {count(grid.unit, 'row')})"
        self.width = grid.unit / unit
        self.right = n_x * self.width
