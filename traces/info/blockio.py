"""The figures of `blockio`: requests and bytes by operation, latencies, sequential ones, errors, disks."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.info.base import About
from kdtool.traces.info.counts import Sums
from kdtool.traces.info.histogram import Histogram
from kdtool.traces.info.timeline import Timeline, first_known
from kdtool.traces.io import Columns
from kdtool.traces.schema import BlockOp

__all__ = ["SECTOR_BYTES", "BlockFigures", "device_name"]

SECTOR_BYTES = 512
"""Of `sector` and `nr_sectors`, whatever the disk's own (include/linux/blk_types.h)."""
OPERATION = 15
MINOR_BITS = 20
OPERATIONS = {
    "read": BlockOp.READ,
    "write": BlockOp.WRITE,
    "flush": BlockOp.FLUSH,
    "discard": BlockOp.DISCARD,
    "other": BlockOp.OTHER,
}


def device_name(dev: int) -> str:
    """Return major:minor of a `dev_t` as the kernel has it inside (include/linux/kdev_t.h).

    >>> device_name(254 << 20 | 1)
    '254:1'
    """
    return f"{dev >> MINOR_BITS}:{dev & (1 << MINOR_BITS) - 1}"


class BlockFigures:
    """Figures of block requests."""

    columns = (
        "dev",
        "sector",
        "nr_sectors",
        "op",
        "tid",
        "queue_ns",
        "issue_ns",
        "complete_ns",
        "error",
    )

    def __init__(self, about: About) -> None:
        self._who = about.who
        self._operations = {name: _Operation() for name in OPERATIONS}
        self._requests, self._bytes, self._tids = Sums(), Sums(), Sums()
        self._errors = self._in_flight = 0
        self._sequential = _Sequential()
        self._over_time = Timeline(about.span)

    def add(self, rows: Columns) -> None:
        """Take in the next requests."""
        n_bytes = rows["nr_sectors"].astype(np.int64) * SECTOR_BYTES
        operation = np.minimum(rows["op"] & OPERATION, BlockOp.OTHER)
        for name, number in OPERATIONS.items():
            at = np.flatnonzero(operation == number)
            if len(at):
                self._operations[name].add({key: values[at] for key, values in rows.items()}, n_bytes[at])
        self._requests.count(rows["dev"])
        self._bytes.add(rows["dev"], n_bytes)
        self._tids.add(rows["tid"], n_bytes)
        self._errors += int(np.count_nonzero(rows["error"]))
        self._in_flight += int((rows["complete_ns"] < 0).sum())
        self._sequential.add(rows)
        self._over_time.add(first_known(rows, "blockio"))

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "operations": {
                name: figures.document() for name, figures in self._operations.items() if figures.requests
            },
            "bytes_moved": self._bytes.total,
            "sequential": self._sequential.count,
            "errors": self._errors,
            "in_flight": self._in_flight,
            "devices": [
                {"dev": dev, "name": device_name(dev), "requests": n, "bytes": self._bytes[dev]}
                for dev, n in self._requests.items()
            ],
            "threads": len(self._tids),
            "top_threads": self._who.top("tid", self._tids, "bytes"),
            "over_time": self._over_time.document(),
        }


class _Operation:
    """The requests of one operation."""

    def __init__(self) -> None:
        self.requests = self._bytes = 0
        self._queued, self._served = Histogram(), Histogram()

    def add(self, rows: Columns, n_bytes: npt.NDArray[np.int64]) -> None:
        self.requests += len(n_bytes)
        self._bytes += int(n_bytes.sum())
        _add_between(self._queued, rows["queue_ns"], rows["issue_ns"])
        _add_between(self._served, rows["issue_ns"], rows["complete_ns"])

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "bytes": self._bytes,
            "queue_to_issue_ns": self._queued.document(),
            "issue_to_complete_ns": self._served.document(),
        }


def _add_between(
    histogram: Histogram, start_ns: npt.NDArray[np.int64], end_ns: npt.NDArray[np.int64]
) -> None:
    """Count the times between both, where both are known and in order."""
    known = (start_ns >= 0) & (end_ns >= start_ns)
    histogram.add(end_ns[known] - start_ns[known])


class _Sequential:
    """How many requests begin where the one before them in the table, on the same disk, ended."""

    def __init__(self) -> None:
        self.count = 0
        self._devs = np.empty(0, np.uint32)
        self._ends = np.empty(0, np.uint64)

    def add(self, rows: Columns) -> None:
        n_old = len(self._devs)
        devs = np.concatenate([self._devs, rows["dev"]])
        starts = np.concatenate([np.zeros(n_old, np.uint64), rows["sector"]])
        ends = np.concatenate([self._ends, rows["sector"] + rows["nr_sectors"]])
        order = np.argsort(devs, kind="stable")
        devs, starts, ends = devs[order], starts[order], ends[order]
        same = devs[1:] == devs[:-1]
        self.count += int((same & (starts[1:] == ends[:-1])).sum())
        last = np.append(~same, True)
        self._devs, self._ends = devs[last], ends[last]
