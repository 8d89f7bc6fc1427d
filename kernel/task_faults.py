"""Page faults of processes and all that they start, where no cgroup selects them.

    every thread of the processes x every CPU: page-faults-min, -maj, dummy, inherited by what it starts
                                               all events of a CPU --> one perf ring

For a living process (`--pid`), and for users without the right to select by cgroup, who may see what their
own programs do in user mode. The events are opened when the processes are known, and enabled together.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from kdtool.errors import CapabilityError
from kdtool.kernel.fault_events import PerfFaults, ring_share
from kdtool.kernel.perf import PAGE_FAULTS_MIN, Event, OfTask, online_cpus

__all__ = ["TaskFaults"]

TRIES = 50
"""How often threads may have come or gone between listing them and opening their events."""


class TaskFaults(PerfFaults):
    """Faults of tasks and their descendants. Arguments and errors as of PerfFaults.

    user_only : faults of user mode only, which needs no rights; those of system calls are not seen then
    """

    path = "perf of tasks"

    def __init__(self, user_only: bool, ring_bytes: int | None = None) -> None:
        self._events, self._rings = [], []
        self.user_only, self._asked_bytes = user_only, ring_bytes
        self._cpus = online_cpus()
        Event(PAGE_FAULTS_MIN, OfTask(os.getpid(), user_only), self._cpus[0]).close()

    def enable(self, pids: Sequence[int]) -> None:
        """Open the events of every thread of `pids`, then begin to count and to sample.

        Raises CapabilityError when threads come and go faster than their events can be opened.
        """
        for _ in range(TRIES):
            tids = _threads(_with_children(pids))
            try:
                for cpu in self._cpus:
                    whose = [OfTask(tid, self.user_only) for tid in tids]
                    self._open_cpu(whose, cpu, ring_share(len(self._cpus), self._asked_bytes))
            except ProcessLookupError:
                self.close()
                continue
            if (
                _threads(_with_children(pids)) == tids
            ):  # else a new one may have been started before its parent's event
                super().enable(pids)
                return
            self.close()
        raise CapabilityError(
            f"process {pids[0]}: its threads come and go too fast to be followed: give --cgroup instead"
        )


def _with_children(pids: Sequence[int]) -> list[int]:
    """Return processes and all that descend from them now (proc(5): children)."""
    found = list(pids)
    for pid in found:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                children = [int(word) for word in file.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            found += [child for child in children if child not in found]
    return found


def _threads(pids: Sequence[int]) -> list[int]:
    """Return the threads of processes; one that has ended has none."""
    tids: list[int] = []
    for pid in pids:
        folder = Path(f"/proc/{pid}/task")
        tids += [int(name) for name in os.listdir(folder)] if folder.is_dir() else []
    return sorted(tids)
