"""What the demo prints: the scoreboards, and the kernel's own runs beside what replay predicted."""

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
    table = Table(title="The running kernel at 50 % of memory, and replay of the whole program",
                  title_justify="left", box=score_table_box, pad_edge=False)  # fmt: skip
    for column in ("program", "page-cluster", "policy", "major: kernel", "range", "replay", "off",
                   "run s: kernel", "range", "replay"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("program", "policy") else "right", no_wrap=True)
    for runs in demo.kernel:
        table.add_row(*_cells(demo, runs))
    return table


def _cells(demo: Demo, runs: KernelRuns) -> list[str]:
    built = next(built for built in demo.built if built.trace == f"{runs.program}.kdt")
    predicted = built.predicted[runs.policy]
    kernel, major = runs.median_major_faults, predicted.major_faults
    wall_s = [wall_ns / 1e9 for wall_ns in runs.wall_ns]
    return [
        runs.program,
        str(runs.page_cluster),
        runs.policy,
        f"{kernel:,}",
        f"{min(runs.major_faults):,} to {max(runs.major_faults):,}",
        f"{major:,}",
        f"{major / kernel - 1:+.1%}" if kernel else "–",
        f"{runs.median_wall_ns / 1e9:.2f}",
        f"{min(wall_s):.2f} to {max(wall_s):.2f}",
        f"{predicted.runtime_ns / 1e9:.2f}",
    ]
