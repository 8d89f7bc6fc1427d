"""The figures of `refs`: which pages, how, by whom, after how many instructions, and when they are new.

References have no time but the instructions of their thread, so their parts are equal in rows.
"""

from typing import Any

import numpy as np

from kdtool.traces.info.base import About, kind_name
from kdtool.traces.info.counts import Sums
from kdtool.traces.info.deltas import Deltas
from kdtool.traces.info.pages import split
from kdtool.traces.info.timeline import PARTS
from kdtool.traces.info.touched import Touched
from kdtool.traces.io import Columns
from kdtool.traces.schema import RefKind

__all__ = ["RefFigures"]


class RefFigures:
    """Figures of page references."""

    columns = ("pid", "tid", "vpn", "kind", "insns")

    def __init__(self, about: About) -> None:
        self._who = about.who
        self._touched = Touched(about.mappings)
        self._pids, self._tids, self._kinds, self._deltas = Sums(), Sums(), Sums(), Deltas()
        self._insns: dict[int, int] = {}
        self._part_rows = about.trace.rows("refs") // PARTS + 1
        self._new = [0] * PARTS
        self._row = 0

    def add(self, rows: Columns) -> None:
        """Take in the next references."""
        self._pids.count(rows["pid"])
        self._tids.count(rows["tid"])
        self._kinds.count(rows["kind"])
        self._deltas.add(rows["tid"], rows["vpn"])
        for tid, at in split(rows["tid"]):
            self._insns[tid] = max(self._insns.get(tid, 0), int(rows["insns"][at].max()))
        start, n_rows = 0, len(rows["pid"])
        while start < n_rows:
            in_part = self._part_rows - self._row % self._part_rows
            end = min(n_rows, start + in_part)
            self._touch({name: values[start:end] for name, values in rows.items()})
            start = end

    def _touch(self, rows: Columns) -> None:
        """Take in references of one part."""
        before, n_rows = self._touched.footprint.count, len(rows["pid"])
        when = np.arange(self._row, self._row + n_rows)
        self._touched.add(when, rows["pid"], rows["vpn"], rows["kind"] == RefKind.STORE)
        self._new[self._row // self._part_rows] += self._touched.footprint.count - before
        self._row += n_rows

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "kinds": {kind_name(RefKind, kind): n for kind, n in self._kinds.items()},
            **self._touched.document("stores"),
            "insns": sum(self._insns.values()),
            "processes": len(self._pids),
            "threads": len(self._tids),
            "top_processes": self._who.top("pid", self._pids, "refs"),
            "top_threads": self._who.top("tid", self._tids, "refs"),
            "deltas": self._deltas.document(),
            "new_pages": {"part_rows": self._part_rows, "pages": self._new},
        }
