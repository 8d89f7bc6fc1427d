"""Cgroups: where they are mounted, one of our own for a run, and finding a living one by name.

    hybrid   /sys/fs/cgroup/memory (v1: limits)  +  /sys/fs/cgroup/unified (v2: perf selects by it)
    pure v2  /sys/fs/cgroup (both)

Which of these the machine has is read from /proc/self/mountinfo and cgroup.controllers, never guessed from a
version. Names of ours are `kdtool-<pid>-<n>`, right below the root of each hierarchy. A cgroup of ours holds
only processes that we started; they end with it. Limits and counters: memcg.py.
"""

import itertools
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Self

from kdtool.errors import CapabilityError, ParameterError

__all__ = [
    "PREFIX",
    "Hierarchy",
    "Layout",
    "OwnCgroup",
    "find_cgroup",
    "find_layout",
    "own_patterns",
    "pids_in",
    "plain_name",
    "reap_stale",
]

PREFIX = "kdtool-"
MOUNTINFO = Path("/proc/self/mountinfo")
EMPTY_S = 10.0
"""Seconds within which killed processes must be gone: freeing 24 GB of swapped memory took less than 3."""
NEAR_NAMES = 5
MAX_NAMES = 1000
"""Names that are tried: containers that share the hierarchy may each have a process of our number."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy; `version` is 1 or 2."""

    root: Path
    version: int


@dataclass(frozen=True)
class Layout:
    """`memory`: the hierarchy with limits. `events`: the one that perf selects tasks by. None: absent."""

    memory: Hierarchy | None
    events: Hierarchy | None


def find_layout(mountinfo: Path = MOUNTINFO) -> Layout:
    """Return what is mounted here."""
    v1: dict[str, Hierarchy] = {}
    unified = None
    for line in mountinfo.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root = Path(before.split()[4].encode().decode("unicode_escape"))
        if kind == "cgroup2":
            unified = Hierarchy(root, 2)
        elif kind == "cgroup":
            v1.update({controller: Hierarchy(root, 1) for controller in options.split(",")})
    # A mounted v1 perf_event hierarchy takes perf's selection away from v2.
    events = v1.get("perf_event", unified)
    memory = v1.get("memory")
    if memory is None and unified is not None and "memory" in _words(unified.root / "cgroup.controllers"):
        memory = unified
    return Layout(memory, events)


