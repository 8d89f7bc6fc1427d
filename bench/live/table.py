"""What was measured, as a table: medians, ranges, and how much faster than the better of Linux's settings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.live.measure import Variant, limit_of
from bench.live.store import LiveStore
from bench.live.workloads import Pair

__all__ = ["Cell", "make_cells", "print_cells"]


@dataclass(frozen=True)
class Cell:
    """A program under a variant; medians of its runs, and the range of its run times, in seconds.

    speedup : the best Linux variant's median run time over this one's; None without runs of Linux
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

    def to_row(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def make_cells(
    pairs: Sequence[Pair], variants: Sequence[Variant], store: LiveStore, percent: int
) -> list[Cell]:
    """Return a cell for each program and variant that ran."""
    cells = []
    for pair in pairs:
        limit = limit_of(pair, store, percent)
        runs = {variant.name: store.runs(pair, variant.name, limit) for variant in variants}
        linux = [v.name for v in variants if v.policy is None and runs[v.name]]
        best = min((_median(runs[name], "wall_ns") for name in linux), default=None)
        cells += [_cell(pair.name, name, some, best) for name, some in runs.items() if some]
    return cells


def print_cells(cells: Sequence[Cell], console: Console) -> None:
    """Print them for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("program", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    for name in ("run s", "range", "×", "major", "coverage", "accuracy", "agent s", "runs"):
        table.add_column(name, justify="right", no_wrap=True)
    for previous, cell in zip([None, *cells], cells, strict=False):
        if previous is not None and previous.program != cell.program:
            table.add_section()
        table.add_row(
            cell.program if previous is None or previous.program != cell.program else "",
            cell.variant,
            f"{cell.wall_s:.2f}",
            f"{cell.fastest_s:.2f}–{cell.slowest_s:.2f}",
            "" if cell.speedup is None else f"{cell.speedup:.2f}",
            f"{cell.major_faults:,}",
            _percent(cell.coverage),
            _percent(cell.accuracy),
            "" if cell.agent_cpu_s is None else f"{cell.agent_cpu_s:.2f}",
            str(cell.runs),
        )
    console.print(table)
    console.print("×: the median run time of the better Linux setting over this one's")


def _cell(program: str, variant: str, runs: list[dict[str, Any]], best_ns: float | None) -> Cell:
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


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return median(run[key] or 0 for run in runs)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
