"""Starting a command so that it can be watched from its very first instruction.

    we --fork--> child: joins the cgroups, PTRACE_TRACEME --exec--> stopped --release()--> runs

The stop after exec is the kernel's own (ptrace(2)): no instruction of the command has run, its memory is
charged to its cgroup, and nothing of our Python is in it. Faults until then are its start, not its own.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from kdtool.errors import CapabilityError, CommandError
from kdtool.kernel.cgroup import OwnCgroup

__all__ = ["Ending", "Household", "Launched", "ProcessGroup"]

PTRACE_TRACEME, PTRACE_DETACH = 0, 17
ENDED = ("Z", "X")
"""States of proc(5): ended, and not reaped yet."""
KILL_S = 10.0
"""Seconds within which a killed process must be gone; freeing its swap takes long on a slow device."""
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
LIBC.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Ending:
    """How the command ended.

    exit_code : negative, the signal
    wall_ns : from its first instruction to its end, or that of what it had left behind
    major_faults, minor_faults : of it and its waited-for children by wait4(2), those of its start taken off
    """

    exit_code: int
    wall_ns: int
    major_faults: int
    minor_faults: int


class ProcessGroup:
    """What stands for a cgroup of ours where the user may not make one: the command's process group.

    A process that leaves the group (setsid) is not seen to live on.
    """

    name = ""
    memory: Path | None = None
    events: Path | None = None
    paths: tuple[Path, ...] = ()

    def __init__(self) -> None:
        self.leader = 0

    def processes(self) -> list[int]:
        """Return the pids that live in it."""
        try:
            os.killpg(self.leader, 0)
        except ProcessLookupError:
            return []
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return sorted(pid for pid in pids if _group_of(pid) == self.leader and not self._has_ended(pid))

    def _has_ended(self, pid: int) -> bool:
        """Return whether it is a zombie; where its parent has died and we are init to it, reap it."""
        try:
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state not in ENDED:
            return False
        if pid != self.leader:  # whose end Launched waits for
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return True

    def kill(self) -> None:
        """Kill what lives in it."""
        with suppress(ProcessLookupError):
            os.killpg(self.leader, signal.SIGKILL)


Household = OwnCgroup | ProcessGroup
"""Where a command and all that it starts live."""


class Launched:
    """A command, stopped before its first instruction, in `own`, leading its own process group.

    env : its environment, ours when None
    quiet_stdout : its standard output goes to our standard error

    Raises CommandError when it cannot be started, CapabilityError when it cannot join or be traced. The
    thread that starts it must be the one that releases it.
    """

    def __init__(
        self,
        command: Sequence[str],
        own: Household,
        *,
        env: Mapping[str, str] | None = None,
        quiet_stdout: bool = False,
    ) -> None:
        self._process = _start(command, own, env, sys.stderr.fileno() if quiet_stdout else None)
        self.pid = self._process.pid
        if isinstance(own, ProcessGroup):
            own.leader = self.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._start_faults = _faults_so_far(self.pid)
        self._start_ns = 0
        self.ending: Ending | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.ending is None:
            self.signal(signal.SIGKILL)
            self.wait(KILL_S)
        os.close(self._pidfd)

    def release(self) -> None:
        """Let it run."""
        self._start_ns = time.monotonic_ns()
        if LIBC.ptrace(PTRACE_DETACH, self.pid, None, None):
            raise CommandError(f"process {self.pid} cannot be released: {os.strerror(ctypes.get_errno())}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group, if it still has one."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def wait(self, timeout_s: float) -> bool:
        """Return whether it has ended, after at most `timeout_s` seconds."""
        if self.ending is not None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return False
        end_ns = time.monotonic_ns()
        _, status, usage = os.wait4(self.pid, 0)
        if os.WIFSTOPPED(status):
            return False  # killed before release: the next wait sees the end
        self._process.returncode = os.waitstatus_to_exitcode(status)
        major, minor = self._start_faults
        self.ending = Ending(
            exit_code=self._process.returncode,
            wall_ns=end_ns - self._start_ns,
            major_faults=usage.ru_majflt - major,
            minor_faults=usage.ru_minflt - minor,
        )
        return True

    def extend(self) -> None:
        """Count its run up to now: what it had left behind, such as a daemon, has ended."""
        if self.ending is not None:
            self.ending = replace(self.ending, wall_ns=time.monotonic_ns() - self._start_ns)


def _start(
    command: Sequence[str], own: Household, env: Mapping[str, str] | None, stdout: int | None
) -> "subprocess.Popen[bytes]":
    """Return the process at its stop after exec."""
    joins = [(path / "cgroup.procs", os.open(path / "cgroup.procs", os.O_WRONLY)) for path in own.paths]
    trouble, report = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            env=os.environ if env is None else env,  # not None: readline adds to the C environment
            stdout=stdout,
            process_group=0,
            preexec_fn=_joiner(joins, report),  # noqa: PLW1509 - takes no lock, see there
        )
    except OSError as error:
        raise CommandError(
            f"{command[0]}: cannot be started: {error.strerror}: give a program on PATH or a path to one"
        ) from None
    finally:
        for fd in (report, *(fd for _, fd in joins)):
            os.close(fd)
    try:
        _, status = os.waitpid(process.pid, 0)
        if not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
            said = os.read(trouble, 4096).decode() or f"it ended at once ({process.returncode})"
            raise CapabilityError(f"{command[0]}: cannot be set up: {said}")
    finally:
        os.close(trouble)
    return process


def _joiner(joins: list[tuple[Path, int]], report: int) -> Callable[[], None]:
    """Return what the child does before exec; it takes no lock, so a fork of a threaded process is safe.

    Where we were killed before it asked to be traced, init is its tracer and would leave it stopped for ever.
    """
    parent = os.getpid()

    def join() -> None:
        try:
            for path, fd in joins:
                doing = str(path)
                os.write(fd, b"0")
            doing = "ptrace, which starts it stopped (allow it in this container's seccomp profile)"
            if LIBC.ptrace(PTRACE_TRACEME, 0, None, None):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        except OSError as error:
            os.write(report, f"{doing}: {error.strerror}".encode())
            os._exit(127)
        if os.getppid() != parent:
            os._exit(127)

    return join


def _faults_so_far(pid: int) -> tuple[int, int]:
    """Return major and minor faults of the process itself (proc(5): fields 12 and 10 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[9]), int(fields[7])


def _group_of(pid: int) -> int:
    """Return a process's group, 0 when it has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
