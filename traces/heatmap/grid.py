"""What is counted in the cells of a picture, exactly: rows at a point, or time of stretches."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Grid"]

Integers = npt.NDArray[np.int64]


class Grid:
    """Cells of `n_y` by `n_x`; a column is `unit` long and the first begins at `start`.

    cells : int64 of shape (n_y, n_x)

    >>> grid = Grid(n_y=1, n_x=4, start=100, unit=10)
    >>> grid.add_points(np.array([0, 0]), np.array([100, 139]))
    >>> grid.cells.tolist()
    [[1, 0, 0, 1]]
    >>> grid = Grid(n_y=1, n_x=4, start=100, unit=10)
    >>> grid.add_stretches(np.array([0]), np.array([105]), np.array([132]))
    >>> grid.cells.tolist()
    [[5, 10, 10, 2]]
    """

    def __init__(self, n_y: int, n_x: int, start: int, unit: int) -> None:
        self.cells = np.zeros((n_y, n_x), np.int64)
        self.start, self.unit = start, unit

    @property
    def end(self) -> int:
        """Return where the last column ends."""
        return self.start + self.unit * self.cells.shape[1]

    def add_points(self, y: npt.NDArray[Any], x: Integers) -> None:
        """Count 1 in the cell of each point: its row, and its place along x, which is in the grid."""
        n_y, n_x = self.cells.shape
        at = y * n_x + (x - self.start) // self.unit
        self.cells += np.bincount(at, minlength=n_y * n_x).reshape(n_y, n_x)

    def add_stretches(self, y: npt.NDArray[Any], start: Integers, end: Integers) -> None:
        """Add to each cell how much of the stretches from `start` to `end` in its row lies in it."""
        n_x, unit = self.cells.shape[1], self.unit
        first = np.minimum((start - self.start) // unit, n_x - 1)  # an empty one may begin at the end
        last = np.minimum((end - self.start) // unit, n_x - 1)
        alone = first == last
        np.add.at(self.cells, (y[alone], first[alone]), (end - start)[alone])
        y, first, last, start, end = (each[~alone] for each in (y, first, last, start, end))
        np.add.at(self.cells, (y, first), self.start + (first + 1) * unit - start)
        np.add.at(self.cells, (y, last), end - (self.start + last * unit))
        # Columns that are covered whole: a step up where they begin and one down where they end.
        steps = np.zeros_like(self.cells)
        np.add.at(steps, (y, first + 1), unit)
        np.add.at(steps, (y, last), -unit)
        self.cells += np.cumsum(steps, axis=1)
