"""Tracefs: where it is mounted, and an instance of our own: ring buffers and events that nobody else sees.

    instances/kdtool-<pid>-<n>/   trace_clock, buffer_size_kb, set_event_pid, options/*, tracing_on
                    events/SYSTEM/EVENT/{enable, filter}      per_cpu/cpu<n>/{trace_pipe_raw, stats}

An instance costs nothing until an event is enabled in it, and goes with its `with` block. What it wrote is
kept in sub-buffers, which `trace_ring.py` reads and decodes. Kernel counterpart: kernel/trace/trace.c and
trace_events.c. Not done here: probes of any kind, tracers, text.
"""

import errno
import itertools
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from kdtool.errors import CapabilityError
from kdtool.kernel.event_format import EventFormat, parse_format

__all__ = ["CpuStats", "Instance", "find_tracefs", "reap_stale"]

PREFIX = "kdtool-"
MOUNTINFO = Path("/proc/self/mountinfo")
PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
"""Where it is mounted as a rule; elsewhere only when neither is."""
MOUNT = "mount -t tracefs nodev /sys/kernel/tracing"
BUFFER_BYTES = 32 << 20
"""A CPU's buffer: 0.6 M switches of 56 bytes, over 3 s of the highest rate measured (0.2 M/s)."""
BUFFERS_BYTES = 512 << 20
"""What all buffers may take together, on machines with many CPUs."""
MIN_BUFFER_BYTES = 64 << 10
NOBODY = 1 << 22
"""No thread has this id (PID_MAX_LIMIT). It is followed too: an empty selection would mean all threads."""
_numbers = itertools.count()


@dataclass(frozen=True)
class CpuStats:
    """What the kernel says of one CPU's buffer, in events.

    entries : written and not yet read
    read : handed to us
    overrun : overwritten by newer ones before they were read
    commit_overrun : found the buffer full of unfinished ones
    dropped : found it full, where old ones are kept (options/overwrite off)
    """

    entries: int = 0
    read: int = 0
    overrun: int = 0
    commit_overrun: int = 0
    dropped: int = 0

    @property
    def lost(self) -> int:
        """Return how many occurred and cannot be read any more."""
        return self.overrun + self.commit_overrun + self.dropped

    @property
    def counted(self) -> int:
        """Return how many occurred."""
        return self.entries + self.read + self.lost

    def __add__(self, other: "CpuStats") -> "CpuStats":
        return CpuStats(
            self.entries + other.entries,
            self.read + other.read,
            self.overrun + other.overrun,
            self.commit_overrun + other.commit_overrun,
            self.dropped + other.dropped,
        )


def find_tracefs(mountinfo: Path = MOUNTINFO) -> Path:
    """Return where tracefs is mounted and may be used; CapabilityError, with what to do, where it is not."""
    mounted = []
    for line in mountinfo.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "tracefs":
            mounted.append(Path(before.split()[4].encode().decode("unicode_escape")))
    if not mounted:
        raise CapabilityError(f"tracefs is not mounted: {MOUNT}")
    root = next((place for place in PLACES if place in mounted), mounted[-1])
    try:
        os.listdir(root / "events")
    except OSError as error:
        raise _refusal(root, error) from None
    return root


def reap_stale(root: Path) -> list[Path]:
    """Remove instances of ours whose kdtool died without doing so (SIGKILL); return their paths."""
    reaped = []
    for path in sorted((root / "instances").glob(f"{PREFIX}[0-9]*-[0-9]*")):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with suppress(OSError):  # another kdtool reaped it, or somebody reads it: the next run's turn
                path.rmdir()
                reaped.append(path)
    return reaped


