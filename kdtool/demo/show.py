"""What the demo prints: the scoreboards, and the kernel's own runs beside what replay predicted."""

from statistics import median

from rich.console import Console
from rich.table import Table

from kdtool.demo.session import Demo
from kdtool.demo.truth import KernelRuns
from kdtool.replay.scoreboard import plain_console, print_scoreboard, score_table_box

__all__ = ["print_demo"]


def print_demo(demo: Demo, console: Console | None = None) -> None:
    """Print everything for a person."""
    console = console or plain_console()
    for built in demo.built:
        print_scoreboard(built.results, console)
        console.print(
            f"{built.trace}: learned from {built.samples:,} swap-ins ({built.features} features, "
            f"{built.leaves} leaves, depth {built.depth}); verifier: {built.verdict}; tables: "
            f"{built.table_entries} entries, {built.decisions_compared:,} decisions equal to the model's\n",
            highlight=False,
        )
    if demo.kernel:
        console.print(_kernel_table(demo))
    for note in demo.notes:
        console.print(f"NOTE: {note}", highlight=False, markup=False)


def _kernel_table(demo: Demo) -> Table:
    table = Table(
        title="In 50 % of memory: runs of the kernel, and replays of the whole program (median, range)",
        title_justify="left",
        box=score_table_box,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in COLUMNS:
        left = column in ("program", "statistics", "policy")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for runs in demo.kernel:
        table.add_row(*_cells(demo, runs))
    return table


COLUMNS = ("program", "page-cluster", "statistics", "policy", "kernel major", "range", "replay major",
           "range", "off", "kernel s", "replay s")  # fmt: skip


def _cells(demo: Demo, runs: KernelRuns) -> list[str]:
    built = next(built for built in demo.built if built.trace == f"{runs.program}.kdt")
    predicted = built.predicted_current if runs.current else built.predicted[runs.policy]
    replayed = [result.major_faults for result in predicted]
    return [
        runs.program,
        str(runs.page_cluster),
        "current" if runs.current else "as they are",
        runs.policy,
        f"{median(runs.major_faults):,.0f}",
        f"{min(runs.major_faults):,}–{max(runs.major_faults):,}",
        f"{median(replayed):,.0f}",
        f"{min(replayed):,}–{max(replayed):,}",
        f"{median(replayed) / median(runs.major_faults) - 1:+.1%}" if any(runs.major_faults) else "–",
        f"{median(runs.wall_ns) / 1e9:.2f}",
        f"{median(result.runtime_ns for result in predicted) / 1e9:.2f}",
    ]
