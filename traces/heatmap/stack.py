"""Addresses on one axis: the ranges that are touched, stacked, with the large holes between them left out.

    process 7   [0x4000 ... 0x4100)          [0x7ff0 ... 0x7fff)      process 9   [0x4000 ... 0x4040)
    position    0 ............ 255           256 .......... 270                   271 ......... 334

Holes are left out from the largest down, until those that stay are at most an eighth of what is touched, or
MAX_HOLES are left out: neighbours stay neighbours, and no hole fills the picture. Unit: a page, or a block of
a disk of that size.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdtool.traces.info.pages import Footprint

__all__ = ["Stack"]

KEPT = 8
"""What stays of the holes is at most footprint / KEPT."""
MAX_HOLES = 1 << 16

Integers = npt.NDArray[np.int64]
Pages = npt.NDArray[np.uint64]


class Stack:
    """Where each touched page of each space is on the axis.

    spaces : in the order in which they are stacked, the lowest first
    bounds : where each begins, and the height of all
    n_rows : rows of cells, at most those asked for
    unit : positions a row

    >>> footprint = Footprint()
    >>> _ = footprint.add(7, np.array([1000, 1001, 1003, 90000], np.uint64))
    >>> stack = Stack(footprint, [7], n_rows=2)
    >>> stack.rows_of(7, np.array([1003, 90000], np.uint64)).tolist(), stack.bounds, stack.unit
    ([1, 1], [0, 4], 2)
    """

    def __init__(self, footprint: Footprint, spaces: Sequence[int], n_rows: int) -> None:
        self.spaces = list(spaces)
        touched = [footprint.sets[space].ranges() for space in self.spaces]
        largest = _largest_kept(touched, footprint.count // KEPT)
        self._starts: list[Pages] = []
        self._positions: list[Integers] = []
        self.bounds = [0]
        for ranges in touched:
            holes = ranges[1:, 0] - ranges[:-1, 1]
            first = np.append(True, holes > largest)
            last = np.append(first[1:], True)
            starts, lengths = ranges[first, 0], ranges[last, 1] - ranges[first, 0]
            ends = self.bounds[-1] + np.cumsum(lengths.astype(np.int64))
            self._starts.append(starts)
            self._positions.append(np.append(self.bounds[-1], ends[:-1]))
            self.bounds.append(int(ends[-1]))
        self.unit = (self.bounds[-1] - 1) // n_rows + 1
        self.n_rows = (self.bounds[-1] - 1) // self.unit + 1

    def rows_of(self, space: int, pages: Pages) -> Integers:
        """Return the row of cells of each of some touched pages of a space."""
        i = self.spaces.index(space)
        at = np.searchsorted(self._starts[i], pages, side="right") - 1
        within: Integers = (pages - self._starts[i][at]).astype(np.int64)
        rows: Integers = (self._positions[i][at] + within) // self.unit
        return rows

    def middle_of(self, row: int) -> tuple[int, int]:
        """Return the space and the page in the middle of a row of cells."""
        position = min(row * self.unit + self.unit // 2, self.bounds[-1] - 1)
        i = int(np.searchsorted(self.bounds, position, side="right")) - 1
        at = int(np.searchsorted(self._positions[i], position, side="right")) - 1
        return self.spaces[i], int(self._starts[i][at]) + position - int(self._positions[i][at])


def _largest_kept(touched: Sequence[Pages], room: int) -> int:
    """Return the length of the largest hole that stays: all that stay fit into `room`, or enough go."""
    holes = np.sort(np.concatenate([ranges[1:, 0] - ranges[:-1, 1] for ranges in touched]))
    summed = np.cumsum(np.minimum(holes, np.uint64(room + 1)).astype(np.int64))
    n_fit = int(np.searchsorted(summed, room, side="right"))
    # Of holes as long as the first that goes, none stays.
    n_kept = int(np.searchsorted(holes, holes[n_fit])) if n_fit < len(holes) else n_fit
    n_kept = max(n_kept, len(holes) - MAX_HOLES)
    return int(holes[n_kept - 1]) if n_kept else 0