class Instance:
    """An instance of ours, with tracing off, CLOCK_MONOTONIC times and no event enabled.

    buffer_bytes : of each CPU's buffer; None: a share of BUFFERS_BYTES
    options : names under `options/` and whether they are to be on, such as {"event-fork": True}
    root : where tracefs is mounted; None: found

    Made when constructed; `close`, or the end of a `with` block, removes it. Raises CapabilityError, with
    what to do, when something is missing or refused.
    """

    def __init__(
        self,
        *,
        buffer_bytes: int | None = None,
        options: Mapping[str, bool] | None = None,
        root: Path | None = None,
    ) -> None:
        self.root = find_tracefs() if root is None else root
        self.path = self.root / "instances" / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.formats: dict[int, EventFormat] = {}
        try:
            self.path.mkdir()
        except OSError as error:
            raise _refusal(self.path, error) from None
        try:
            self.cpus = sorted(int(folder.name[3:]) for folder in (self.path / "per_cpu").iterdir())
            self.buffer_bytes = self._set_up(buffer_bytes, options or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def enable(self, event: str, *, filter_by: str = "") -> EventFormat:
        """Enable a tracepoint (`sched:sched_switch`), of those records only that `filter_by` lets through.

        Returns its format. Raises CapabilityError when this kernel does not have it, or its fields.
        """
        folder = self.path / "events" / event.replace(":", "/")
        if not folder.is_dir():
            raise CapabilityError(
                f"tracepoint {event}: this kernel does not have it: use a kernel that lists it in "
                f"{self.root}/available_events"
            )
        fmt = parse_format((folder / "format").read_text())
        if filter_by:
            self._write(f"{folder.relative_to(self.path)}/filter", filter_by)
        self._write(f"{folder.relative_to(self.path)}/enable", "1")
        self.formats[fmt.id] = fmt
        return fmt

    def start(self) -> None:
        """Begin to record."""
        self._write("tracing_on", "1")

    def stop(self) -> None:
        """Stop recording; what was recorded stays."""
        self._write("tracing_on", "0")

    def follow(self, tids: set[int]) -> None:
        """Record events of these threads too; the first call, even with none, ends recording all threads.

        With the option `event-fork` what they start is followed, and what ends is forgotten. Threads that
        have ended are allowed.
        """
        text = " ".join(str(tid) for tid in sorted({NOBODY, *tids}))
        self._write("set_event_pid", text, append=True)

    def followed(self) -> set[int]:
        """Return the threads whose events are recorded now."""
        return {int(word) for word in (self.path / "set_event_pid").read_text().split() if word.isdigit()}

    def stats(self) -> list[CpuStats]:
        """Return the counts of each CPU of `cpus`."""
        return [_read_stats(self.path / f"per_cpu/cpu{cpu}/stats") for cpu in self.cpus]

    def close(self) -> None:
        """Remove it; its readers must have been closed before."""
        with suppress(FileNotFoundError):
            try:
                self.path.rmdir()
            except OSError as error:
                raise CapabilityError(
                    f"{self.path}: the instance cannot be removed: {error.strerror}: rmdir it when nobody "
                    f"reads it"
                ) from None

    def _set_up(self, asked_bytes: int | None, options: Mapping[str, bool]) -> int:
        """Set clock, options and size; return the bytes of a CPU's buffer."""
        self._write("tracing_on", "0")
        self._write("trace_clock", "mono")
        for name, on in options.items():
            self._write(f"options/{name}", "1" if on else "0")
        share = max(BUFFERS_BYTES // len(self.cpus), MIN_BUFFER_BYTES)
        wanted = min(BUFFER_BYTES, share) if asked_bytes is None else max(asked_bytes, 4096)
        self._write("buffer_size_kb", str(wanted >> 10))
        return wanted >> 10 << 10

    def _write(self, name: str, text: str, *, append: bool = False) -> None:
        path = self.path / name
        try:
            # One write(2) for all: tracefs takes each as a whole, and O_TRUNC empties some of its files.
            fd = os.open(path, os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC))
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise _refusal(path, error, text) from None


def _read_stats(path: Path) -> CpuStats:
    fd = os.open(path, os.O_RDONLY)
    try:
        text = os.read(fd, 4096).decode()  # once: each read makes the text anew, and it may have grown
    finally:
        os.close(fd)
    values = dict(line.split(":", 1) for line in text.splitlines())
    return CpuStats(
        entries=int(values["entries"]),
        read=int(values["read events"]),
        overrun=int(values["overrun"]),
        commit_overrun=int(values["commit overrun"]),
        dropped=int(values["dropped events"]),
    )


def _refusal(path: Path, error: OSError, text: str = "") -> CapabilityError:
    """Return the error that says what was refused, and what to do."""
    if error.errno in (errno.EACCES, errno.EPERM):
        fix = "run as root, or mount -o remount,gid=GROUP tracefs for a group of yours"
        if os.geteuid() == 0:
            fix = "give the container CAP_SYS_ADMIN, or boot without lockdown=confidentiality"
        return CapabilityError(f"{path}: refused to this user: {fix}")
    if error.errno == errno.ENOENT:
        return CapabilityError(
            f"{path}: this kernel does not have it: use a kernel with CONFIG_FTRACE and CONFIG_EVENT_TRACING"
        )
    if error.errno == errno.ENOMEM:
        return CapabilityError(f"{path}: no memory for {text} KiB a CPU: give a smaller --buffer")
    asked = f" '{text[:60]}'" if text else ""
    return CapabilityError(f"{path}: the kernel refused{asked}: {error.strerror}: see {path.parent}")
