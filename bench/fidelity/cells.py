"""From the work folder to scored cells: what was measured, and what replay says of it now."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median_low

from bench.fidelity.looks import of_cell
from bench.fidelity.matrix import Plan, Say
from bench.fidelity.store import Measured, Store
from bench.fidelity.workloads import BenchProgram
from kdtool.fidelity.footprint import Footprint, limit_bytes, replay_pages
from kdtool.fidelity.predict import (
    Prediction,
    at_own_speed,
    current_moments,
    on_swap,
    replay_moments,
    starting_moments,
)
from kdtool.fidelity.score import Cell
from kdtool.fidelity.settings import find_setting
from kdtool.replay import load_device, load_workload
from kdtool.traces import Trace

__all__ = ["make_cells"]

Key = tuple[int, str]
"""Pages of memory, and the setting's name."""


def make_cells(plan: Plan, store: Store, device: str, jobs: int, say: Say) -> list[Cell]:
    """Return a cell for each program, memory and setting of the plan; replays run in `jobs` processes.

    A program without a footprint has no cell; one without a recording has no predictions.
    """
    cells: list[Cell] = []
    with ProcessPoolExecutor(jobs) as pool:
        waiting = []
        for program in plan.programs:
            some = _measured_cells(plan, store, program)
            if not some:
                say(f"{program.name}: was not measured yet")
            trace = store.trace(program) if store.recorded(program) is not None else None
            disks = {(cell.memory_pages, cell.setting): cell.disk for cell in some}
            footprint = store.footprint(program)
            future = pool.submit(predict_program, trace, disks, device, store.loop, footprint)
            waiting.append((program, some, future))
        for program, some, future in waiting:
            predicted = future.result()
            for cell in some:
                found = tuple(predicted.get((cell.memory_pages, cell.setting), ()))
                cells.append(replace(cell, predicted=found))
            say(f"{program.name}: replayed")
    return cells


def predict_program(
    trace: Path | None,
    disks: Mapping[Key, Mapping[str, int]],
    device: str,
    loop: bool,
    footprint: Footprint | None,
) -> Mapping[Key, list[Prediction]]:
    """Return the predictions for each memory and setting; a top-level function, for other processes.

    disks : what of `device` was otherwise while each was measured
    loop : swap is on a loop device
    """
    if trace is None or not disks or footprint is None:
        return {}
    # The limit's pages of files are measured, and off the memory already: the replayed ones would be twice.
    workload = load_workload(Trace(trace), files="none")
    profile = at_own_speed(workload, on_swap(load_device(device), loop=loop), footprint.wall_ns)
    predicted: dict[Key, list[Prediction]] = {}
    for (pages, name), disk in sorted(disks.items()):
        setting = find_setting(name)
        moments = current_moments() if setting.current else starting_moments()
        replayed = replay_moments(workload, setting.policies, pages, profile.having(disk), moments)
        predicted[pages, name] = [
            Prediction.of(result, state) for state, results in enumerate(replayed) for result in results
        ]
    return predicted


def _measured_cells(plan: Plan, store: Store, program: BenchProgram) -> list[Cell]:
    """Return the program's cells without predictions."""
    footprint = store.footprint(program)
    cells: list[Cell] = []
    if footprint is None:
        return cells
    for percent in plan.percents:
        limit = limit_bytes(footprint, percent)
        for setting in plan.settings:
            measured = store.measured(program, percent, setting.name, limit) or Measured(limit)
            file_bytes = median_low([run.file_bytes for run in measured.runs]) if measured.runs else 0
            cell = Cell(
                program=program.name,
                limit_percent=percent,
                limit_bytes=limit,
                memory_pages=replay_pages(limit, footprint.kernel_bytes, file_bytes),
                setting=setting.name,
                measured=tuple(measured.runs),
                predicted=(),
                oom_kills=measured.oom_kills,
                disturbed=measured.disturbed,
                trouble=measured.trouble or _what_is_missing(plan, len(measured.runs)),
                disk=of_cell(measured.looks),
            )
            cells.append(cell)
    return cells


def _what_is_missing(plan: Plan, runs: int) -> str:
    return "" if runs >= plan.runs else f"{runs} of {plan.runs} runs"
