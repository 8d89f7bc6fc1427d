"""The run times as a picture: a panel a program, a bar a variant, and a line over the range of its runs."""

from collections.abc import Sequence
from pathlib import Path

from kdtool.live.table import Cell

__all__ = ["plot_cells"]

COLUMNS = 3
LINUX, BASELINE, LEARNED = "0.6", "C0", "C1"
WIDTH_IN, HEIGHT_IN = 3.6, 2.1


def plot_cells(cells: Sequence[Cell], path: Path) -> None:
    """Write the picture of `cells` to a PNG file."""
    from matplotlib.figure import Figure

    programs = list(dict.fromkeys(cell.program for cell in cells))
    columns = min(COLUMNS, len(programs))
    rows = -(-len(programs) // columns)
    figure = Figure((WIDTH_IN * columns, HEIGHT_IN * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, program in zip(panels, programs, strict=False):
        shown = [cell for cell in cells if cell.program == program][::-1]
        names = [cell.variant for cell in shown]
        medians = [cell.wall_s for cell in shown]
        ranges = [
            [cell.wall_s - cell.fastest_s for cell in shown],
            [cell.slowest_s - cell.wall_s for cell in shown],
        ]
        panel.barh(names, medians, xerr=ranges, color=[_color(name) for name in names], ecolor="0.2")
        panel.set_title(program, fontsize=10)
        panel.set_xlim(left=0)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(programs) :]:
        panel.set_axis_off()
    figure.supxlabel("run time, s: median, and the range of the runs", fontsize=9)
    figure.savefig(path, dpi=110)


def _color(variant: str) -> str:
    if variant.startswith("linux"):
        return LINUX
    return LEARNED if variant.startswith("learned") else BASELINE
