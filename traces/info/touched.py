"""The pages that rows of `faults` or `refs` touch: how many different ones, and in which kind of mapping."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.info.mappings import KINDS, Mappings
from kdtool.traces.info.pages import Footprint, split

__all__ = ["Touched"]

Integers = npt.NDArray[np.int64]


class Touched:
    """Footprint and kinds. A page is in the footprint of the kind that it had when it was first touched."""

    def __init__(self, mappings: Mappings) -> None:
        self._mappings = mappings
        self.footprint = Footprint()
        self._pages, self._rows, self._marked = np.zeros((3, len(KINDS)), np.int64)

    def add(
        self,
        when: Integers,
        pids: npt.NDArray[Any],
        pages: npt.NDArray[np.uint64],
        marked: npt.NDArray[np.bool_],
    ) -> None:
        """Take in rows in order: when (see Mappings), whose and which page, and whether it is marked."""
        for part in self._mappings.follow(when):
            for pid, at in split(pids[part]):
                self._add(pid, pages[part][at], marked[part][at])

    def _add(self, pid: int, pages: npt.NDArray[np.uint64], marked: npt.NDArray[np.bool_]) -> None:
        found, counts = np.unique(pages, return_counts=True)
        kinds = self._mappings.kind_of(pid, found)
        is_new = self.footprint.add(pid, found)
        self._pages += np.bincount(kinds[is_new], minlength=len(KINDS))
        np.add.at(self._rows, kinds, counts)
        if marked.any():
            self._marked += np.bincount(self._mappings.kind_of(pid, pages[marked]), minlength=len(KINDS))

    def document(self, marked: str) -> dict[str, Any]:
        """Return the footprint, and for each kind of mapping its rows, those marked, and its pages."""
        kinds = {
            kind: {
                "rows": int(self._rows[i]),
                marked: int(self._marked[i]),
                "footprint_pages": int(self._pages[i]),
            }
            for i, kind in enumerate(KINDS)
            if self._rows[i]
        }
        return {"footprint_pages": self.footprint.count, "by_mapping": kinds}
