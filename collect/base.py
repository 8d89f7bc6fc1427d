"""What a collector is: one source of events, recorded beside others on one clock into one trace.

    Session --open--> Source (counts nothing yet) --start--> counting --finish--> rows, losses in the writer

`session.py` runs the workload; a source only watches. Sources with the clock `monotonic` (CLOCK_MONOTONIC, in
ns) can be recorded together; an emulator, whose program does not run at the machine's pace, only alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kdtool.errors import CapabilityError
from kdtool.traces import Reduction, TraceWriter

__all__ = ["Collector", "Emulator", "Problem", "Progress", "Recoverer", "Request", "Scope", "Source"]


@dataclass(frozen=True)
class Problem:
    """Why something does not work on this machine for this user, and how to mend it."""

    reason: str
    fix: str

    @classmethod
    def of(cls, error: CapabilityError) -> "Problem":
        """Return what an error says, `reason: fix`.

        >>> Problem.of(CapabilityError("no tracefs: mounted nowhere: mount it"))
        Problem(reason='no tracefs: mounted nowhere', fix='mount it')
        """
        reason, _, fix = str(error).rpartition(": ")
        return cls(reason, fix)


@dataclass(frozen=True)
class Request:
    """What to record.

    command : the workload and its arguments; empty when attaching to a living cgroup or process
    output : the trace's final name, `*.kdt`
    cgroup : name of a living cgroup to attach to, or None
    pid : a living process to attach to, with its children, or None
    memory_bytes : the memory limit under which the command runs, or None
    duration_s : stop after so many seconds, or None
    max_bytes : stop when the trace has grown to so many bytes, or None
    buffer_bytes : of each buffer between kernel and us (a CPU each), or None for the source's own choice
    devices : blockio: record only these devices (`vda`, `/dev/loop0`, `8:0`); all when empty
    k : pages; the reduction window of references, 0 = unreduced
    quiet_stdout : send the command's own standard output to standard error (`--json`)
    measure_overhead : at the end, measure what recording adds to an event (overhead.py): 0.4 s a source
    """

    command: tuple[str, ...]
    output: Path
    cgroup: str | None = None
    pid: int | None = None
    memory_bytes: int | None = None
    duration_s: float | None = None
    max_bytes: int | None = None
    buffer_bytes: int | None = None
    devices: tuple[str, ...] = ()
    k: int = 256
    quiet_stdout: bool = False
    measure_overhead: bool = False


@dataclass(frozen=True)
class Scope:
    """Whose events are recorded.

    cgroup : directory of the cgroup by which perf and BPF select tasks; None without the right to one, when
        only the command and what it starts can be watched
    request : what the user asked for
    """

    cgroup: Path | None
    request: Request


@dataclass(frozen=True)
class Progress:
    """Rows and losses so far, for the live line; the balance is struck at the end."""

    rows: int
    lost: int


class Source(Protocol):
    """One source while it records. Made with all it needs opened, so that what is refused is said first."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what the command's environment must hold for this source; mostly nothing."""

    def start(self, pids: Sequence[int]) -> None:
        """Begin to count. `pids` live in the scope now; what they start is followed."""

    def check(self) -> None:
        """Raise what a thread of the source failed with; called every 50 ms in the main thread."""

    def progress(self) -> Progress:
        """Return what was recorded so far; called in the main thread."""

    def finish(self) -> None:
        """Stop counting, append what is left, and `lose` what found no room.

        Raises TraceError when rows and losses do not add up to what the kernel counted.
        """

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of the source, after finish: events, buffers, losses by kind."""

    def close(self) -> None:
        """Take everything down; called whatever happened, also after finish, also without start."""


@runtime_checkable
class Emulator(Source, Protocol):
    """A source that sees the command by running it inside a program of its own."""

    @property
    def reduction(self) -> Reduction:
        """Return how the references were reduced."""

    def emulate(
        self, command: Sequence[str], environment: dict[str, str]
    ) -> tuple[Sequence[str], dict[str, str]]:
        """Return what to start instead of the command, and its environment."""


class Collector(Protocol):
    """One kind of events (`--events NAME`)."""

    @property
    def name(self) -> str:
        """Return the name that `--events` takes."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the trace tables that it fills."""

    @property
    def clock(self) -> str:
        """Return what its times are: `monotonic`, or `insns` for an emulator."""

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here, or None. Tries the thing itself and undoes it."""

    def open(self, scope: Scope, writer: TraceWriter) -> Source:
        """Return a source that will append to `writer`; CapabilityError or ParameterError when refused."""


@runtime_checkable
class Recoverer(Collector, Protocol):
    """A collector whose sources keep events in files of their own, in the folder `writer.spool / name`."""

    def recover(self, kept: Path, writer: TraceWriter) -> None:
        """Append all rows of `tables` from what a killed recorder left in `kept`."""


@runtime_checkable
class Probed(Collector, Protocol):
    """A collector whose cost an event is measured at the end of every recording (overhead.py)."""

    @property
    def load(self) -> str:
        """Return the event that is made for it, a name that loads.py knows."""
