"""The processes that the agent works for: each by its pidfd, with its private anonymous mappings.

A process is taken in at its first fault (or at the start) if it lives in the cgroup, and let go when it ends;
exec makes another of it. What is not private, writable and anonymous is never prefetched: its pages come from
files, whose readahead is another matter.
"""

import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from kdtool.collect.mappings import read_maps
from kdtool.deploy.layout import (
    MAX_MAPPINGS,
    N_MAPPINGS,
    OTHERS,
    OURS,
    PAGEMAP,
    PID,
    PIDFD,
    READ_NS,
    SERIAL,
    STALE,
    Arrays,
)
from kdtool.errors import CapabilityError
from kdtool.kernel.advise import has_address_space, open_pagemap, open_process
from kdtool.kernel.cgroup import find_layout
from kdtool.traces import VmaFlag

__all__ = ["FaultCounter", "Processes"]

SERIALS = 1 << 10
"""Serials come round after so many address spaces: a page that is followed so long has expired."""
SPECIAL = VmaFlag.FILE | VmaFlag.SHARED
MINOR_FIELD, MAJOR_FIELD = 7, 9
"""Of /proc/PID/stat, counted from the state, which follows the name's last parenthesis: see proc(5)."""
ANONYMOUS = ("RssAnon", "VmSwap")
"""Lines of /proc/PID/status: pages that are mapped, and in swap. Swapping does not change their sum."""


class FaultCounter:
    """Adds up the page faults, minor and major, of processes that come and go, but for those of new pages.

    A page that is touched for the first time adds one to what is mapped or in swap. What a process has
    between the last look and its end is not seen.

    majors : the major faults among them. swapped_pages : what they had in swap at the last look
    """

    def __init__(self) -> None:
        self.majors = self.swapped_pages = 0
        self._before: dict[int, tuple[int, int, int]] = {}
        self._total = 0

    def count(self, pids: Iterable[int]) -> int:
        """Return the faults of all that were ever among `pids`."""
        now: dict[int, tuple[int, int, int]] = {}
        self.swapped_pages = 0
        for pid in pids:
            try:
                mapped, swapped = _anonymous_pages(pid)
                now[pid] = *_faults(pid), mapped + swapped
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            self.swapped_pages += swapped
            before = self._before.get(pid, (0, 0, 0))
            minors, majors, pages = (new - old for new, old in zip(now[pid], before, strict=True))
            self.majors += max(majors, 0)
            self._total += max(minors + majors - max(pages, 0), 0)
        self._before = now
        return self._total


