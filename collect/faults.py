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

import time
from pathlib import Path
from typing import Any

from kdtool.collect.base import Problem, Request
from kdtool.collect.faultstream import FaultStream
from kdtool.collect.launch import Launched
from kdtool.collect.limited import check_memory, own_cgroup, run_in
from kdtool.collect.terminal import Stop, stop_on_signals
from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel.cgroup import OwnCgroup, find_cgroup, find_layout
from kdtool.kernel.fault_events import open_fault_events
from kdtool.kernel.host import host_facts
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.traces import Manifest, Trace, TraceWriter

__all__ = ["Faults", "probe_events"]

EVENTS = ("page-faults-maj", "page-faults-min")
TICK_S = 0.05


class Faults:
    """The collector `faults`: tables `faults` and `vmas`, clock `monotonic`."""

    name = "faults"
    tables = ("faults", "vmas")

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here: a cgroup or a perf event that is refused."""
        try:
            probe_events()
        except CapabilityError as error:
            reason, _, fix = str(error).rpartition(": ")
            return Problem(reason, fix)
        return None

    def record(self, request: Request) -> Trace:
        """Record the command, or the living cgroup, and seal its faults.

        The trace is sealed whatever the command returns: `workload["exit_code"]` holds it (negative: the
        signal). Ctrl-C ends the command and seals with state `interrupted`; a living cgroup has no end of
        its own, so Ctrl-C is the end of its recording unless a duration was asked for.
        """
        _check_request(request)
        with stop_on_signals() as stop, TraceWriter(request.output) as writer:
            recording = _record_command if request.command else _record_cgroup
            return writer.seal(recording(request, writer, stop))


def probe_events() -> int:
    """Open a page-fault event with its ring on an empty cgroup of ours and return the ring's bytes.

    Raises CapabilityError, with what to do, where that is refused.
    """
    with OwnCgroup(find_layout(), with_memory=False) as own:
        assert own.events is not None, "asked for"
        with open_fault_events(own.events) as events:
            return events.ring_bytes


def _check_request(request: Request) -> None:
    if request.command and request.cgroup is not None:
        raise ParameterError("faults: give either --cgroup NAME or -- COMMAND, not both")
    if not request.command and request.cgroup is None:
        raise ParameterError("faults: nothing to record: give --cgroup NAME or -- COMMAND")
    if request.cgroup is not None and request.memory_bytes is not None:
        raise ParameterError("faults: --memory limits a command; a living cgroup keeps its own: leave it out")
    if request.duration_s is not None and request.duration_s <= 0:
        raise ParameterError(f"duration {request.duration_s:g} s, allowed: more than 0")
    check_memory(request.memory_bytes)


def _record_command(request: Request, writer: TraceWriter, stop: Stop) -> Manifest:
    with own_cgroup(request.memory_bytes, with_events=True) as own:
        assert own.events is not None, "asked for"
        with (
            FaultStream(own.events, writer) as stream,
            Launched(request.command, own, quiet_stdout=request.quiet_stdout) as launched,
        ):
            stream.start([launched.pid])
            facts = run_in(own, launched, stop, duration_s=request.duration_s, tick=stream.check)
            stream.finish()
        return Manifest(
            state="interrupted" if facts.ended_by == "signal" else "complete",
            clock="monotonic",
            command=list(request.command),
            collector=_collector(stream),
            cgroup={"name": own.name, "events": str(own.events), **facts.memory},
            host=host_facts(),
            workload=facts.to_workload(),
        )


def _record_cgroup(request: Request, writer: TraceWriter, stop: Stop) -> Manifest:
    assert request.cgroup is not None, "checked"
    path = find_cgroup(request.cgroup, find_layout())
    start_ns = time.monotonic_ns()
    with FaultStream(path, writer) as stream:
        pids = _processes(path)
        memory = _memory_of(pids)
        stream.start(pids)
        ended_by = _wait(path, stream, stop, request.duration_s)
        stream.finish()
    cut = ended_by == "signal" and request.duration_s is not None
    return Manifest(
        state="interrupted" if cut else "complete",
        clock="monotonic",
        command=[],
        collector=_collector(stream),
        cgroup={"name": request.cgroup, "events": str(path), **memory},
        host=host_facts(),
        workload={"exit_code": None, "ended_by": ended_by, "wall_ns": time.monotonic_ns() - start_ns},
    )


def _wait(path: Path, stream: FaultStream, stop: Stop, duration_s: float | None) -> str:
    """Wait for a signal, the end of the duration or that of the cgroup; return which it was."""
    deadline = None if duration_s is None else time.monotonic() + duration_s
    while path.is_dir():
        stream.check()
        if stop:
            return "signal"
        if deadline is not None and time.monotonic() >= deadline:
            return "duration"
        time.sleep(TICK_S)
    return "cgroup"


def _processes(path: Path) -> list[int]:
    return sorted({int(pid) for file in path.rglob("cgroup.procs") for pid in file.read_text().split()})


def _memory_of(pids: list[int]) -> dict[str, Any]:
    """Return the memory facts of the first process's memory cgroup; empty when that is not limited alone."""
    layout = find_layout()
    if layout.memory is None or not pids:
        return {}
    for line in Path(f"/proc/{pids[0]}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        wanted = "memory" in controllers.split(",") if layout.memory.version == 1 else not controllers
        if wanted and path != "/":
            memory = MemoryCgroup(layout.memory.root / path.strip("/"), layout.memory.version)
            return {"memory": path, **memory.facts()}
    return {}


def _collector(stream: FaultStream) -> dict[str, Any]:
    return {
        "name": "faults",
        "version": "1",
        "events": list(EVENTS),
        "ring_bytes": stream.ring_bytes,
        "lost_in_ring": stream.lost_in_ring,
        "late": stream.late,
        "overhead": {"cpu_ns": stream.cpu_ns, "after_cpu_ns": stream.after_cpu_ns},
    }
