"""The figures of `accel`: what devices did, for how long, bytes each way, and the kernels that took longest.

`time_ns` adds up commands, so those that ran side by side count each; `busy_ns` of a device is the time in
which any of its commands ran. Kernels are by name.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.info.base import About, kind_name
from kdtool.traces.info.counts import Sums
from kdtool.traces.info.histogram import Histogram
from kdtool.traces.info.pages import split
from kdtool.traces.info.timeline import Timeline, first_known
from kdtool.traces.io import Columns, Trace
from kdtool.traces.schema import AccelKind

__all__ = ["AccelFigures", "Busy", "earliest_to_come"]

TOP = 3
NEVER_NS = 2**63 - 1

Integers = npt.NDArray[np.int64]


class AccelFigures:
    """Figures of commands of accelerators."""

    columns = (
        "queued_ns",
        "submit_ns",
        "start_ns",
        "end_ns",
        "pid",
        "device",
        "kind",
        "bytes",
        "name_id",
    )

    def __init__(self, about: About) -> None:
        self._who = about.who
        self._kinds, self._times, self._bytes = Sums(), Sums(), Sums()
        self._launches, self._kernels, self._pids = Sums(), Sums(), Sums()
        self._devices: dict[int, Busy] = {}
        self._waits = Histogram()
        self._unfinished = 0
        self._settled = earliest_to_come(about.trace, about.batch_rows)
        self._over_time = Timeline(about.span)

    def add(self, rows: Columns) -> None:
        """Take in the next commands."""
        start_ns, end_ns = rows["start_ns"], rows["end_ns"]
        ran = (start_ns >= 0) & (end_ns >= start_ns)
        took_ns = np.where(ran, end_ns - start_ns, 0)
        self._unfinished += int((~ran).sum())
        self._kinds.count(rows["kind"])
        self._times.add(rows["kind"], took_ns)
        self._bytes.add(rows["kind"], rows["bytes"])
        self._pids.add(rows["pid"], took_ns)
        kernel = rows["kind"] == AccelKind.KERNEL
        self._launches.count(rows["name_id"][kernel])
        self._kernels.add(rows["name_id"][kernel], took_ns[kernel])
        waited = (rows["queued_ns"] >= 0) & (start_ns >= rows["queued_ns"])
        self._waits.add((start_ns - rows["queued_ns"])[waited])
        settled_ns = next(self._settled)
        for device, at in split(rows["device"]):
            busy = self._devices.setdefault(device, Busy())
            busy.add(start_ns[at][ran[at]], end_ns[at][ran[at]], settled_ns)
        self._over_time.add(first_known(rows, "accel"))

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        total_ns = self._kernels.total
        return {
            "kinds": {
                kind_name(AccelKind, kind): {
                    "commands": n,
                    "time_ns": self._times[kind],
                    "bytes": self._bytes[kind],
                }
                for kind, n in self._kinds.items()
            },
            "queued_to_start_ns": self._waits.document(),
            "unfinished": self._unfinished,
            "devices": [
                {"device": device, "busy_ns": busy.total_ns} for device, busy in sorted(self._devices.items())
            ],
            "kernels": len(self._launches),
            "top_kernels": [
                {
                    "name": self._who.text(name_id),
                    "launches": self._launches[name_id],
                    "time_ns": time_ns,
                    "share": time_ns / total_ns if total_ns else 0.0,
                }
                for name_id, time_ns in self._kernels.top(TOP)
            ],
            "processes": len(self._pids),
            "top_processes": self._who.top("pid", self._pids, "time_ns"),
            "over_time": self._over_time.document(),
        }


class Busy:
    """The time that any of several intervals covers.

    State: the stretches that a later interval may still touch; what lies before all of those is added up.

    >>> busy = Busy()
    >>> busy.add(np.array([0, 5, 30]), np.array([10, 20, 40]), settled_ns=15)
    >>> busy.add(np.array([15]), np.array([35]), settled_ns=100)
    >>> busy.total_ns
    40
    """

    def __init__(self) -> None:
        self._starts = self._ends = np.empty(0, np.int64)
        self._closed_ns = 0

    @property
    def total_ns(self) -> int:
        """Return the time covered so far."""
        return self._closed_ns + int((self._ends - self._starts).sum())

    def add(self, starts: Integers, ends: Integers, settled_ns: int) -> None:
        """Take in intervals; none that comes later starts before `settled_ns`."""
        starts, ends = np.concatenate([self._starts, starts]), np.concatenate([self._ends, ends])
        order = np.argsort(starts, kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        apart = np.flatnonzero(starts[1:] > reach[:-1]) + 1
        first = np.append(0, apart)[: len(starts)]
        starts, ends = starts[first], reach[np.append(apart, len(reach))[: len(first)] - 1]
        closed = ends < settled_ns
        self._closed_ns += int((ends - starts)[closed].sum())
        self._starts, self._ends = starts[~closed], ends[~closed]


def earliest_to_come(trace: Trace, batch_rows: int) -> Iterator[int]:
    """Yield for each batch of `accel` the earliest start in the batches after it."""
    starts = []
    for rows in trace.batches("accel", ["start_ns"], batch_rows):
        known = rows["start_ns"][rows["start_ns"] >= 0]
        starts.append(int(known.min()) if len(known) else NEVER_NS)
    later = np.array([*starts[1:], NEVER_NS], np.int64)
    yield from np.minimum.accumulate(later[::-1])[::-1].tolist()