def _faults(pid: int) -> tuple[int, int]:
    """Return a process's faults so far, minor and major."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[MINOR_FIELD]), int(fields[MAJOR_FIELD])


def _anonymous_pages(pid: int) -> tuple[int, int]:
    """Return the pages that a process has in memory and in swap; none of one that has just ended."""
    kib = dict.fromkeys(ANONYMOUS, 0)
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in kib:
            kib[name] = int(value.split()[0])
    mapped, swapped = kib.values()
    return mapped // 4, swapped // 4


def _importance(mapped: list[int]) -> tuple[bool, int]:
    """Return what a range of mappings is sorted by, those first to which most is asked for."""
    start, end, kind = mapped
    return kind != OURS, start - end


class Processes:
    """Keeps the rows of `arrays.processes` for the processes of the cgroup directory `cgroup`.

    taken : processes that were taken in. reads : of mappings
    """

    def __init__(self, arrays: Arrays, cgroup: Path) -> None:
        hierarchy = find_layout().events
        assert hierarchy is not None, "the cgroup was found in it"
        self._arrays, self._hierarchy = arrays, hierarchy
        self._path = f"/{cgroup.relative_to(hierarchy.root)}/"
        self._serial = 0
        self.taken = self.reads = 0

    def take(self, pid: int) -> bool:
        """Take a process in; False when it is not of the cgroup, has ended, or there is no room."""
        rows = self._arrays.processes
        free = np.flatnonzero(rows[:, PID] == 0)
        if not len(free):
            return False
        try:
            pidfd = open_process(pid)
        except ProcessLookupError:
            return False
        # The number may have gone to another process meanwhile: what the pidfd means is looked at now.
        if not self._is_member(pid):
            os.close(pidfd)
            return False
        try:
            pagemap = open_pagemap(pid)
        except (ProcessLookupError, CapabilityError):
            os.close(pidfd)
            raise
        self._serial = self._serial % (SERIALS - 1) + 1
        row = int(free[0])
        rows[row] = 0
        rows[row, [SERIAL, PIDFD, PAGEMAP]] = self._serial, pidfd, pagemap
        rows[row, PID] = pid
        self.taken += 1
        self.read_mappings(pid)
        return True

    def let_go(self, pid: int) -> None:
        """Let a process go."""
        rows = self._arrays.processes
        for row in np.flatnonzero(rows[:, PID] == pid):
            os.close(int(rows[row, PIDFD]))
            os.close(int(rows[row, PAGEMAP]))
            rows[row] = 0

    def renew(self, pids: Collection[int]) -> None:
        """Have rows for those that live now: some may have come, gone or begun another program unseen.

        One whose address space is still there keeps its row, and with it what was asked for.
        """
        rows = self._arrays.processes
        for row in np.flatnonzero(rows[:, PID]):
            if rows[row, PID] in pids and has_address_space(int(rows[row, PAGEMAP])):
                rows[row, STALE] = 1
            else:
                self.let_go(int(rows[row, PID]))
        for pid in set(pids).difference(rows[:, PID]):
            with suppress(ProcessLookupError):  # it has just ended
                self.take(pid)

    def read_stale(self) -> None:
        """Read the mappings of those again whose loop asked for it."""
        rows = self._arrays.processes
        for row in np.flatnonzero(rows[:, STALE] == 2):
            self.read_mappings(int(rows[row, PID]))

    def read_mappings(self, pid: int) -> None:
        """Read a process's mappings; neighbours are joined, the smallest left out if there are too many.

        OTHERS are kept as well, as far as there is room: a fault there is no sign that anything has changed.
        """
        rows, mappings = self._arrays.processes, self._arrays.mappings
        (row,) = np.flatnonzero(rows[:, PID] == pid)
        self.reads += 1
        rows[row, STALE] = 0
        ranges: list[list[int]] = []
        for mapped in read_maps(pid, 0):
            kind = OTHERS if mapped.flags & SPECIAL or not mapped.flags & VmaFlag.WRITE else OURS
            if ranges and ranges[-1][1:] == [mapped.start_vpn, kind]:
                ranges[-1][1] = mapped.end_vpn
            else:
                ranges.append([mapped.start_vpn, mapped.end_vpn, kind])
        if len(ranges) > MAX_MAPPINGS:
            ranges = sorted(sorted(ranges, key=_importance)[:MAX_MAPPINGS])
        mappings[row, : len(ranges)] = np.array(ranges, np.int64).reshape(-1, 3)
        rows[row, N_MAPPINGS] = len(ranges)
        rows[row, READ_NS] = time.monotonic_ns()

    def close(self) -> None:
        """Let all go."""
        for pid in self._arrays.processes[:, PID]:
            if pid:
                self.let_go(int(pid))

    def _is_member(self, pid: int) -> bool:
        """Tell whether a process lives in the cgroup or below it."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
        except OSError:
            return False
        return self._lists_us(lines)

    def _lists_us(self, lines: list[str]) -> bool:
        """Look at the line of the hierarchy that perf selects by: `0::PATH` for v2, `N:perf_event:PATH`."""
        for line in lines:
            _, controllers, path = line.split(":", 2)
            wanted = (
                "perf_event" in controllers.split(",") if self._hierarchy.version == 1 else not controllers
            )
            if wanted:
                return f"{path}/".startswith(self._path)
        return False
