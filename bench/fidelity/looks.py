"""Looks at the swap device while the matrix is measured: how long reads take there drifts.

A virtual disk read a page in 46 us and, minutes later, in 81. What replay says of runs is for the disk that
they had: looks lie before them, and behind a cell's last in bench/fidelity. A look is a few rounds of
`kdtool calibrate`, of those numbers that lie in reads; nothing is written, and no run is on meanwhile.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Self

from kdtool.calibrate.plan import Layout
from kdtool.calibrate.reads import ReadBench, read_samples
from kdtool.errors import CapabilityError
from kdtool.kernel.host import page_cluster
from kdtool.kernel.swap import swap_devices, swap_disk

__all__ = ["DRIFTING", "Looker", "Numbers", "looker_at", "of_cell"]

DRIFTING = ("latency_ns", "service_ns", "transfer_ns", "major_ns", "minor_ns", "prefetch_ns", "range_ns")
"""Of DEVICE_FIELDS; whether reads are synchronous or end together does not change."""
ROUNDS = 3
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
        return {field: found for field in DRIFTING if (found := _median(samples[field])) is not None}


def looker_at(device: str, rotational: bool) -> AbstractContextManager[Looker | None]:
    """Return who looks at a device between runs, if any does.

    Readahead by cluster reads what lies beside a page on the device: pages of ours there would matter.
    """
    return nullcontext() if rotational else Looker(device)


def of_cell(looks: Sequence[Numbers]) -> Numbers:
    """Return the medians of a cell's looks.

    >>> of_cell([{"latency_ns": 60, "major_ns": 20}, {"latency_ns": 70}, {"latency_ns": 90}])
    {'latency_ns': 70, 'major_ns': 20}
    """
    medians = {field: _median([look.get(field) for look in looks]) for field in DRIFTING}
    return {field: found for field, found in medians.items() if found is not None}


def _median(samples: Sequence[int | None]) -> int | None:
    used = [sample for sample in samples if sample is not None]
    return max(int(median(used)), 0) if used else None
