"""What is to be measured, and what is measured once a program: its footprint and its page references."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.fidelity.store import Store
from bench.fidelity.workloads import BenchProgram
from kdtool.collect import collector
from kdtool.collect.base import Request
from kdtool.collect.refs import recorded_by_this_version
from kdtool.collect.session import record
from kdtool.errors import CommandError
from kdtool.fidelity.footprint import measure_footprint
from kdtool.fidelity.settings import Setting
from kdtool.traces import Trace

__all__ = ["Plan", "Say", "measure_footprints", "record_references"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    percents : limits, in percent of each program's footprint
    k : reduction window of the recordings, in pages
    timeout_s : of one run under the kernel
    swap_size : of the swap device, such as 2G
    """

    programs: Sequence[BenchProgram]
    percents: Sequence[int]
    settings: Sequence[Setting]
    runs: int
    k: int
    timeout_s: float
    swap_size: str


def record_references(plan: Plan, store: Store, say: Say) -> None:
    """Record every page reference of each program that was not recorded yet, or by another recorder.

    Raises a KdtoolError when a program fails.
    """
    for program in plan.programs:
        found = store.recorded(program)
        path = store.trace(program)
        if found is not None and found["k"] == plan.k and recorded_by_this_version(Trace(path)):
            continue
        say(f"{program.name}: recording every page reference")
        store.forget_recorded(program)  # of another version
        begin_s = time.monotonic()
        request = Request(program.command(store.binaries), path, k=plan.k, quiet_stdout=True)
        trace = record(request, [collector("refs")])
        took_s = time.monotonic() - begin_s
        manifest = trace.manifest
        if manifest.state == "interrupted":
            raise KeyboardInterrupt
        if manifest.workload["exit_code"]:
            raise CommandError(f"{program.name}: ended with {manifest.workload['exit_code']} under qemu")
        info = manifest.tables["refs"]
        facts = {"k": plan.k, "took_s": round(took_s, 1), "rows": info.rows, "bytes": info.bytes}
        store.keep_recorded(program, facts)
        say(f"{program.name}: {info.rows:,} references in {took_s:.0f} s, {info.bytes >> 10:,} KiB")


def measure_footprints(plan: Plan, store: Store, say: Say) -> None:
    """Run each program whose footprint is not known without a limit.

    Raises a KdtoolError when a program fails.
    """
    for program in plan.programs:
        if store.footprint(program) is not None:
            continue
        found = measure_footprint(program.name, program.command(store.binaries))
        store.keep_footprint(program, found)
        say(
            f"{program.name}: {found.peak_bytes >> 20} MiB at most, kernel {found.kernel_bytes >> 10} KiB "
            f"and files {found.file_bytes >> 10} KiB of them; {found.wall_ns / 1e9:.2f} s without a limit"
        )
