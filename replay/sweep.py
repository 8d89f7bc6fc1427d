"""Many replays in one call: policies × memories × devices × traces, in this process or in several.

A cell is one trace at one memory on one device, started at one moment. Its run without prefetching is made
once: it is the shadow of every policy of the cell, and the result of `none`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdtool.errors import ParameterError, unknown_name
from kdtool.replay.devices import Device
from kdtool.replay.display import Display
from kdtool.replay.filemaps import DATA
from kdtool.replay.memory import RECLAIMS, Flush
from kdtool.replay.policies import Policy
from kdtool.replay.policies.linux_file import RA_PAGES
from kdtool.replay.policies.none import NoPrefetch
from kdtool.replay.run import Progress, Result, Shadow, check_memory, first_row, replay, replay_none
from kdtool.replay.workload import Workload, load_workload
from kdtool.traces import Trace, memory_pages

__all__ = ["Cell", "Sweep", "load_cells", "replay_cell", "replay_sweep", "sweep_cells"]

MAX_PHASES = 200
"""One each 10 ms of the kernel's 2 s."""


@dataclass(frozen=True)
class Sweep:
    """What to replay: every policy at every memory on every device, counting from `start` on.

    `memories` are sizes or percentages of the trace's footprint; `start` is a row or a percentage of rows.
    `phases`: at how many moments of the kernel's statistics period to start, evenly spread; which it will be
    is chance, and decides how much `linux` reclaim swaps. `files` and `ra_pages` are load_workload()'s.

    Raises ParameterError for two devices of one name, by which results are told.
    """

    policies: tuple[Policy, ...]
    memories: tuple[str, ...]
    devices: tuple[Device, ...]
    start: str = "0"
    reclaim: str = "linux"
    phases: int = 1
    allow_loss: bool = False
    files: str = DATA
    ra_pages: int = RA_PAGES

    def __post_init__(self) -> None:
        names = [device.name for device in self.devices]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ParameterError(
                f"{twice}: two devices of this name, and results go by it: rename the file of one, or give "
                f"it once"
            )

    def flushes(self) -> list[Flush]:
        """Return a Flush for each starting moment, the one in the middle of the period when it is one."""
        n = self.phases
        return [Flush(phase_ns=Flush.period_ns * (2 * i + 1) // (2 * n)) for i in range(n)]


@dataclass(frozen=True)
class Cell:
    """One trace at one memory on one device, started at one moment, and the policies to replay there."""

    workload: Workload
    memory_pages: int
    device: Device
    policies: tuple[Policy, ...]
    from_row: int
    reclaim: str
    flush: Flush

    def name(self, policy: Policy | None = None) -> str:
        """Return how a person is told of one of the cell's replays, or of its shadow."""
        run = NoPrefetch.name if policy is None else policy.name
        return f"{self.workload.name} · {self.memory_pages} pages · {self.device.name} · {run}"

    def needs_replay(self, policy: Policy) -> bool:
        """Tell whether the shadow is not already the policy's result."""
        return not isinstance(policy, NoPrefetch)

    @property
    def n_runs(self) -> int:
        """Return how many replays the cell takes."""
        return 1 + sum(map(self.needs_replay, self.policies))

    def run_shadow(self, progress: Progress) -> tuple[Shadow, Result]:
        """Replay without prefetching."""
        return replay_none(
            self.workload,
            self.memory_pages,
            self.device,
            self.reclaim,
            self.flush,
            from_row=self.from_row,
            progress=progress,
        )

    def run(self, policy: Policy, shadow: Shadow, progress: Progress) -> Result:
        """Replay under `policy`."""
        return replay(self.workload, policy, shadow, self.device, from_row=self.from_row, progress=progress)


def sweep_cells(workload: Workload, sweep: Sweep) -> list[Cell]:
    """Return the cells of one trace, all checked, so that nothing is replayed in vain.

    Raises ParameterError for a memory, a first row or a number of phases that makes no sense here.
    """
    if sweep.reclaim not in RECLAIMS:
        raise unknown_name("reclaim", sweep.reclaim, RECLAIMS)
    if not 1 <= sweep.phases <= MAX_PHASES or (sweep.phases > 1 and sweep.reclaim != "linux"):
        raise ParameterError(
            f"--phases {sweep.phases} with {sweep.reclaim} reclaim: give 1 to {MAX_PHASES}, and more than 1 "
            f"for linux only, which alone goes by statistics"
        )
    start = first_row(sweep.start, workload.n_refs)
    sizes = [memory_pages(memory, workload.footprint_pages) for memory in sweep.memories]
    for pages in sizes:
        for policy in sweep.policies:
            check_memory(workload, pages, policy.degree_pages)
    return [
        Cell(workload, pages, device, sweep.policies, start, sweep.reclaim, flush)
        for pages in sizes
        for device in sweep.devices
        for flush in sweep.flushes()
    ]


def load_cells(path: Path, sweep: Sweep, display: Display) -> list[Cell]:
    """Read a trace and return its cells; raises a KdtoolError as load_workload() and sweep_cells() do."""
    line = display.line(f"reading {path.name}")
    workload = load_workload(
        Trace(path), allow_loss=sweep.allow_loss, files=sweep.files, ra_pages=sweep.ra_pages
    )
    cells = sweep_cells(workload, sweep)
    line.end()
    for cell in cells:
        display.expect(cell.n_runs * cell.workload.n_refs)
    return cells


def replay_sweep(workload: Workload, sweep: Sweep) -> Iterator[Result]:
    """Yield a result for each memory, device, phase and policy, in this order."""
    for cell in sweep_cells(workload, sweep):
        yield from replay_cell(cell, Display())


def replay_cell(cell: Cell, display: Display) -> Iterator[Result]:
    """Yield a result for each policy of the cell."""
    line = display.line(cell.name(), cell.workload.n_refs)
    shadow, none = cell.run_shadow(line.advance)
    line.end()
    for policy in cell.policies:
        if not cell.needs_replay(policy):
            yield none
            continue
        line = display.line(cell.name(policy), cell.workload.n_refs)
        yield cell.run(policy, shadow, line.advance)
        line.end()
