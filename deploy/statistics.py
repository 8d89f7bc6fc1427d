"""Keeps the kernel's statistics of the workload's memory cgroup up to date while it swaps.

Reclaim goes by them (mm/vmscan.c, prepare_scan_control and lruvec_lru_size, v6.18), and the kernel itself
brings them up to date only every 2 s (FLUSH_TIME, mm/memcontrol.c). Where many pages come back in that time
it scans lists by lengths that they no longer have, finds nothing to reclaim, and kills the program with swap
free. To read memory.stat flushes them; it changes nothing else.
"""

from pathlib import Path

from kdtool.collect.living import memory_cgroup
from kdtool.deploy.source import pids_in
from kdtool.kernel.memcg import MemoryCgroup

__all__ = ["FreshStatistics"]


class FreshStatistics:
    """Of the memory cgroup in which the processes of `cgroup`, a directory that perf selects by, live."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._memory: MemoryCgroup | None = None

    def tick(self) -> None:
        """Have them flushed, if there is such a cgroup by now; one that has ended is looked for again."""
        if self._memory is None:
            found = memory_cgroup(pids_in(self._cgroup))
            if found is None:
                return
            self._memory = found[1]
        try:
            self._memory.refresh()
        except OSError:
            self._memory = None
