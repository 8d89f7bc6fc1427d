"""What a collector is: one source of events that records a command or a cgroup into a sealed trace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kdtool.traces import Trace

__all__ = ["Collector", "Problem", "Request"]


@dataclass(frozen=True)
class Problem:
    """Why something does not work on this machine for this user, and how to mend it."""

    reason: str
    fix: str


@dataclass(frozen=True)
class Request:
    """What to record.

    command : the workload and its arguments; empty when attaching to a living cgroup
    output : the trace's final name, `*.kdt`
    cgroup : name of a living cgroup to attach to, or None
    memory_bytes : the memory limit under which the command runs, or None
    duration_s : stop after so many seconds, or None
    k : pages; the reduction window of references, 0 = unreduced
    quiet_stdout : send the command's own standard output to stderr (`--json`)
    """

    command: tuple[str, ...]
    output: Path
    cgroup: str | None = None
    memory_bytes: int | None = None
    duration_s: float | None = None
    k: int = 256
    quiet_stdout: bool = False


class Collector(Protocol):
    """One source of events."""

    @property
    def name(self) -> str:
        """Return the name that `--events` takes."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the trace tables that it fills."""

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here, or None."""

    def record(self, request: Request) -> Trace:
        """Record and seal the trace.

        Raises CapabilityError, CommandError, ParameterError or TraceError.
        """
