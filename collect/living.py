"""What lives already and is to be recorded: a cgroup by its name, or a process with its descendants."""

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from kdtool.collect.base import Request
from kdtool.errors import ParameterError
from kdtool.kernel.cgroup import find_cgroup, find_layout, pids_in
from kdtool.kernel.memcg import MemoryCgroup

__all__ = ["Living", "descendants", "find_living"]

PROC = Path("/proc")


class Living(Protocol):
    """A workload that we did not start."""

    name: str
    kind: str
    events: Path | None

    def lives(self) -> bool:
        """Return whether there is still something to record."""

    def pids(self) -> list[int]:
        """Return the processes that belong to it now."""

    def memory(self) -> dict[str, Any]:
        """Return the facts of its memory cgroup; empty when that is not limited alone."""


def find_living(request: Request) -> Living:
    """Return the cgroup or process asked for; ParameterError or CapabilityError when there is none."""
    if request.cgroup is not None:
        return _Cgroup(request.cgroup)
    assert request.pid is not None, "checked by the session"
    return _Process(request.pid)


class _Cgroup:
    kind = "cgroup"

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = find_cgroup(name, find_layout())
        self.events: Path | None = self.path

    def lives(self) -> bool:
        return self.path.is_dir()

    def pids(self) -> list[int]:
        return pids_in(self.path)

    def memory(self) -> dict[str, Any]:
        return _memory_of(self.pids())


class _Process:
    kind = "process"
    events: Path | None = None

    def __init__(self, pid: int) -> None:
        try:
            self._pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            raise ParameterError(
                f"pid {pid}: there is no such process: give one that pgrep or ps shows"
            ) from None
        self.pid, self.name = pid, f"pid {pid}"

    def __del__(self) -> None:
        if hasattr(self, "_pidfd"):
            os.close(self._pidfd)

    def lives(self) -> bool:
        """Return False once it has ended, even if its parent has not waited for it yet."""
        return not select.select([self._pidfd], [], [], 0)[0]

    def pids(self) -> list[int]:
        return descendants(self.pid)

    def memory(self) -> dict[str, Any]:
        return _memory_of([self.pid])


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it now, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _memory_of(pids: list[int]) -> dict[str, Any]:
    for pid in pids:
        with suppress(OSError):  # it has just ended, and its cgroup with it
            if (found := memory_cgroup([pid])) is not None:
                return {"memory": found[0], **found[1].facts()}
    return {}


def memory_cgroup(pids: Sequence[int], proc: Path = PROC) -> tuple[str, MemoryCgroup] | None:
    """Return name and files of the memory cgroup of the first that lives; None without one of its own."""
    layout = find_layout()
    if layout.memory is None:
        return None
    for line in next(filter(None, (_cgroup_lines(proc / str(pid)) for pid in pids)), []):
        _, controllers, path = line.split(":", 2)
        wanted = "memory" in controllers.split(",") if layout.memory.version == 1 else not controllers
        # With .. it is of another cgroup namespace, and not mounted here.
        if not wanted or path == "/" or ".." in path.split("/"):
            continue
        found = MemoryCgroup(layout.memory.root / path.strip("/"), layout.memory.version)
        return (path, found) if found.is_on else None
    return None


def _cgroup_lines(process: Path) -> list[str]:
    """Return the lines of a process's file `cgroup`, a line a hierarchy; none of one that has ended."""
    try:
        return (process / "cgroup").read_text(errors="surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
