"""Looks at the swap device while the matrix is measured: how long reads take there drifts.

A virtual disk read a page in 46 us and, minutes later, in 81. What replay says of runs is for the disk that
they had: looks lie before them, and behind a cell's last in bench/fidelity. A look is a few rounds of
`kdtool calibrate`, of those numbers that lie in reads, and then some of its fills of memory at a limit: to
write a page out took a program 2.5 us of its CPU and, in other spells, 15. No run is on meanwhile.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import mean, median
from typing import Self

from kdtool.calibrate.limited import measure_fills
from kdtool.calibrate.numbers import IN_SPELLS
from kdtool.calibrate.plan import Layout
from kdtool.calibrate.reads import ReadBench, less, read_samples
from kdtool.calibrate.rounds import measure_fresh
from kdtool.errors import CapabilityError
from kdtool.kernel.host import page_cluster
from kdtool.kernel.swap import swap_devices, swap_disk

__all__ = ["DRIFTING", "Looker", "Numbers", "looker_at", "of_cell"]

DRIFTING = ("latency_ns", "service_ns", "transfer_ns", "major_ns", "minor_ns", "prefetch_ns", "range_ns",
            "writeout_ns")  # fmt: skip
"""Of DEVICE_FIELDS; whether reads are synchronous or end together does not change."""
ROUNDS, FILLS = 3, 3
SETTLE_S = 0.2
"""What was written keeps a disk busy."""
LAYOUT = Layout(scattered=8192, neighbours=1024)
"""36 MiB of swap, and of memory while it is looked: `calibrate` has three times as much."""

Numbers = dict[str, int]


class Looker:
    """Pages of its own on the swap device `path`, all in swap between looks, and the disk's tracepoints.

    Raises CapabilityError when something is missing.
    """

    def __init__(self, path: str) -> None:
        [device] = [each for each in swap_devices() if each.path == path]
        disk = swap_disk(device)
        if disk is None:
            raise CapabilityError(f"{path}: its disk is not in /sys/dev/block: use swap on a block device")
        fresh = [measure_fresh(seed) for seed in range(ROUNDS)]
        self._clean_ns = int(median(cold + reclaim for cold, reclaim in fresh))
        self._bench = ReadBench(disk, LAYOUT)
        self._bench.prepare()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bench.close()

    def look(self) -> Numbers:
        """Return the medians of ROUNDS rounds; a number that others came between is missing."""
        with page_cluster(0):
            samples = read_samples([self._bench.run() for _ in range(ROUNDS)])
        samples["writeout_ns"] = [less(ns, self._clean_ns) for ns in measure_fills(FILLS)]
        time.sleep(SETTLE_S)
        return _middles(samples)


def looker_at(device: str, rotational: bool) -> AbstractContextManager[Looker | None]:
    """Return who looks at a device between runs, if any does.

    Readahead by cluster reads what lies beside a page on the device: pages of ours there would matter.
    """
    return nullcontext() if rotational else Looker(device)


def of_cell(looks: Sequence[Numbers]) -> Numbers:
    """Return the middles of a cell's looks.

    >>> looks = [{"latency_ns": 6, "writeout_ns": 2}, {"latency_ns": 7, "writeout_ns": 4}, {"latency_ns": 9}]
    >>> of_cell(looks)
    {'latency_ns': 7, 'writeout_ns': 3}
    """
    return _middles({field: [look.get(field) for look in looks] for field in DRIFTING})


def _middles(samples: Mapping[str, Sequence[int | None]]) -> Numbers:
    """Return the median of each number, of what comes in spells the mean; without those that nobody found."""
    used = {field: [each for each in samples[field] if each is not None] for field in DRIFTING}
    middle = {field: mean if field in IN_SPELLS else median for field in DRIFTING}
    return {field: max(int(middle[field](found)), 0) for field, found in used.items() if found}
