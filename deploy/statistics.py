"""Keeps the kernel's statistics of the workload's memory cgroup up to date while the program acts.

Reclaim goes by them (mm/vmscan.c, prepare_scan_control and lruvec_lru_size, v6.18), and the kernel itself
brings them up to date only every 2 s (FLUSH_TIME, mm/memcontrol.c). Where many pages come back in that time
it scans lists by lengths that they no longer have, finds nothing to reclaim, and kills the program with swap
free. To read memory.stat flushes them; it changes nothing else. Where the program does not act they are left
alone: some workloads swap more by fresh statistics (docs/deploy.md).
"""

from pathlib import Path

from kdtool.collect.living import memory_cgroup
from kdtool.kernel.cgroup import pids_in
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.rmt.agentrules import FRESH_NS

__all__ = ["FreshStatistics"]

EVERY_S = FRESH_NS / 1e9
LINGER_S = 2.0
"""After the program has acted: by then the kernel has brought them up to date itself."""


class FreshStatistics:
    """Of the memory cgroup in which the processes of `cgroup`, a directory that perf selects by, live."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._memory: MemoryCgroup | None = None
        self._until_s = self._next_s = 0.0

    def tick(self, now_s: float, acts: bool) -> None:
        """Have them flushed every 50 ms while the program acts, and for a while after that."""
        if acts:
            self._until_s = now_s + LINGER_S
        if self._next_s <= now_s < self._until_s:
            self._next_s = now_s + EVERY_S
            self._flush()

    def _flush(self) -> None:
        """Flush, if there is such a cgroup by now; one that has ended is looked for again."""
        if self._memory is None:
            found = memory_cgroup(pids_in(self._cgroup))
            if found is None:
                return
            self._memory = found[1]
        try:
            self._memory.refresh()
        except OSError:
            self._memory = None
