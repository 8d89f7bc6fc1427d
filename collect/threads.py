"""Which threads are recorded: those that live in the scope now, and for each time, those that lived then.

Found at the start and looked for again and again: the kernel follows forks by itself, but not what is moved
into a cgroup later. Thread ids are those of the initial pid namespace, as the kernel's tracing has them.
"""

import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.collect.base import Scope
from kdtool.collect.living import descendants
from kdtool.errors import CapabilityError

__all__ = ["PID_LIMIT", "Lifetimes", "check_pid_namespace", "identify", "living_threads", "own_threads"]

PID_LIMIT = 1 << 22
"""No thread id is higher (PID_MAX_LIMIT)."""
INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO, the same on every Linux machine."""

Ints = npt.NDArray[np.int64]


class Lifetimes:
    """When each thread id belonged to the scope; 16 bytes an id, in memory only where ids are used.

    An id belongs to it until another thread is made with it: a thread that has ended does nothing, and the id
    of a process outlives its first thread when another one execs. Only an id's last owner is known: the
    kernel hands out all others before one comes again, which takes longer than the second within which rows
    are written.
    """

    def __init__(self) -> None:
        self._born_ns = np.zeros(PID_LIMIT + 1, np.int64)
        self._gone_ns = np.zeros(PID_LIMIT + 1, np.int64)

    def born(self, tid: int, t_ns: int) -> None:
        """Take in a thread from `t_ns` on."""
        self._born_ns[tid], self._gone_ns[tid] = t_ns, 0

    def gone(self, tid: int, t_ns: int) -> None:
        """Let go of an id that somebody else's thread has from `t_ns` on."""
        if self._born_ns[tid] and not self._gone_ns[tid]:
            self._gone_ns[tid] = t_ns

    def owns(self, tids: npt.NDArray[np.int32] | int, t_ns: Ints | int) -> npt.NDArray[np.bool_]:
        """Return for each thread, or for one, whether it belonged to the scope at `t_ns`."""
        born_ns, gone_ns = self._born_ns[tids], self._gone_ns[tids]
        owns: npt.NDArray[np.bool_] = (born_ns > 0) & (born_ns <= t_ns) & ((gone_ns == 0) | (t_ns < gone_ns))
        return owns


def living_threads(scope: Scope, pids: list[int]) -> set[int]:
    """Return the threads in the scope now, ours excepted: of its cgroup and those below, or of processes."""
    if scope.cgroup is not None:
        return _in_cgroup(scope.cgroup) - own_threads()
    if scope.request.pid is not None:
        pids = descendants(scope.request.pid)
    return {tid for pid in pids for tid in _of_process(pid)} - own_threads()


def own_threads() -> set[int]:
    """Return the threads of this process."""
    return _of_process(os.getpid())


def identify(tid: int) -> tuple[int, str] | None:
    """Return the process and the name of a thread; None when it has ended."""
    try:
        name = Path(f"/proc/{tid}/comm").read_text(errors="replace").removesuffix("\n")
        process = re.search(
            r"^Tgid:\t(\d+)", Path(f"/proc/{tid}/status").read_text(errors="replace"), re.MULTILINE
        )
        return None if process is None else (int(process[1]), name)
    except (FileNotFoundError, ProcessLookupError):
        return None


def check_pid_namespace() -> None:
    """Raise CapabilityError where thread ids are not those that the kernel's tracing has."""
    if os.readlink("/proc/self/ns/pid") != INITIAL_PID_NAMESPACE:
        raise CapabilityError(
            "in a container the kernel's tracing knows processes by other ids than /proc does here: "
            "run kdtool on the host, or the container with --pid=host"
        )


def _in_cgroup(cgroup: Path) -> set[int]:
    tids: set[int] = set()
    for folder, _, _ in os.walk(cgroup):
        try:
            tids.update(int(word) for word in Path(folder, "cgroup.threads").read_text().split())
        except (FileNotFoundError, OSError):
            continue  # removed while we walked
    return tids


def _of_process(pid: int) -> set[int]:
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    except (FileNotFoundError, ProcessLookupError):
        return set()
