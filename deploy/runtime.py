"""Which agents run: a folder with two files an agent. The lock tells the living from the dead.

    /run/kdtool (root) or $XDG_RUNTIME_DIR/kdtool    PID.lock, held with flock(2) while it lives
                                                     PID.json, what it does, renamed into place

The kernel gives the lock back however the agent ends, so that what a killed one left is known by it, whatever
process has its number now. Such files are removed by whoever looks.
"""

import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel.cgroup import plain_name

__all__ = ["Registration", "running", "runtime_folder", "stop"]

STOP_S = 15.0


def runtime_folder() -> Path:
    """Return the folder, made if it is not there; CapabilityError when it cannot be used."""
    base = Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR") or "")
    if not base.is_absolute():
        raise CapabilityError("XDG_RUNTIME_DIR is not set: run as root, or set it to a folder of yours")
    folder = base / "kdtool"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CapabilityError(f"{folder}: {error.strerror}: make it, writable for this user") from None
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise CapabilityError(f"{folder}: belongs to another user: remove it")
    return folder


class Registration:
    """This agent's files, for the block. ParameterError when an agent runs for the same cgroup already."""

    def __init__(self, cgroup: str, about: dict[str, Any]) -> None:
        self._cgroup, self._about = plain_name(cgroup), about
        self._folder = runtime_folder()
        self._lock_file = self._folder / f"{os.getpid()}.lock"
        self._file = self._lock_file.with_suffix(".json")
        self._lock = -1

    def __enter__(self) -> Self:
        self._lock = _hold(self._lock_file)
        self.say({})
        # Looked at only now: of two that begin at once, one at least sees the other.
        for other in running(self._cgroup):
            if other["pid"] != os.getpid():
                self._leave()
                raise ParameterError(
                    f"cgroup '{self._cgroup}': agent {other['pid']} works for it already: "
                    f"kdtool deploy --stop {other['pid']}"
                )
        return self

    def say(self, figures: dict[str, Any]) -> None:
        """Write what it does now."""
        partial = self._file.with_suffix(".partial")
        document = {"pid": os.getpid(), "cgroup": self._cgroup, **self._about, **figures}
        partial.write_text(json.dumps(document))
        partial.replace(self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        _remove(self._lock_file)
        os.close(self._lock)


def running(cgroup: str | None = None) -> list[dict[str, Any]]:
    """Return what each living agent, or that of a cgroup, says of itself; files of dead ones are removed."""
    found = []
    for lock_file in sorted(runtime_folder().glob("*.lock")):
        if not _is_held(lock_file):
            continue
        try:
            found.append(json.loads(lock_file.with_suffix(".json").read_text()))
        except FileNotFoundError:
            continue  # it is just starting, or ending
    return [each for each in found if cgroup is None or each["cgroup"] == plain_name(cgroup)]


def stop(pid: int | None = None, cgroup: str | None = None) -> list[int]:
    """Tell an agent, that of a cgroup, or all when None, to end, wait until they have; return their pids.

    Raises ParameterError when there is no such agent, CapabilityError when one does not end.
    """
    pids = [each["pid"] for each in running(cgroup) if pid in (None, each["pid"])]
    if not pids and (pid is not None or cgroup is not None):
        asked = f"pid {pid}" if cgroup is None else f"cgroup '{cgroup}'"
        raise ParameterError(f"{asked}: no agent of this user: see kdtool deploy --status")
    for each in pids:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(each, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while left := [each["pid"] for each in running() if each["pid"] in pids]:
        if time.monotonic() > deadline:
            raise CapabilityError(f"agent {left[0]} does not end: kill -9 {left[0]} leaves nothing behind")
        time.sleep(0.05)
    return pids


def _hold(lock_file: Path) -> int:
    """Make a lock file and return it held: that which is there by its name, and none that a look removed."""
    while True:
        lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.lstat(lock_file)):
                return lock
        os.close(lock)


def _is_held(lock_file: Path) -> bool:
    """Tell whether an agent holds its lock, and remove the files of one that does not.

    The look shares the lock with others that look, and keeps it until the files are gone: who begins waits.
    """
    try:
        lock = os.open(lock_file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False  # it has just ended: nothing to remove
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.lstat(lock_file)):
            _remove(lock_file)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False  # another look has removed it
    finally:
        os.close(lock)
    return False


def _remove(lock_file: Path) -> None:
    for suffix in (".json", ".partial", ".lock"):
        lock_file.with_suffix(suffix).unlink(missing_ok=True)
