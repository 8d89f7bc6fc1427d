"""What a program at its memory limit meets, alone and beside an agent: measured of one that times itself.

    limitprobe (collect/limitprobe.c) in a cgroup of ours ──► file: ns a store beyond the limit
    the same, and `kdtool deploy` beside it with a program that knows its stride ──► ns a load, in passes
    that have pages written out and in those that do not; ns a call of the agent

madvise() on our own pages would not do: what the kernel's reclaim writes out costs interrupts and flushes of
other CPUs' TLBs besides the call, and an agent's work costs the workload the same and its share of the locks.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from kdtool.calibrate.numbers import MIN_REPEATS
from kdtool.collect.compiled import build
from kdtool.collect.limited import run_limited
from kdtool.collect.pageprobe import PACKAGES
from kdtool.deploy.request import DeployRequest
from kdtool.deploy.session import deploy
from kdtool.deploy.source import Decider
from kdtool.errors import CapabilityError
from kdtool.live.policies import of_program
from kdtool.rmt import Budget
from kdtool.rmt.examples import stride_program
from kdtool.traces import PAGE_BYTES

__all__ = [
    "PROBE",
    "Calls",
    "Limited",
    "Pass",
    "keeps_ahead",
    "measure_fills",
    "measure_limited",
    "read_report",
]

TRIES = 3
"""A run that the kernel kills for the limit is made again."""
TRIES_BESIDE = 5
"""So often are runs beside an agent made, until it kept ahead in enough: others may have had the CPUs."""
MAJORS_SHARE = 10
OWN_PAGES = 256
"""What the probe takes beside its pages, at most: its own, page tables, and what CPUs hold charged."""


@dataclass(frozen=True)
class Probe:
    """How the probe is run: `pages` pages in memory for `limit_pages`."""

    pages: int = 12_288
    limit_pages: int = 6_144
    block: int = 512
    stride: int = 3
    work: int = 20_000
    passes: int = 5
    runs: int = 4
    fills: int = 16
    degree_pages: int = 32

    def arguments(self, file: Path, passes: int) -> tuple[str, ...]:
        """Return the command line behind the probe's path."""
        begin = self.limit_pages + OWN_PAGES
        numbers = (self.pages, begin, self.block, self.stride, self.work, passes)
        return (str(file), *map(str, numbers))


PROBE = Probe()


class Pass(NamedTuple):
    """A pass of loads beside an agent: what a load took, its arithmetic taken off, how many were major
    faults, and how many pages were written out meanwhile."""

    load_ns: int
    majors: int
    written: int


class Calls(NamedTuple):
    """An agent's calls in a run: how many, of how many pages, each a range of its own; their mean time."""

    calls: int
    pages: int
    mean_ns: int


@dataclass(frozen=True)
class Limited:
    """cold_ns : of a store to a new page at the limit, mean of a run. passes, calls : beside an agent."""

    cold_ns: list[int]
    passes: list[Pass]
    calls: list[Calls] = field(default_factory=list)


def measure_limited() -> Limited:
    """Run the probe alone and beside an agent.

    Raises CapabilityError when something is missing, or the kernel kills it again and again.
    """
    path = _probe()
    program = replace(stride_program(PROBE.degree_pages), budget=Budget(steps=256, state_bytes=2048))
    decider = of_program(program)
    limit_bytes = PROBE.limit_pages * PAGE_BYTES
    cold = measure_fills(PROBE.fills)
    with tempfile.TemporaryDirectory(prefix="kdtool-") as folder:
        file = Path(folder) / "report"
        request = DeployRequest(
            command=(path, *PROBE.arguments(file, PROBE.passes)),
            memory_bytes=limit_bytes,
            step_back=False,
        )
        passes: list[Pass] = []
        calls: list[Calls] = []
        for _ in range(TRIES_BESIDE):
            for _ in range(PROBE.runs):
                _until_it_ends(partial(_beside, request, decider, calls))
                passes += read_report(file.read_text()).passes
            if sum(keeps_ahead(each.majors) for each in passes) >= 2 * MIN_REPEATS:
                break
        return Limited(cold, passes, calls)


def measure_fills(runs: int) -> list[int]:
    """Return what a store to a new page takes at the limit, in ns: the mean of each of `runs` runs alone.

    Raises as measure_limited().
    """
    path, limit_bytes, cold = _probe(), PROBE.limit_pages * PAGE_BYTES, []
    with tempfile.TemporaryDirectory(prefix="kdtool-") as folder:
        file = Path(folder) / "report"
        for _ in range(runs):
            _until_it_ends(partial(_alone, (path, *PROBE.arguments(file, 0)), limit_bytes))
            cold += read_report(file.read_text()).cold_ns
    return cold


def _probe() -> str:
    return str(build(("limitprobe.c",), PACKAGES, program=True)[0])


def keeps_ahead(majors: int) -> bool:
    """Tell whether so few loads of a pass were major faults that it says something of the others."""
    return majors <= PROBE.pages // MAJORS_SHARE


def _alone(command: tuple[str, ...], limit_bytes: int) -> tuple[int | None, str]:
    facts = run_limited(command, limit_bytes)
    return facts.exit_code, facts.ended_by


def _beside(request: DeployRequest, decider: Decider, calls: list[Calls]) -> tuple[int | None, str]:
    row = deploy(request, decider)
    if row["exit_code"] == 0:
        calls.append(_calls_of(row))
    return row["exit_code"], row["ended_by"]


def _calls_of(row: dict[str, Any]) -> Calls:
    return Calls(row["calls"], row["prefetch_issued"] + row["overtaken"], row["mean_call_ns"])


def _until_it_ends(run: Callable[[], tuple[int | None, str]]) -> None:
    """Run it until it ends by itself; it was killed for the limit otherwise."""
    for _ in range(TRIES):
        exit_code, ended_by = run()
        if ended_by == "signal":
            raise KeyboardInterrupt
        if exit_code == 0:
            return
    raise CapabilityError(
        f"the probe in {PROBE.limit_pages * PAGE_BYTES >> 20} MiB ended with {exit_code}, {TRIES} times: end "
        f"what else uses memory and swap, and try again"
    )


def read_report(text: str) -> Limited:
    """Return what the probe wrote.

    >>> read_report("work 20\\ncold 9\\ncold 11\\npass 25 3000 6000\\npass 24 0 1\\n").passes
    [Pass(load_ns=5, majors=3000, written=6000), Pass(load_ns=4, majors=0, written=1)]
    """
    cold: list[int] = []
    passes: list[Pass] = []
    work_ns = 0
    for line in text.splitlines():
        kind, *numbers = line.split()
        if kind == "work":
            work_ns = int(numbers[0])
        elif kind == "cold":
            cold.append(int(numbers[0]))
        else:
            load_ns, majors, written = map(int, numbers)
            passes.append(Pass(load_ns - work_ns, majors, written))
    return Limited([int(mean(cold))], passes)
