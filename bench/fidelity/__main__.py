"""Does replay predict what the running kernel does? python -m bench.fidelity, from the root of the project.

Runs real programs under real memory limits with the kernel's own swapping, records each program's page
references, replays them, and prints what was predicted beside what was measured. As root, with qemu-user and
gcc; see docs/fidelity.md. What it measures is kept in the work folder: started again, it goes on.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console

from bench.fidelity.cells import make_cells
from bench.fidelity.kernelruns import measure_kernel
from bench.fidelity.machine import forbid_huge_pages
from bench.fidelity.matrix import Plan, Say, measure_footprints, record_references
from bench.fidelity.store import Store
from bench.fidelity.workloads import PROGRAMS, choose_programs
from kdtool.collect.refs import told_tunables
from kdtool.errors import KdtoolError
from kdtool.fidelity.score import Cell
from kdtool.fidelity.settings import SETTINGS, find_setting
from kdtool.fidelity.show import PLAIN_COLUMNS, print_fidelity, to_document
from kdtool.kernel.tracefs import find_tracefs
from kdtool.replay import load_device


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _parse_arguments()
    begin_s = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin_s:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        _run(arguments, say)
    except KdtoolError as error:
        print(f"fidelity: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fidelity: interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parse_arguments() -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.fidelity", description=summary, epilog=rest)
    add = parser.add_argument
    names = ", ".join(program.name for program in PROGRAMS)
    settings = ", ".join(setting.name for setting in SETTINGS)
    add("--work", type=Path, default=Path("fidelity-work"), help="folder for what takes long to measure")
    add("--programs", nargs="*", metavar="NAME", help=f"which of {names}; all when not given")
    add(
        "--command", action="append", default=[], metavar="NAME=COMMAND", help="a program of your own as well"
    )
    add("--limits", nargs="+", type=int, default=[75, 50, 35], metavar="PERCENT", help="of the footprint")
    add("--settings", nargs="+", default=["none", "cluster", "vma"], metavar="NAME", help=f"of {settings}")
    add("--runs", type=int, default=5, help="of each cell under the kernel (5)")
    add("--device", default="ssd", help="profile of the swap device for replay, a name or a JSON file")
    add("--k", type=int, default=256, help="reduction window of the recordings in pages (256)")
    add("--timeout", type=float, default=600.0, metavar="S", help="of one run (600)")
    add("--swap-size", default="2G", help="of the swap (2G)")
    add("--loop", action="store_true", help="swap on a loop device, not in a file: its threads take CPU time")
    add("--jobs", type=int, default=1, help="processes that replay (1)")
    add("--tolerance", type=float, default=5.0, metavar="PERCENT", help="what is called a miss (5)")
    add("--fresh", action="store_true", help="measure again what is in the work folder")
    add("--score-only", action="store_true", help="replay and score what was measured; measure nothing")
    add("--json", action="store_true", help="print one JSON document")
    add("--parquet", type=Path, metavar="FILE", help="write every run under the kernel as a row")
    arguments = parser.parse_args()
    if not all(0 < percent < 100 for percent in arguments.limits):
        parser.error("--limits: percentages from 1 to 99")
    if min(arguments.runs, arguments.jobs) < 1:
        parser.error("--runs and --jobs: 1 or more")
    return arguments


def _run(arguments: argparse.Namespace, say: Say) -> None:
    plan = Plan(
        programs=choose_programs(arguments.programs, arguments.command),
        percents=arguments.limits,
        settings=[find_setting(name) for name in arguments.settings],
        runs=arguments.runs,
        k=arguments.k,
        timeout_s=arguments.timeout,
        swap_size=arguments.swap_size,
    )
    store = Store(arguments.work, loop=arguments.loop)
    load_device(arguments.device)  # an unknown one is said before anything is measured
    if not arguments.score_only:
        find_tracefs()  # looks at the disk need it, after minutes of recording
        if arguments.fresh:
            _forget(plan, store)
        forbid_huge_pages()
        _be_as_recorded()
        measure_footprints(plan, store, say)
        record_references(plan, store, say)
        measure_kernel(plan, store, say)
    cells = make_cells(plan, store, arguments.device, arguments.jobs, say)
    if arguments.parquet is not None:
        _write_parquet(cells, arguments.parquet)
    tolerance = arguments.tolerance / 100
    if arguments.json:
        print(json.dumps(to_document(cells, tolerance)))
    else:
        print_fidelity(cells, tolerance, Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS))


def _be_as_recorded() -> None:
    """Give programs under the kernel the environment that they are recorded in: it moves their heaps."""
    if tunables := told_tunables(os.environ.get("GLIBC_TUNABLES", "")):
        os.environ["GLIBC_TUNABLES"] = tunables


def _forget(plan: Plan, store: Store) -> None:
    for program in plan.programs:
        store.forget_footprint(program)
        for percent in plan.percents:
            for setting in plan.settings:
                store.forget(program, percent, setting.name)


def _write_parquet(cells: list[Cell], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    named = ("program", "limit_percent", "limit_bytes", "memory_pages", "setting")
    rows = [
        {name: getattr(cell, name) for name in named} | run.to_row()
        for cell in cells
        for run in cell.measured
    ]
    parquet.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    sys.exit(main())
