"""What processes and threads are called: by `tasks` where it says so, else by the program that is mapped."""

import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from kdtool.traces.info.counts import Sums
from kdtool.traces.io import Trace
from kdtool.traces.schema import NO_ROW, VmaFlag

__all__ = ["Who"]

TOP = 3
SHARED_OBJECT = re.compile(r"\.so(\.|$)")


class Who:
    """The last name of every thread and process.

    threads : all threads that `tasks` names
    """

    def __init__(self, trace: Trace, names: dict[int, str]) -> None:
        self.threads: dict[int, int] = {}
        self._names, self._programs = names, _programs(trace, names)
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


def _programs(trace: Trace, names: dict[int, str]) -> dict[int, int]:
    """Return the name_id of each process's program, of what was mapped at once after its last exec.

    A kernel maps the program first. An emulator tells all in order of address, the loader before the program
    and of a fork the libraries, too: then it is what an earlier process runs, or else no shared object.
    """
    programs: dict[int, int] = {}
    for pid, mapped in _images(trace).items():
        known = [name_id for name_id in mapped if name_id in programs.values()]
        own = [name_id for name_id in mapped if not SHARED_OBJECT.search(names.get(name_id, ""))]
        programs[pid] = (known or own or mapped)[0]
    return programs


def _images(trace: Trace) -> dict[int, list[int]]:
    """Return the name_ids of the files that each process mapped first since its last exec, at one moment."""
    images: dict[int, list[int]] = {}
    moments: dict[int, int] = {}
    ended = set[int]()
    if not trace.rows("vmas"):
        return images
    for rows in trace.batches("vmas", ["ts_ns", "row", "pid", "start_vpn", "flags", "name_id"]):
        gone = (rows["flags"] & VmaFlag.UNMAPPED > 0) & (rows["start_vpn"] == 0)
        told = np.flatnonzero(rows["flags"] & VmaFlag.FILE | gone)
        columns = (rows["ts_ns"], rows["row"], rows["pid"], gone, rows["name_id"])
        for ts_ns, row, pid, is_gone, name_id in zip(
            *(column[told].tolist() for column in columns), strict=True
        ):
            moment = ts_ns if row == NO_ROW else row
            if is_gone:
                ended.add(pid)
            elif pid in ended or pid not in images:
                images[pid], moments[pid] = [name_id], moment
                ended.discard(pid)
            elif moments[pid] == moment:
                images[pid].append(name_id)
    return images
