"""Many replays in one call, and the table that a person reads."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn
from rich.table import Table

from kdtool.errors import ParameterError
from kdtool.replay.devices import Device
from kdtool.replay.policies import BOUNDS, Policy
from kdtool.replay.run import Result, replay, run_shadow
from kdtool.replay.workload import Workload, load_workload
from kdtool.traces import Trace, memory_pages, parse_fraction

__all__ = [
    "Sweep",
    "first_row",
    "plain_console",
    "print_scoreboard",
    "replay_sweep",
    "score_table_box",
    "score_traces",
]


@dataclass(frozen=True)
class Sweep:
    """What to replay: every policy at every memory on every device, counting from `from_row`.

    `memories` are sizes or percentages of the trace's footprint; `start` is a row or a percentage of rows.
    """

    policies: tuple[Policy, ...]
    memories: tuple[str, ...]
    devices: tuple[Device, ...]
    start: str = "0"
    reclaim: str = "linux"
    allow_loss: bool = False


def first_row(start: str, n_refs: int) -> int:
    """Return the row that `start`, a number or a percentage, means.

    >>> first_row("60%", 200), first_row("7", 200)
    (120, 7)
    """
    fraction = parse_fraction(start)
    if fraction is not None:
        return int(fraction * n_refs)
    if not start.isdecimal():
        raise ParameterError(f"--from {start}: give a row number or a percentage of the rows, such as 60%")
    return int(start)


def replay_sweep(workload: Workload, sweep: Sweep, progress: Progress | None = None) -> Iterator[Result]:
    """Yield a result for each memory, device and policy; the shadow is run once for a memory and device."""
    start = first_row(sweep.start, workload.n_refs)
    for memory in sweep.memories:
        pages = memory_pages(memory, workload.footprint_pages)
        for device in sweep.devices:
            shadow = run_shadow(workload, pages, device, sweep.reclaim)
            for policy in sweep.policies:
                task = None
                if progress is not None:
                    task = progress.add_task(f"{workload.name} {memory} {policy.name}", total=workload.n_refs)

                def advance(rows: int, task: object = task) -> None:
                    if progress is not None:
                        progress.advance(task, rows)  # type: ignore[arg-type]

                yield replay(workload, policy, shadow, device, from_row=start, progress=advance)
                if progress is not None and task is not None:
                    progress.remove_task(task)


def score_traces(paths: list[Path], sweep: Sweep) -> list[Result]:
    """Replay every trace, with a progress bar on stderr; nothing is returned unless all succeed."""
    results: list[Result] = []
    with _progress() as progress:
        for path in paths:
            workload = load_workload(Trace(path), allow_loss=sweep.allow_loss)
            results += replay_sweep(workload, sweep, progress)
    return results


@contextmanager
def _progress() -> Iterator[Progress]:
    console = Console(file=sys.stderr)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def plain_console() -> Console:
    """Return a console on stdout, wide enough for a table when stdout is no terminal."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS)


def print_scoreboard(results: list[Result], console: Console | None = None) -> None:
    """Print a table for each trace, memory and device; the best policy of each column is bold.

    Bounds look ahead and are not marked.
    """
    console = console or plain_console()
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.trace, result.memory_pages, result.device), []).append(result)
    for (trace, pages, device), rows in groups.items():
        title = f"{trace} · memory {pages} pages ({pages * 4096 / 2**20:.0f} MiB) · {device}"
        counted = (
            f"{rows[0].accesses:,} accesses from row {rows[0].from_row:,}, k = {rows[0].k}, "
            f"{rows[0].reclaim} reclaim"
        )
        least = max(row.exact_from_pages for row in rows)
        if rows[0].k and pages < least:
            counted += f"; k is large for less than {least:,} pages: record with a smaller --k"
        console.print(_table(title, counted, rows))


PLAIN_COLUMNS = 150
"""Width of a table in a file or a pipe."""

score_table_box = SIMPLE_HEAD

COLUMNS = ("policy", "major", "accuracy", "coverage", "pollution", "late", "stall s", "run s")


def _table(title: str, counted: str, rows: list[Result]) -> Table:
    table = Table(
        title=title,
        caption=counted,
        title_justify="left",
        caption_justify="left",
        box=score_table_box,
        pad_edge=False,
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    bounds = {bound.name for bound in BOUNDS}
    ranked = [row for row in rows if row.policy not in bounds]
    for row in rows:
        cells = [row.policy]
        for value, best, text in _cells(row, ranked):
            marked = row in ranked and len(ranked) > 1 and value is not None and value == best
            cells.append(f"[bold]{text}[/bold]" if marked else text)
        table.add_row(*cells)
    return table


def _cells(row: Result, ranked: list[Result]) -> Iterator[tuple[float | None, float | None, str]]:
    """Yield (value, the best policy's value, text) for every column but the name."""
    for name, pick, form in (
        ("major_faults", min, "{:,}"),
        ("accuracy", max, "{:.1%}"),
        ("coverage", max, "{:.1%}"),
        ("pollution", None, "{:.1%}"),
        ("late_hits", None, "{:,}"),
        ("stall_ns", min, "{:.3f}"),
        ("runtime_ns", min, "{:.3f}"),
    ):
        value = getattr(row, name)
        known = [getattr(r, name) for r in ranked if getattr(r, name) is not None]
        best = pick(known) if pick is not None and known else None
        shown = value / 1e9 if name.endswith("_ns") else value
        yield value, best, "–" if value is None else form.format(shown)