class OwnCgroup:
    """A cgroup of ours in each hierarchy that a run needs; everything in it ends when the block does.

    with_memory : also in the hierarchy with memory limits

    Raises CapabilityError when a hierarchy is missing or the user may not make a cgroup.
    """

    def __init__(self, layout: Layout, *, with_memory: bool, with_events: bool = True) -> None:
        self._memory_root = _memory_hierarchy(layout).root if with_memory else None
        self._events_root = _events_hierarchy(layout).root if with_events else None
        self._made: list[Path] = []
        self._take_number()

    def _take_number(self) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.memory = self._memory_root and self._memory_root / self.name
        self.events = self._events_root and self._events_root / self.name
        self.paths = tuple(dict.fromkeys(path for path in (self.memory, self.events) if path is not None))

    def __enter__(self) -> Self:
        for _ in range(MAX_NAMES):
            try:
                for path in self.paths:
                    path.mkdir()
                    self._made.append(path)
                return self
            except FileExistsError:  # not ours, whatever its name: of a kdtool that had our pid
                self._remove()
                self._take_number()
            except OSError as error:
                self._remove()
                raise CapabilityError(
                    f"{path}: the cgroup cannot be made: {error.strerror}: run as root, or have "
                    f"{path.parent} delegated to this user"
                ) from None
        raise CapabilityError(
            f"{self.paths[0]}: the cgroup cannot be made: {MAX_NAMES} names before it are taken: rmdir what "
            f"dead kdtools have left in {self.paths[0].parent}"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._remove()

    def processes(self) -> list[int]:
        """Return the pids that live in it, those in cgroups below it included."""
        return pids_in(*self._made)

    def kill(self) -> None:
        """Kill what lives in it and wait until it is gone; what we started and has to be reaped stays."""
        deadline = time.monotonic() + EMPTY_S
        while (pids := self.processes()) and time.monotonic() < deadline:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it ended between the reading and the killing
            time.sleep(0.005)

    def _remove(self) -> None:
        self.kill()
        while self._made:
            _remove_tree(self._made.pop())


def own_patterns() -> tuple[str, ...]:
    """Return patterns (glob) of the directories of all cgroups that this process makes, or has made."""
    layout = find_layout()
    roots = dict.fromkeys(h.root for h in (layout.memory, layout.events) if h is not None)
    return tuple(str(root / f"{PREFIX}{os.getpid()}-*") for root in roots)


def pids_in(*cgroups: Path) -> list[int]:
    """Return the processes that live in cgroups and those below them, which may come and go meanwhile."""
    pids: set[int] = set()
    for folder in (folder for cgroup in cgroups for folder, _, _ in os.walk(cgroup)):
        try:
            pids.update(int(word) for word in _words(Path(folder, "cgroup.procs")))
        except OSError:
            continue  # removed while we walked, or a threaded cgroup, whose parent lists the processes
    return sorted(pids)


def plain_name(name: str) -> str:
    """Return a cgroup's name in the one form by which two are compared.

    >>> plain_name("/system.slice//web.service/")
    'system.slice/web.service'
    """
    return "/".join(filter(None, name.split("/")))


def find_cgroup(name: str, layout: Layout) -> Path:
    """Return the directory of the living cgroup `name`, relative to the root that perf selects by.

    Raises ParameterError for an unknown name, CapabilityError for one that only another hierarchy has.
    """
    hierarchy = _events_hierarchy(layout)
    plain = plain_name(name)
    if not plain or any(part in (".", "..") for part in plain.split("/")):
        raise ParameterError(
            f"cgroup '{name}': the root would record the whole machine: give a name below {hierarchy.root}"
        )
    path = hierarchy.root / plain
    if path.is_dir():
        return path
    memory = layout.memory
    if memory is not None and memory.root != hierarchy.root and (memory.root / plain).is_dir():
        procs = memory.root / plain / "cgroup.procs"
        raise CapabilityError(
            f"cgroup '{name}' exists for memory only, and perf selects by {hierarchy.root}: "
            f"mkdir -p {path} && for p in $(cat {procs}); do echo $p > {path}/cgroup.procs; done"
        )
    raise _unknown(name, plain, [h for h in dict.fromkeys((hierarchy, memory)) if h is not None])


def reap_stale(layout: Layout) -> list[Path]:
    """Remove cgroups of ours whose kdtool died without doing so (SIGKILL); return their paths.

    What still runs in one is a program of the user's: it goes on under its limit, and the cgroup stays until
    a kdtool that comes after its end.
    """
    reaped = []
    for hierarchy in dict.fromkeys(h for h in (layout.memory, layout.events) if h is not None):
        for path in sorted(hierarchy.root.glob(f"{PREFIX}[0-9]*-[0-9]*")):
            pid = path.name.split("-")[1]
            if pid.isdigit() and not Path("/proc", pid).exists():
                with suppress(OSError):  # something lives in it, or another kdtool has reaped it
                    path.rmdir()
                    reaped.append(path)
    return reaped


def _memory_hierarchy(layout: Layout) -> Hierarchy:
    if layout.memory is None:
        raise CapabilityError(
            "no cgroup hierarchy with the memory controller is mounted: "
            "mkdir -p /sys/fs/cgroup/memory && mount -t cgroup -o memory memory /sys/fs/cgroup/memory"
        )
    root = layout.memory.root
    if layout.memory.version == 2 and "memory" not in _words(root / "cgroup.subtree_control"):
        raise CapabilityError(
            f"memory limits are off below {root}: echo +memory > {root}/cgroup.subtree_control"
        )
    return layout.memory


def _events_hierarchy(layout: Layout) -> Hierarchy:
    if layout.events is None:
        raise CapabilityError(
            "no v2 cgroup hierarchy is mounted, by which perf selects a command: "
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
        )
    return layout.events


def _remove_tree(path: Path) -> None:
    """Remove a cgroup and those below; the kernel may hold a dying task in it for some milliseconds."""
    deadline = time.monotonic() + EMPTY_S
    for folder, _, _ in list(os.walk(path, topdown=False)):
        while True:
            try:
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise CapabilityError(
                        f"{folder}: the cgroup cannot be removed: {error.strerror}: rmdir it when its "
                        f"processes have ended"
                    ) from None
                time.sleep(0.005)


def _unknown(name: str, plain: str, hierarchies: list[Hierarchy]) -> ParameterError:
    """Return the error that lists the nearest names of every hierarchy: a machine may have hundreds."""
    near = {hierarchy.root: _near_names(plain, hierarchy.root) for hierarchy in hierarchies}
    listed = "; ".join(f"below {root}: {', '.join(names) or 'none'}" for root, names in near.items())
    best = get_close_matches(plain, [each for names in near.values() for each in names], n=1)
    hint = f"did you mean '{best[0]}'? " if best else "give one of these: "
    return ParameterError(f"unknown cgroup '{name}': {hint}({listed})")


def _near_names(name: str, root: Path) -> list[str]:
    """Return the names closest to `name`, or else those right below the root."""
    names = [str(Path(folder).relative_to(root)) for folder, _, _ in os.walk(root)][1:]
    near = get_close_matches(name, names, n=NEAR_NAMES)
    return near or sorted(names, key=lambda each: (each.count("/"), each))[:NEAR_NAMES]


def _words(path: Path) -> list[str]:
    return path.read_text().split()
