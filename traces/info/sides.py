"""The figures of the tables that explain others: `vmas`, `forks`, `waits`, `zeros` and `tasks`."""

from typing import Any

import numpy as np

from kdtool.traces.info.base import About
from kdtool.traces.info.counts import Sums
from kdtool.traces.io import Columns
from kdtool.traces.schema import NO_TID, VmaFlag

__all__ = ["ForkFigures", "TaskFigures", "VmaFigures", "WaitFigures", "ZeroFigures"]


class VmaFigures:
    """Figures of mappings."""

    columns = ("pid", "flags", "name_id")

    def __init__(self, about: About) -> None:
        self._pids, self._files = Sums(), Sums()
        self._rows = self._unmapped = 0

    def add(self, rows: Columns) -> None:
        """Take in the next changes."""
        self._rows += len(rows["flags"])
        self._unmapped += int(np.count_nonzero(rows["flags"] & VmaFlag.UNMAPPED))
        self._pids.count(rows["pid"])
        self._files.count(rows["name_id"][rows["flags"] & VmaFlag.FILE > 0])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "mapped": self._rows - self._unmapped,
            "unmapped": self._unmapped,
            "files": len(self._files),
            "processes": len(self._pids),
        }


class ForkFigures:
    """Figures of forks."""

    columns = ("pid", "parent")

    def __init__(self, about: About) -> None:
        self._pids, self._parents = Sums(), Sums()

    def add(self, rows: Columns) -> None:
        """Take in the next forks."""
        self._pids.count(rows["pid"])
        self._parents.count(rows["parent"])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {"children": len(self._pids), "parents": len(self._parents)}


class WaitFigures:
    """Figures of sleeps in system calls."""

    columns = ("tid", "by_tid", "asked_ns")

    def __init__(self, about: About) -> None:
        self._tids = Sums()
        self._rows = self._known = self._asked_ns = 0

    def add(self, rows: Columns) -> None:
        """Take in the next sleeps."""
        self._rows += len(rows["tid"])
        self._known += int(np.count_nonzero(rows["by_tid"] != NO_TID))
        self._asked_ns += int(rows["asked_ns"].sum())
        self._tids.count(rows["tid"])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "sleeps": self._rows,
            "woken_by_a_thread": self._known,
            "asked_ns": self._asked_ns,
            "threads": len(self._tids),
        }


class ZeroFigures:
    """Figures of pages that were full of zeros."""

    columns = ("row",)

    def __init__(self, about: About) -> None:
        self._rows, self._references = 0, about.trace.rows("refs")

    def add(self, rows: Columns) -> None:
        """Take in the next references after which a page was."""
        self._rows += len(rows["row"])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {"found": self._rows, "references": self._references}


class TaskFigures:
    """Figures of threads and their names."""

    columns = ("pid", "tid")

    def __init__(self, about: About) -> None:
        self._pids, self._tids = Sums(), Sums()

    def add(self, rows: Columns) -> None:
        """Take in the next names of threads."""
        self._pids.count(rows["pid"])
        self._tids.count(rows["tid"])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {"processes": len(self._pids), "threads": len(self._tids)}
