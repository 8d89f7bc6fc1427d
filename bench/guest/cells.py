"""From the guest's runs and a recording to cells: what the kernel did beside what replay says of it."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.guest.runs import GuestRun, find_setting
from kdtool.fidelity.footprint import replay_pages
from kdtool.fidelity.predict import Prediction, at_own_speed, replay_moments, starting_moments
from kdtool.fidelity.runs import KernelRun
from kdtool.fidelity.score import MEASURES, Cell, score_cell
from kdtool.replay import load_device, load_policy, load_workload
from kdtool.replay.scoreboard import score_table_box
from kdtool.traces import Trace

__all__ = ["make_guest_cells", "print_cells"]

MAJORS, SWAP_INS = MEASURES[:2]
MOMENTS = 3


def make_guest_cells(program: str, runs: Sequence[GuestRun], trace: Path, device: str) -> list[Cell]:
    """Return a cell for each limit and setting of one program, predictions included.

    The kernel's own memory is that of the run without a limit, which is the first; there are no file pages.
    """
    unlimited, *limited = runs
    workload = load_workload(Trace(trace), files="none")
    profile = at_own_speed(workload, load_device(device), unlimited.numbers["wall_ns"])
    cells = []
    for key in dict.fromkeys((run.percent, run.setting, run.limit_bytes) for run in limited):
        percent, name, limit = key
        setting = find_setting(name)
        pages = replay_pages(limit, unlimited.numbers["kernel"], 0)
        policies = [load_policy(setting.policy)]
        [results] = replay_moments(
            workload, policies, pages, profile, starting_moments(MOMENTS), reclaim=setting.reclaim
        )
        measured = [run for run in limited if (run.percent, run.setting, run.limit_bytes) == key]
        cells.append(
            Cell(
                program=program,
                limit_percent=percent,
                limit_bytes=limit,
                memory_pages=pages,
                setting=name,
                measured=tuple(_kernel_run(run) for run in measured),
                predicted=tuple(Prediction.of(result) for result in results),
            )
        )
    return cells


def _kernel_run(run: GuestRun) -> KernelRun:
    numbers = run.numbers
    return KernelRun(
        wall_ns=numbers["wall_ns"],
        major_faults=numbers["major"],
        swap_ins=numbers["workingset_refault_anon"],
        read_pages=numbers["pswpin"],
        pswpin=numbers["pswpin"],
        pswpout=numbers["pswpout"],
        swap_scope="cgroup",
        swap_ra=0,
        swap_ra_hit=0,
        file_bytes=numbers["file"],
    )


def print_cells(cells: Sequence[Cell], console: Console) -> None:
    """Print a row a cell: the range of the kernel's runs, replay's median, and how far it is outside."""
    table = Table(box=score_table_box, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("program", "memory", "setting"):
        table.add_column(column, no_wrap=True)
    for measure in (MAJORS, SWAP_INS):
        for column in (measure.label, "replay", "off"):
            table.add_column(column, justify="right", no_wrap=True)
    for cell in cells:
        texts = [cell.program, f"{cell.limit_percent}%", cell.setting]
        for measure in (MAJORS, SWAP_INS):
            score = score_cell(cell, measure)
            low, high = measure.form.format(score.low), measure.form.format(score.high)
            texts.append(low if low == high else f"{low}–{high}")
            texts.append(measure.form.format(score.predicted))
            texts.append("–" if score.error is None else f"{score.error:+.1%}")
        table.add_row(*texts)
    console.print(table)
