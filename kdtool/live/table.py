"""What was measured, as a table: medians, ranges, and how much faster than the better of Linux's settings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kdtool.live.predict import Predicted

__all__ = ["Cell", "make_cells", "print_cells"]

COLUMNS = ("run s", "range", "major", "accuracy", "agent s", "runs", "×", "coverage", "× (r)", "coverage (r)")
"""Those that end in (r) are replay's."""


@dataclass(frozen=True)
class Cell:
    """A program under a variant; medians of its runs, and the range of its run times, in seconds.

    speedup : the best Linux variant's median run time over this one's; None without runs of Linux
    predicted_wall_s, predicted_speedup, predicted_coverage : what replay says; None where it was not asked
    """

    program: str
    variant: str
    runs: int
    wall_s: float
    fastest_s: float
    slowest_s: float
    speedup: float | None
    major_faults: int
    coverage: float | None
    accuracy: float | None
    agent_cpu_s: float | None
    steps_back: int | None
    load: float
    predicted_wall_s: float | None = None
    predicted_speedup: float | None = None
    predicted_coverage: float | None = None

    def to_row(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


Runs = Sequence[Mapping[str, Any]]
"""As bench/live/measure.py keeps them."""


def make_cells(
    measured: Mapping[str, Mapping[str, Runs]],
    linux: Sequence[str],
    predicted: Mapping[str, Mapping[str, Predicted]],
) -> list[Cell]:
    """Return a cell for each program and variant that ran.

    measured : the runs by the names of program and variant; there may be none
    linux : the variants without an agent
    predicted : by the same names; a program that is not there was not replayed
    """
    cells = []
    for program, runs in measured.items():
        alone = [name for name in linux if runs.get(name)]
        best = min((_median(runs[name], "wall_ns") for name in alone), default=None)
        some = [_cell(program, name, each, best) for name, each in runs.items() if each]
        cells += _with_predictions(some, alone, predicted.get(program, {}))
    return cells


def _with_predictions(
    cells: Sequence[Cell], linux: Sequence[str], predicted: Mapping[str, Predicted]
) -> list[Cell]:
    """Return the cells of one program with what replay says; speed-ups are over the better Linux, too."""
    best_s = min((predicted[name].wall_s for name in linux if name in predicted), default=None)
    return [
        cell
        if (said := predicted.get(cell.variant)) is None
        else replace(
            cell,
            predicted_wall_s=said.wall_s,
            predicted_speedup=None if best_s is None else best_s / said.wall_s,
            predicted_coverage=said.coverage,
        )
        for cell in cells
    ]


def print_cells(cells: Sequence[Cell], console: Console) -> None:
    """Print them for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("program", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    replayed = any(cell.predicted_wall_s is not None for cell in cells)
    for name in COLUMNS if replayed else [name for name in COLUMNS if not name.endswith("(r)")]:
        table.add_column(name, justify="right", no_wrap=True)
    for previous, cell in zip([None, *cells], cells, strict=False):
        if previous is not None and previous.program != cell.program:
            table.add_section()
        first = previous is None or previous.program != cell.program
        said = [_factor(cell.predicted_speedup), _percent(cell.predicted_coverage)] if replayed else []
        table.add_row(cell.program if first else "", cell.variant, *_texts(cell), *said)
    console.print(table)
    console.print("×: the median run time of the better Linux setting over this one's")
    if replayed:
        console.print(
            "(r): what replay says of an agent that asks as late, with its trials, beside the same readahead"
        )


def _texts(cell: Cell) -> list[str]:
    """Return what was measured, in the order of COLUMNS."""
    return [
        f"{cell.wall_s:.2f}",
        f"{cell.fastest_s:.2f}–{cell.slowest_s:.2f}",
        f"{cell.major_faults:,}",
        _percent(cell.accuracy),
        "" if cell.agent_cpu_s is None else f"{cell.agent_cpu_s:.2f}",
        str(cell.runs),
        _factor(cell.speedup),
        _percent(cell.coverage),
    ]


def _cell(program: str, variant: str, runs: Runs, best_ns: float | None) -> Cell:
    walls = [run["wall_ns"] / 1e9 for run in runs]
    with_agent = runs[0]["agent_cpu_ns"] is not None
    return Cell(
        program=program,
        variant=variant,
        runs=len(runs),
        wall_s=median(walls),
        fastest_s=min(walls),
        slowest_s=max(walls),
        speedup=None if best_ns is None else best_ns / 1e9 / median(walls),
        major_faults=int(_median(runs, "major_faults")),
        coverage=_median(runs, "coverage") if with_agent else None,
        accuracy=_median(runs, "accuracy") if with_agent else None,
        agent_cpu_s=_median(runs, "agent_cpu_ns") / 1e9 if with_agent else None,
        steps_back=int(_median(runs, "steps_back")) if with_agent else None,
        load=median(run["load"] for run in runs),
    )


def _median(runs: Runs, key: str) -> float:
    return median(run[key] or 0 for run in runs)


def _factor(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
