"""What processes and threads are called: by `tasks` where it says so, else by the program that is mapped."""

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from kdtool.traces.info.counts import Sums
from kdtool.traces.io import Trace
from kdtool.traces.schema import VmaFlag

__all__ = ["Who"]

TOP = 3


class Who:
    """The last name of every thread and process.

    threads : all threads that `tasks` names
    """

    def __init__(self, trace: Trace, names: dict[int, str]) -> None:
        self.threads: dict[int, int] = {}
        self._names, self._programs = names, _programs(trace)
        if trace.rows("tasks"):
            for rows in trace.batches("tasks", ["tid", "name_id"]):
                self.threads.update(zip(rows["tid"].tolist(), rows["name_id"].tolist(), strict=True))

    def text(self, name_id: int) -> str:
        """Return the name that an id stands for, and the id where the trace does not hold the name."""
        return self._names.get(name_id, f"name {name_id}")

    def name(self, tid: int) -> str | None:
        """Return what a thread, or the process of that number, is called; None where nothing says it."""
        if tid in self.threads:
            return self.text(self.threads[tid])
        return PurePosixPath(self.text(self._programs[tid])).name if tid in self._programs else None

    def top(self, key: str, sums: Sums, unit: str) -> list[dict[str, Any]]:
        """Return the TOP names by their sums over pids or tids, as `key` says, with shares of the total.

        Each has `name`, of how many pids or tids it is the `count`, the one with most of it, and `unit`.
        What has no name stands for itself.
        """
        groups: dict[str | int, dict[str, Any]] = {}
        for number, n in sums.top(len(sums)):
            name = self.name(number)
            first = {"name": name, "count": 0, key: number, unit: 0}
            group = groups.setdefault(number if name is None else name, first)
            group["count"] += 1
            group[unit] += n
        ranked = sorted(groups.values(), key=lambda group: (-group[unit], group[key]))[:TOP]
        total = sums.total
        return [group | {"share": group[unit] / total if total else 0.0} for group in ranked]


def _programs(trace: Trace) -> dict[int, int]:
    """Return the name_id of each process's program: the first file mapped since its last exec."""
    programs: dict[int, int] = {}
    ended = set[int]()
    if not trace.rows("vmas"):
        return programs
    for rows in trace.batches("vmas", ["pid", "start_vpn", "flags", "name_id"]):
        gone = (rows["flags"] & VmaFlag.UNMAPPED > 0) & (rows["start_vpn"] == 0)
        told = np.flatnonzero(rows["flags"] & VmaFlag.FILE | gone)
        columns = (rows["pid"], gone, rows["name_id"])
        for pid, is_gone, name_id in zip(*(column[told].tolist() for column in columns), strict=True):
            if is_gone:
                ended.add(pid)
            elif pid in ended or pid not in programs:
                programs[pid] = name_id
                ended.discard(pid)
    return programs
