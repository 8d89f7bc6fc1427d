"""Running a command under a memory limit, in a cgroup of our own, and what the kernel says of the run.

Recorders and the demo share it: the same command is run with and without events in the same way.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdtool.collect.launch import Household, Launched
from kdtool.collect.terminal import Stop, lend_terminal, stop_on_signals
from kdtool.errors import CapabilityError, CommandError, ParameterError
from kdtool.kernel.cgroup import OwnCgroup, find_layout, reap_stale
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.kernel.swap import swap_devices

__all__ = [
    "MIN_MEMORY_BYTES",
    "RunFacts",
    "check_memory",
    "describe_failure",
    "own_cgroup",
    "run_in",
    "run_limited",
]

MIN_MEMORY_BYTES = 4 << 20
"""The kernel charges ahead by 64 pages a CPU and exec alone needs 1 MB: less kills any program."""
GRACE_S = 5.0
"""Seconds that a command gets between SIGINT or SIGTERM and SIGKILL."""
TICK_S = 0.05
"""How late a signal, the duration or a reader's failure may be noticed; the command's own end never is."""
OF_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Ctrl-C, and the end of the terminal: they go to the command, which has it, at times to it alone."""
SWAP_COUNTERS = ("pswpin", "pswpout")
REFAULTS = ("workingset_refault_anon", "workingset_refault_file")
STAT_COUNTERS = (*SWAP_COUNTERS, *REFAULTS, "pgfault", "pgmajfault")
"""The lines of memory.stat that count events; the others are levels."""


Tick = Callable[[], str | None]
"""Called while a command runs; returns why it has to end, or None."""


@dataclass(frozen=True)
class RunFacts:
    """What the kernel said of a run.

    exit_code : negative, the signal that ended it
    ended_by : command (by itself), duration, size, or signal (Ctrl-C, SIGTERM or SIGHUP sent to us)
    wall_ns : from the command's first instruction to the end of all that it started
    major_faults, minor_faults : wait4(2), from the first instruction on, waited-for children included
    pswpin, pswpout : pages read from and written to swap, by `swap_scope`: `cgroup` where its memory.stat
        says so, else `host`, the whole machine's during the run
    oom_kills : processes that the kernel killed for the limit
    memory : limit, peak and counters of the memory cgroup at the end; empty without one
    memory_stat : by how much the event counters of its memory.stat grew
    """

    exit_code: int
    ended_by: str
    wall_ns: int
    major_faults: int
    minor_faults: int
    pswpin: int
    pswpout: int
    swap_scope: str
    oom_kills: int
    memory: dict[str, Any] = field(default_factory=dict)
    memory_stat: dict[str, int] = field(default_factory=dict)

    @property
    def oom_killed(self) -> bool:
        """Return whether the limit killed any of its processes."""
        return self.oom_kills > 0

    def to_workload(self) -> dict[str, Any]:
        """Return it as a manifest's `workload`."""
        document = asdict(self)
        del document["memory"]
        return document


def run_limited(
    command: tuple[str, ...],
    memory_bytes: int | None,
    env: Mapping[str, str] | None = None,
    *,
    quiet_stdout: bool = False,
    duration_s: float | None = None,
) -> RunFacts:
    """Run a command under a memory limit, without recording, and return what the kernel said of it.

    Raises
    ------
    ParameterError
        The limit is below MIN_MEMORY_BYTES.
    CapabilityError
        No swap, no memory cgroup, or no right to make one.
    CommandError
        The command cannot be started. That it fails is not an error: look at `exit_code`.
    """
    check_memory(memory_bytes)
    with (
        stop_on_signals() as stop,
        own_cgroup(memory_bytes, with_events=False) as own,
        Launched(command, own, env=env, quiet_stdout=quiet_stdout) as launched,
    ):
        return run_in(own, launched, stop, duration_s=duration_s)


def check_memory(memory_bytes: int | None) -> None:
    """Raise for a limit that is too low, and for one that would kill since there is no swap."""
    if memory_bytes is None:
        return
    if memory_bytes < MIN_MEMORY_BYTES:
        raise ParameterError(
            f"memory {memory_bytes} bytes, allowed: {MIN_MEMORY_BYTES >> 20}M or more: less kills any program"
        )
    if not swap_devices():
        raise CapabilityError("--memory: this machine has no swap to page to: scripts/swap up")


def _go_on() -> str | None:
    return None


@contextmanager
def own_cgroup(memory_bytes: int | None, *, with_events: bool) -> Iterator[OwnCgroup]:
    """Make a cgroup of ours with the limit; it and all that runs in it are gone after the block."""
    layout = find_layout()
    reap_stale(layout)
    # Without a limit the memory cgroup still counts; where there is none, only its figures are missing.
    with_memory = memory_bytes is not None or layout.memory is not None
    with OwnCgroup(layout, with_memory=with_memory, with_events=with_events) as own:
        if memory_bytes is not None:
            memory = memory_of(own)
            assert memory is not None, "a cgroup with a limit has memory files"
            memory.set_limit(memory_bytes)
        yield own


