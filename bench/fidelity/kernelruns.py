"""Measuring the matrix: each program in each memory under each setting of the kernel, run by run.

What is in the work folder already is kept, so that a bench that was ended goes on where it was.
"""

import time
from dataclasses import dataclass

from bench.fidelity.looks import Looker, looker_at
from bench.fidelity.machine import Watch, own_swap
from bench.fidelity.matrix import Plan, Say
from bench.fidelity.store import Measured, Store
from bench.fidelity.workloads import BenchProgram
from kdtool.collect.limited import RunFacts
from kdtool.errors import CommandError
from kdtool.fidelity.footprint import limit_bytes
from kdtool.fidelity.runs import MAX_OOM_KILLS, KernelRun, run_once, wait_for_moment
from kdtool.fidelity.settings import Setting
from kdtool.kernel.host import host_facts, page_cluster

__all__ = ["measure_kernel"]

MAX_DISTURBED = 20
"""So often is a run made again, in one go, when others change page-cluster or swap meanwhile."""
DISTURBED_PAUSE_S = 3.0


@dataclass(frozen=True)
class Place:
    """One cell of the matrix that is being measured."""

    program: BenchProgram
    percent: int
    setting: Setting
    limit_bytes: int

    @property
    def name(self) -> str:
        """Return what progress calls it."""
        return f"{self.program.name} {self.percent}% {self.setting.name}"


def measure_kernel(plan: Plan, store: Store, say: Say) -> None:
    """Run what is missing of the matrix under the kernel; swap is up meanwhile, set up anew for each kind.

    Raises a KdtoolError when swap cannot be set up or a program fails.
    """
    bench = _Bench(plan, store, say)
    for rotational in (False, True):
        places = [place for place in bench.places if place.setting.rotational == rotational]
        if places:
            with (
                own_swap(rotational, plan.swap_size, loop=store.loop) as device,
                looker_at(device, rotational) as looker,
            ):
                for place in places:
                    bench.measure(place, device, looker)


class _Bench:
    """What is left to do, and how long it will take at the pace so far."""

    def __init__(self, plan: Plan, store: Store, say: Say) -> None:
        self._plan, self._store, self._say = plan, store, say
        every = [
            Place(program, percent, setting, self._limit(program, percent))
            for program in plan.programs
            for percent in plan.percents
            for setting in plan.settings
        ]
        self.places = [place for place in every if self._missing(place)]
        self._left = sum(self._missing(place) for place in self.places)
        self._done, self._begin_s = 0, time.monotonic()

    def _limit(self, program: BenchProgram, percent: int) -> int:
        footprint = self._store.footprint(program)
        assert footprint is not None, "footprints are measured first"
        return limit_bytes(footprint, percent)

    def _so_far(self, place: Place) -> Measured:
        found = self._store.measured(place.program, place.percent, place.setting.name, place.limit_bytes)
        return found or Measured(place.limit_bytes)

    def _missing(self, place: Place) -> int:
        """Return how many runs of a cell are missing."""
        found = self._so_far(place)
        return 0 if found.trouble else max(self._plan.runs - len(found.runs), 0)

    def measure(self, place: Place, device: str, looker: Looker | None) -> None:
        """Run a cell until it has its runs or is given up; each run is kept as soon as it is made."""
        measured, runs, disturbed = self._so_far(place), self._plan.runs, 0
        while len(measured.runs) < runs and not measured.trouble and disturbed < MAX_DISTURBED:
            before = [looker.look()] if looker else []
            facts, run, changed = self._run(place, device, len(measured.runs))
            problem = self._judge(place, measured, facts, changed)
            if problem is None:
                measured.runs.append(run)
                ends = len(measured.runs) == runs
                measured.looks += [*before, looker.look()] if looker and ends else before
                self._ran(1, f"{place.name}: run {len(measured.runs)}: {_describe(run)}")
            else:
                self._say(f"{place.name}: {problem}")
            if changed is not None:
                disturbed += 1
                time.sleep(DISTURBED_PAUSE_S)
            measured.host = host_facts()
            self._store.keep_measured(place.program, place.percent, place.setting.name, measured)
        if len(measured.runs) < runs:
            self._ran(runs - len(measured.runs), f"{place.name}: given up")

    def _run(self, place: Place, device: str, number: int) -> tuple[RunFacts, KernelRun, str | None]:
        """Run it once; also return what others changed meanwhile, or None."""
        setting = place.setting
        command = place.program.command(self._store.binaries)
        if not setting.current:
            wait_for_moment(number, self._plan.runs)
        watch = Watch(setting, device)
        with page_cluster(setting.page_cluster):
            facts, run = run_once(
                command,
                place.limit_bytes,
                current=setting.current,
                duration_s=self._plan.timeout_s,
                tick=watch,
            )
            changed = watch.changed or watch()
        return facts, run, changed

    def _judge(self, place: Place, measured: Measured, facts: RunFacts, changed: str | None) -> str | None:
        """Return why a run does not count, None when it does; count what happened, give up a hopeless cell.

        Raises CommandError when the program failed by itself, KeyboardInterrupt when we were told to end.
        """
        if facts.ended_by == "signal":
            raise KeyboardInterrupt
        if changed is not None:
            measured.disturbed += 1
            return f"disturbed: {changed}"
        if facts.oom_killed:
            measured.oom_kills += 1
            if measured.oom_kills > MAX_OOM_KILLS:
                measured.trouble = f"killed by the kernel for its limit {measured.oom_kills} times"
            return "killed by the kernel for its memory limit"
        if facts.ended_by == "duration":
            measured.trouble = f"a run took more than {self._plan.timeout_s:.0f} s"
            return measured.trouble
        if facts.exit_code:
            raise CommandError(f"{place.name}: ended with {facts.exit_code}: run its command alone")
        return None

    def _ran(self, n: int, text: str) -> None:
        """Note that `n` runs less are left, and say so."""
        self._done, self._left = self._done + n, self._left - n
        left_s = (time.monotonic() - self._begin_s) / self._done * self._left
        self._say(f"{text}; {self._left} runs left, {left_s / 60:.0f} min")


def _describe(run: KernelRun) -> str:
    return f"{run.major_faults:,} major faults, {run.swap_ins:,} swap-ins, {run.wall_ns / 1e9:.2f} s"
