"""`kdtool deploy` as a function: a policy beside a command or a living cgroup, and then the result row."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.collect.base import Request
from kdtool.collect.launch import Launched
from kdtool.collect.limited import memory_of, own_cgroup, run_in
from kdtool.collect.living import Living, find_living, memory_cgroup
from kdtool.collect.terminal import Stop, stop_on_signals
from kdtool.deploy.agent import Agent
from kdtool.deploy.governor import ACTIVE, BACK, Governor
from kdtool.deploy.guard import guarded
from kdtool.deploy.request import Bounds, DeployRequest, bounds_of, check_request
from kdtool.deploy.result import Run, progress_of, to_row
from kdtool.deploy.room import room_in
from kdtool.deploy.runtime import Registration
from kdtool.deploy.source import Decider
from kdtool.deploy.statistics import FreshStatistics
from kdtool.errors import ParameterError
from kdtool.kernel.cgroup import own_patterns
from kdtool.kernel.host import read_page_cluster
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.kernel.swap import swap_devices
from kdtool.traces import PAGE_BYTES

__all__ = ["Show", "deploy"]

SAY_S = 1.0
Show = Callable[[Agent, Governor], None]
"""Called every 10 to 100 ms while it runs."""


def show_nothing(agent: Agent, governor: Governor) -> None:
    """Show nothing."""


def deploy(request: DeployRequest, decider: Decider, show: Show = show_nothing) -> dict[str, Any]:
    """Run the policy until the command, the duration or a signal ends it, and return the result row.

    Whatever happens, the agent is gone afterwards and what it changed is put back. Raises ParameterError,
    CapabilityError or CommandError; that the command fails is no error: look at `exit_code`.
    """
    check_request(request)
    bounds = bounds_of(request, decider)
    with stop_on_signals() as stop:
        if request.cgroup is not None:
            return _of_living(request, decider, bounds, show, stop)
        return _of_command(request, decider, bounds, show, stop)


def _of_command(
    request: DeployRequest, decider: Decider, bounds: Bounds, show: Show, stop: Stop
) -> dict[str, Any]:
    with ExitStack() as stack:
        # The guard first: a cgroup that an agent made before it stood by would stay.
        stack.enter_context(guarded(request.page_cluster, own_patterns(), request.memory_bytes))
        own = stack.enter_context(own_cgroup(request.memory_bytes, with_events=True))
        assert own.events is not None, "asked for"
        pages = None if request.memory_bytes is None else request.memory_bytes // PAGE_BYTES
        # All is ready before the command starts: it is stopped for as short a time as can be.
        place = _Place(own.events, own.name, pages, memory_of(own))
        work = stack.enter_context(_at_work(request, decider, bounds, place))
        launched = stack.enter_context(Launched(request.command, own, quiet_stdout=request.quiet_stdout))
        work.begin()
        facts = run_in(
            own,
            launched,
            stop,
            duration_s=request.duration_s,
            tick=lambda: work.tick(show),
            tick_s=lambda: work.tick_s,
        )
        kernel = {
            "major_faults": facts.major_faults,
            "minor_faults": facts.minor_faults,
            "swap_ins": facts.memory_stat.get("workingset_refault_anon", 0),
            "oom_kills": facts.oom_kills,
        }
        name = Path(request.command[0]).name
        return work.finish(name, pages, facts.wall_ns, facts.ended_by, facts.exit_code, kernel)


def _of_living(
    request: DeployRequest, decider: Decider, bounds: Bounds, show: Show, stop: Stop
) -> dict[str, Any]:
    living = find_living(Request(command=(), output=Path(), cgroup=request.cgroup))
    assert living.events is not None, "a cgroup has a directory"
    limit = living.memory().get("limit_bytes")
    if living.pids() and limit is None:
        raise ParameterError(
            f"cgroup '{living.name}': its processes have no memory limit, and swap only when the whole "
            f"machine does: limit the memory cgroup that they are in"
        )
    pages = None if limit is None else limit // PAGE_BYTES
    found = memory_cgroup(living.pids())
    # Of v1 the limit itself would have to be changed, and this one is not ours.
    memory = found[1] if found is not None and found[1].version > 1 else None
    place = _Place(living.events, living.name, pages, memory)
    began_ns = time.monotonic_ns()
    with (
        guarded(request.page_cluster, ()),
        _at_work(request, decider, bounds, place) as work,
    ):
        work.begin()
        ended_by = _wait(living, request.duration_s, stop, work, show)
        return work.finish(living.name, pages, time.monotonic_ns() - began_ns, ended_by, None, {})


def _wait(living: Living, duration_s: float | None, stop: Stop, work: "_Work", show: Show) -> str:
    deadline = None if duration_s is None else time.monotonic() + duration_s
    while living.lives():
        work.tick(show)
        if stop:
            return "signal"
        if deadline is not None and time.monotonic() >= deadline:
            return "duration"
        time.sleep(work.tick_s)
    return "cgroup"


@dataclass(frozen=True)
class _Place:
    """Where the workload lives: the cgroup that perf selects by, its memory, and where room may be made."""

    cgroup: Path
    name: str
    limit_pages: int | None
    room: MemoryCgroup | None


class _Work:
    """An agent with its guards and its entry in the runtime folder."""

    def __init__(self, agent: Agent, governor: Governor, entry: Registration) -> None:
        self._agent, self._governor, self._entry = agent, governor, entry
        self._statistics = FreshStatistics(agent.cgroup)
        self._said_s = 0.0

    def begin(self) -> None:
        """Begin to work for what lives in the cgroup, and what will."""
        self._agent.begin()

    @property
    def tick_s(self) -> float:
        """Return how long to wait before the next tick, in seconds."""
        return self._governor.tick_s

    def tick(self, show: Show) -> None:
        """Let the guards look, act on what they say, and show it."""
        self._agent.check()
        now_s = time.monotonic()
        governor, agent = self._governor, self._agent
        progress = progress_of(agent)
        governor.tick(now_s, progress, agent.swapped)
        self._statistics.tick(now_s, governor.state == ACTIVE)
        agent.rest(governor.state == BACK)
        agent.set_active(governor.watching, governor.degree if governor.active else 0)
        if now_s - self._said_s >= SAY_S:
            self._said_s = now_s
            made = progress_of(agent)
            stalled = None if agent.stall is None else agent.stall.stall_ns
            says = {"state": governor.state, "stalled": stalled, "agent_cpu_ns": agent.cpu_ns}
            self._entry.say(vars(made) | says)
        show(agent, governor)

    def finish(
        self,
        name: str,
        pages: int | None,
        wall_ns: int,
        ended_by: str,
        exit_code: int | None,
        kernel: dict[str, int],
    ) -> dict[str, Any]:
        """End the agent and return the row."""
        self._agent.end()
        self._agent.check()
        devices = ", ".join(f"{each.path} ({each.kind})" for each in swap_devices())
        run = Run(name, devices, pages, wall_ns, ended_by, exit_code, read_page_cluster(), kernel)
        return to_row(self._agent, self._governor, run)


@contextmanager
def _at_work(
    request: DeployRequest,
    decider: Decider,
    bounds: Bounds,
    place: _Place,
) -> Iterator[_Work]:
    agent = Agent(
        place.cgroup,
        decider,
        limit_pages=place.limit_pages,
        rate_pages=bounds.rate_pages,
        placement=request.placement,
        source=request.source,
        stall=request.stall,
        log_events=request.log_events,
    )
    with room_in(place.room, agent.arrays), closing(agent):
        governor = Governor(bounds.degree_pages, bounds.floors)
        about = {"policy": decider.name, "policy_version": decider.version}
        about |= {"source": agent.source.path, "source_reason": agent.source_reason}
        with Registration(place.name, about) as entry:
            yield _Work(agent, governor, entry)