def memory_of(own: Household) -> MemoryCgroup | None:
    """Return the memory files of a cgroup of ours, None when it has none."""
    layout = find_layout()
    if own.memory is None or layout.memory is None:
        return None
    return MemoryCgroup(own.memory, layout.memory.version)


def run_in(
    own: Household,
    launched: Launched,
    stop: Stop,
    *,
    duration_s: float | None = None,
    tick: Tick = _go_on,
    tick_s: Callable[[], float] = lambda: TICK_S,
) -> RunFacts:
    """Release a launched command, wait until all that it started has ended, and return what it did.

    `tick` is called every `tick_s` seconds; what it raises, or a reason that it returns, ends the command.
    """
    memory = memory_of(own)
    swap, stat = _host_swap(), {} if memory is None else memory.stat()
    with lend_terminal(launched.pid) as terminal:

        def look() -> str | None:
            terminal.follow()
            return tick()

        launched.release()
        deadline = None if duration_s is None else time.monotonic() + duration_s
        ended_by = _wait(own, launched, stop, deadline, look, tick_s)
        if ended_by != "command":
            _end(own, launched, signal.SIGINT if ended_by == "signal" else signal.SIGTERM, tick)
    ending = launched.ending
    if ending is None:
        raise CommandError(f"process {launched.pid} does not end, even by SIGKILL: see its state in /proc")
    if stop or -ending.exit_code in OF_TERMINAL:
        ended_by = "signal"
    after = {} if memory is None else memory.stat()
    changes = {name: after[name] - stat.get(name, 0) for name in STAT_COUNTERS if name in after}
    scope = "cgroup" if "pswpin" in changes else "host"
    moved = changes if scope == "cgroup" else {n: v - swap[n] for n, v in _host_swap().items()}
    return RunFacts(
        **asdict(ending),
        ended_by=ended_by,
        pswpin=moved["pswpin"],
        pswpout=moved["pswpout"],
        swap_scope=scope,
        oom_kills=0 if memory is None else memory.oom_kills,
        memory={} if memory is None else memory.facts(),
        memory_stat=changes,
    )


def describe_failure(
    command: Sequence[str], workload: Mapping[str, Any], limit_bytes: int | None, advice: str
) -> str | None:
    """Return the one line that says how a command failed, and `advice`; None if it did not.

    >>> describe_failure(["make"], {"exit_code": 2, "ended_by": "command"}, None, "run it alone")
    'make: failed with exit code 2: run it alone'
    """
    code = workload["exit_code"]
    if workload.get("oom_kills") and limit_bytes is not None:
        return (
            f"{command[0]}: the kernel killed {workload['oom_kills']} process(es) for the memory limit of "
            f"{limit_bytes >> 20} MiB ({_how(code)}): give more --memory, or run it again: with pages "
            f"still on their way to swap the kernel may kill by chance"
        )
    if code in (0, None) or workload.get("ended_by") != "command":
        return None
    return f"{command[0]}: failed with {_how(code)}: {advice}"


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"signal {names.get(-code, -code)}"  # most real-time ones have no name


def _wait(
    own: Household,
    launched: Launched,
    stop: Stop,
    deadline: float | None,
    tick: Tick,
    tick_s: Callable[[], float],
) -> str:
    """Wait until the command and all that it left in the cgroup have ended; return what ended the wait."""
    while not _is_over(own, launched, tick_s()):
        if (reason := tick()) is not None:
            return reason
        if stop:
            return "signal"
        if deadline is not None and time.monotonic() >= deadline:
            return "duration"
    return "command"


def _is_over(own: Household, launched: Launched, wait_s: float) -> bool:
    """Return whether the command and all that it started have ended, after at most `wait_s` seconds."""
    if launched.ending is None:
        return launched.wait(wait_s) and not own.processes()
    time.sleep(wait_s)  # its end is behind us: nothing else says when the last of them ends
    if own.processes():
        return False
    launched.extend()
    return True


def _end(own: Household, launched: Launched, first: signal.Signals, tick: Tick) -> None:
    """Ask all that lives in the cgroup to end; what is left of it after the grace is killed."""
    launched.signal(first)
    _terminate_others(own, launched.pid)
    deadline = time.monotonic() + GRACE_S
    while not (over := _is_over(own, launched, TICK_S)) and time.monotonic() < deadline:
        tick()
    if not over:
        launched.signal(signal.SIGKILL)
        launched.wait(GRACE_S)
        own.kill()
        launched.extend()


def _terminate_others(own: Household, group: int) -> None:
    """Ask those to end that have left the command's process group, such as daemons: they ignore Ctrl-C."""
    for pid in own.processes():
        with suppress(ProcessLookupError):
            if os.getpgid(pid) != group:
                os.kill(pid, signal.SIGTERM)


def _host_swap() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in lines if name in SWAP_COUNTERS}
