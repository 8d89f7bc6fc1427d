"""Faults: every page fault of a command or of a living cgroup, with its address, by perf events.

Idea: the software events page-faults-maj and page-faults-min with period 1, on each CPU, for the tasks of one
cgroup; a dummy event beside them reports mappings, forks and execs.
State: one ring a CPU (56 bytes a fault).
Cost: 1.1 us a fault (3.1 to 4.2 us, median of 3 runs of 1 M minor faults each, 2-CPU EPYC VM, Linux 6.18).
Kernel counterpart: mm_account_fault() in mm/memory.c.
Differs from rusage: faults that the kernel takes on a task's behalf (get_user_pages: exec's arguments,
direct I/O) count in rusage and are no perf event. Not seen: touches of pages that are mapped already, so that
replay under another policy or memory needs `refs`.
"""

from kdtool.collect.base import Problem, Scope
from kdtool.collect.faultstream import FaultStream
from kdtool.errors import CapabilityError
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.kernel.fault_events import open_fault_events
from kdtool.traces import TraceWriter

__all__ = ["Faults", "probe_events"]


class Faults:
    """The collector `faults`: tables `faults` and `vmas`, clock `monotonic`."""

    name = "faults"
    tables = ("faults", "vmas")
    clock = "monotonic"

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here: a cgroup or a perf event that is refused."""
        try:
            probe_events()
        except CapabilityError as error:
            reason, _, fix = str(error).rpartition(": ")
            return Problem(reason, fix)
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> FaultStream:
        """Open the events of the scope's cgroup; CapabilityError when they are refused."""
        if scope.cgroup is None:
            probe_events()
            raise CapabilityError("faults: recorded by cgroup only: give --cgroup NAME or -- COMMAND")
        return FaultStream(scope.cgroup, writer, scope.request.buffer_bytes)


def probe_events() -> int:
    """Open a page-fault event with its ring on an empty cgroup of ours and return the ring's bytes.

    Raises CapabilityError, with what to do, where that is refused.
    """
    with OwnCgroup(find_layout(), with_memory=False) as own:
        assert own.events is not None, "asked for"
        with open_fault_events(own.events) as events:
            return events.ring_bytes
