"""The figures of `faults`: which pages, major or minor, in which kind of mapping, by whom, and when."""

from typing import Any

import numpy as np

from kdtool.traces.info.base import About
from kdtool.traces.info.counts import Sums
from kdtool.traces.info.deltas import Deltas
from kdtool.traces.info.timeline import Timeline
from kdtool.traces.info.touched import Touched
from kdtool.traces.io import Columns

__all__ = ["FaultFigures"]


class FaultFigures:
    """Figures of page faults."""

    columns = ("ts_ns", "pid", "tid", "vpn", "major")

    def __init__(self, about: About) -> None:
        self._who = about.who
        self._touched = Touched(about.mappings)
        self._pids, self._tids, self._deltas = Sums(), Sums(), Deltas()
        self._over_time, self._major_over_time = Timeline(about.span), Timeline(about.span)
        self._major = self._rows = 0

    def add(self, rows: Columns) -> None:
        """Take in the next faults."""
        major = rows["major"]
        self._rows += len(major)
        self._major += int(np.count_nonzero(major))
        self._touched.add(rows["ts_ns"], rows["pid"], rows["vpn"], major)
        self._pids.count(rows["pid"])
        self._tids.count(rows["tid"])
        self._deltas.add(rows["tid"], rows["vpn"])
        self._over_time.add(rows["ts_ns"])
        self._major_over_time.add(rows["ts_ns"][major])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "major": self._major,
            "minor": self._rows - self._major,
            **self._touched.document("major"),
            "processes": len(self._pids),
            "threads": len(self._tids),
            "top_processes": self._who.top("pid", self._pids, "faults"),
            "top_threads": self._who.top("tid", self._tids, "faults"),
            "deltas": self._deltas.document(),
            "over_time": {
                **self._over_time.document(),
                "major": self._major_over_time.counts.tolist(),
            },
        }
