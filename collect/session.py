"""A recording: one workload, one or more sources on one clock, one trace.

    sources opened --> command stopped before its first instruction --> sources started --> command runs
    trace sealed   <-- sources finished                             <-- all that it started has ended

State: what is open, in an ExitStack, so that nothing outlives the recording, whatever ends it.
Unit of work: a tick of 50 ms, in which failures, the size, Ctrl-C and the duration are looked at. Once a
second the trace's draft is renewed: what is known of the recording should this process be killed.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kdtool.collect.base import Collector, Emulator, Progress, Request, Scope, Source
from kdtool.collect.launch import Household, Launched, ProcessGroup
from kdtool.collect.limited import TICK_S, check_memory, own_cgroup, run_in
from kdtool.collect.living import Living, find_living
from kdtool.collect.overhead import overhead_of
from kdtool.collect.terminal import Stop, stop_on_signals
from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel.host import host_facts
from kdtool.traces import Manifest, Trace, TraceWriter

__all__ = ["Show", "record"]

DRAFT_S = 1.0
MIN_BUFFER, MAX_BUFFER = 4 << 10, 1 << 30
"""Of each CPU: a page, and what a machine can spare. The kernel's rings end at 4 GiB."""

Show = Callable[[Mapping[str, Progress], int], None]
"""Called every tick with the progress of each source and the bytes of the trace so far."""


def show_nothing(progress: Mapping[str, Progress], size_bytes: int) -> None:
    """Stand for a live line where there is nobody to read it."""


def record(request: Request, collectors: Sequence[Collector], show: Show = show_nothing) -> Trace:
    """Record the command, or the living cgroup or process, and seal its trace.

    The trace is sealed whatever the command returns: `workload["exit_code"]` holds it (negative: the
    signal). Ctrl-C ends the command and seals with state `interrupted`; what lives already has no end of
    its own, so Ctrl-C is the end of its recording unless a duration was asked for.

    Raises CapabilityError, CommandError, ParameterError or TraceError; then no trace is left.
    """
    _check_request(request, collectors)
    with stop_on_signals() as stop, TraceWriter(request.output) as writer:
        recording = Recording(request, collectors, writer, show)
        manifest = recording.of_command(stop) if request.command else recording.of_living(stop)
        return writer.seal(manifest)


class Recording:
    """The sources of one recording, driven together."""

    def __init__(
        self, request: Request, collectors: Sequence[Collector], writer: TraceWriter, show: Show
    ) -> None:
        self._request, self._collectors, self._writer, self._show = request, collectors, writer, show
        self._sources: dict[str, Source] = {}
        self._about: dict[str, Any] = {}
        self._cpu_ns = self._after_cpu_ns = 0
        self._added: dict[str, Any] = {}
        self._drafted_s = 0.0

    def of_command(self, stop: Stop) -> Manifest:
        """Record the command until it has ended, with all that it started."""
        request = self._request
        with _household(request.memory_bytes) as own, ExitStack() as stack:
            self._open(stack, own.events)
            command, environment = self._command()
            launched = stack.enter_context(
                Launched(command, own, env=environment, quiet_stdout=request.quiet_stdout)
            )
            self._describe(list(request.command), {"name": own.name, "events": str(own.events or "")})
            self._start([launched.pid])
            facts = run_in(own, launched, stop, duration_s=request.duration_s, tick=self._tick)
            self._finish()
            self._about["cgroup"] |= facts.memory
            return self._manifest(facts.ended_by, facts.to_workload())

    def of_living(self, stop: Stop) -> Manifest:
        """Record what lives already until a signal, the duration, the size or its end."""
        living = find_living(self._request)
        start_ns = time.monotonic_ns()
        with ExitStack() as stack:
            self._open(stack, living.events)
            self._describe([], {"name": living.name, "events": str(living.events or ""), **living.memory()})
            self._start(living.pids())
            ended_by = self._wait(living, stop)
            self._finish()
            if ended_by == "signal" and self._request.duration_s is None:
                ended_by = "user"
            wall_ns = time.monotonic_ns() - start_ns
            return self._manifest(ended_by, {"exit_code": None, "ended_by": ended_by, "wall_ns": wall_ns})

    def _open(self, stack: ExitStack, events: Path | None) -> None:
        scope = Scope(events, self._request)
        for collector in self._collectors:
            source = collector.open(scope, self._writer)
            stack.callback(source.close)
            self._sources[collector.name] = source

    def _command(self) -> tuple[Sequence[str], dict[str, str]]:
        """Return what to start and in which environment, as the sources want it."""
        command: Sequence[str] = self._request.command
        environment = dict(os.environ)
        for source in self._sources.values():
            environment |= source.environment
            if isinstance(source, Emulator):
                command, environment = source.emulate(command, environment)
        return command, environment

    def _describe(self, command: list[str], cgroup: dict[str, Any]) -> None:
        """Gather what is known before the start; the draft of the manifest is made of it."""
        names = ",".join(self._sources)
        self._about = {"command": command, "cgroup": cgroup, "host": host_facts(), "names": names}
        self._draft()

    def _start(self, pids: Sequence[int]) -> None:
        self._cpu_ns = -time.process_time_ns()
        for source in self._sources.values():
            source.start(pids)

    def _tick(self) -> str | None:
        """Look after the sources; return why the recording has to end, or None."""
        for source in self._sources.values():
            source.check()
        size = self._writer.bytes
        self._show({name: source.progress() for name, source in self._sources.items()}, size)
        if time.monotonic() - self._drafted_s > DRAFT_S:
            self._draft()
        limit = self._request.max_bytes
        return "size" if limit is not None and size >= limit else None

    def _wait(self, living: Living, stop: Stop) -> str:
        duration_s = self._request.duration_s
        deadline = None if duration_s is None else time.monotonic() + duration_s
        while living.lives():
            if (reason := self._tick()) is not None:
                return reason
            if stop:
                return "signal"
            if deadline is not None and time.monotonic() >= deadline:
                return "duration"
            time.sleep(TICK_S)
        return living.kind

    def _finish(self) -> None:
        end_ns = time.process_time_ns()
        self._cpu_ns += end_ns
        for source in self._sources.values():
            source.finish()
        self._after_cpu_ns = time.process_time_ns() - end_ns
        if self._request.measure_overhead:
            self._added = overhead_of(self._collectors)

    def _draft(self) -> None:
        self._drafted_s = time.monotonic()
        lost = {each.tables[0]: self._sources[each.name].progress().lost for each in self._collectors}
        workload = {"exit_code": None, "ended_by": "killed", "wall_ns": None}
        self._writer.draft(self._manifest("signal", workload, {}), lost)

    def _manifest(
        self, ended_by: str, workload: dict[str, Any], facts: dict[str, Any] | None = None
    ) -> Manifest:
        about = self._about
        if facts is None:
            facts = {name: source.facts() for name, source in self._sources.items()}
        emulators = [source for source in self._sources.values() if isinstance(source, Emulator)]
        overhead = {"cpu_ns": self._cpu_ns, "after_cpu_ns": self._after_cpu_ns, **self._added}
        return Manifest(
            state="interrupted" if ended_by == "signal" else "complete",
            clock=self._collectors[0].clock,
            command=about["command"],
            collector={"name": about["names"], "version": "2", "sources": facts, "overhead": overhead},
            cgroup=about["cgroup"],
            host=about["host"],
            workload=workload,
            reduction=emulators[0].reduction if emulators else None,
        )


