"""Faults: every page fault of a command or of a living cgroup, with its address and whether it was major.

Idea: the software events page-faults-maj and page-faults-min with period 1, on each CPU, for the tasks of one
cgroup; they run a BPF program, or write perf samples where BPF is refused. A dummy event beside them reports
mappings, forks and execs.
State: one ring a CPU (40 bytes a fault by BPF, 56 by perf).
Cost: docs/collect.md (bench/collect.py).
Kernel counterpart: mm_account_fault() in mm/memory.c.
Differs from rusage: faults that the kernel takes on a task's behalf (get_user_pages: exec's arguments,
direct I/O) count in rusage and are no perf event. Not seen: touches of pages that are mapped already, so that
replay under another policy or memory needs `refs`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdtool.collect.base import Problem, Scope
from kdtool.collect.faultstream import FaultStream
from kdtool.errors import CapabilityError
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.kernel.fault_events import FaultEvents, PerfFaults
from kdtool.kernel.task_faults import TaskFaults
from kdtool.traces import TraceWriter

__all__ = ["Faults", "probe_events"]


Way = type[BpfFaults] | type[PerfFaults]


class Faults:
    """The collector `faults`: tables `faults` and `vmas`, clock `monotonic`.

    ways : how events may get here, the cheapest first
    """

    def __init__(self, ways: Sequence[Way] = (BpfFaults, PerfFaults)) -> None:
        self.ways = ways

    name = "faults"
    tables = ("faults", "vmas", "tasks")
    clock = "monotonic"
    load = "fault"

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here: perf events that are refused, of a cgroup and of tasks."""
        try:
            _of_tasks(None)
        except CapabilityError as error:
            return Problem.of(error)
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> FaultStream:
        """Open the events of the scope's cgroup or its processes; CapabilityError when they are refused."""
        if scope.cgroup is not None:
            events, about = self._events(scope.cgroup, scope.request.buffer_bytes)
        else:
            events, about = _of_tasks(scope.request.buffer_bytes)
        return FaultStream(events, writer, about)

    def _events(self, cgroup: Path, buffer_bytes: int | None) -> tuple[FaultEvents, dict[str, Any]]:
        """Return the cheapest way that is allowed, and why a cheaper one is not."""
        refused: dict[str, str] = {}
        for way in self.ways:
            try:
                return way(cgroup, buffer_bytes), {"refused": refused} if refused else {}
            except CapabilityError as error:
                if way is self.ways[-1]:
                    raise
                refused[way.path] = str(error)
        raise AssertionError("there is always a last way")


def _of_tasks(buffer_bytes: int | None) -> tuple[FaultEvents, dict[str, Any]]:
    """Return the events of processes, and of user mode only where the user may not see more."""
    try:
        return TaskFaults(user_only=False, ring_bytes=buffer_bytes), {}
    except CapabilityError as error:
        events = TaskFaults(user_only=True, ring_bytes=buffer_bytes)
        about = {"scope": "only the faults of user mode, not those of system calls", "refused": str(error)}
        return events, about


def probe_events() -> FaultEvents:
    """Open page-fault events with their rings on an empty cgroup of ours, and return them closed.

    Raises CapabilityError, with what to do, where that is refused.
    """
    with OwnCgroup(find_layout(), with_memory=False) as own:
        assert own.events is not None, "asked for"
        events, _ = Faults()._events(own.events, None)
        events.close()
        return events