@contextmanager
def _household(memory_bytes: int | None) -> Iterator[Household]:
    """Give the command a cgroup of ours, or, where the user may have none and needs no limit, a group."""
    with ExitStack() as stack:
        household: Household
        try:
            household = stack.enter_context(own_cgroup(memory_bytes, with_events=True))
        except CapabilityError:
            if memory_bytes is not None:
                raise
            household = ProcessGroup()
        yield household


def _check_request(request: Request, collectors: Sequence[Collector]) -> None:
    given = [request.cgroup is not None, request.pid is not None, bool(request.command)]
    if sum(given) != 1:
        raise ParameterError("collect: give one of --cgroup NAME, --pid PID and -- COMMAND")
    if not request.command and request.memory_bytes is not None:
        raise ParameterError(
            "collect: --memory limits a command; what lives already keeps its own: leave it out"
        )
    _check_numbers(request)
    if request.devices and "blockio" not in [each.name for each in collectors]:
        raise ParameterError(
            f"collect: --device {request.devices[0]} selects what blockio records: add --events blockio"
        )
    clocks = {each.clock: each.name for each in collectors}
    if len(clocks) > 1:
        raise ParameterError(
            f"events {' and '.join(sorted(clocks.values()))} have no clock in common: record them in turn"
        )
    if "insns" in clocks and (not request.command or request.memory_bytes is not None):
        raise ParameterError(
            "refs: records a command from its start, and references do not depend on memory: give -- COMMAND "
            "without --memory, --cgroup and --pid; give memory to replay"
        )
    check_memory(request.memory_bytes)


def _check_numbers(request: Request) -> None:
    duration_s, max_bytes, buffer_bytes = request.duration_s, request.max_bytes, request.buffer_bytes
    if duration_s is not None and not (duration_s > 0 and math.isfinite(duration_s)):
        raise ParameterError(
            f"duration {duration_s:g} s, allowed: more than 0: leave it out to record to the end"
        )
    if max_bytes is not None and max_bytes < 1:
        raise ParameterError(f"--max-size {max_bytes} bytes, allowed: 1 or more: leave it out for no bound")
    if buffer_bytes is not None and not MIN_BUFFER <= buffer_bytes <= MAX_BUFFER:
        raise ParameterError(f"--buffer {buffer_bytes} bytes, allowed: 4K to 1G: so much memory for each CPU")
