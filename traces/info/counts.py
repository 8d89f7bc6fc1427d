"""Exact counts and sums by key, such as events a thread: as much memory as there are different keys."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Sums"]

LOW_BITS = 32
LOW = np.uint64((1 << LOW_BITS) - 1)
HIGH = np.uint64(LOW_BITS)


class Sums:
    """A sum for each key.

    >>> by_tid = Sums()
    >>> by_tid.count(np.array([7, 8, 7]))
    >>> by_tid.add(np.array([8]), np.array([40]))
    >>> by_tid.top(1), by_tid.total
    ([(8, 41)], 43)
    """

    def __init__(self) -> None:
        self._sums: Counter[int] = Counter()

    def __len__(self) -> int:
        """Return how many different keys there are."""
        return len(self._sums)

    def __getitem__(self, key: int) -> int:
        """Return the sum of a key, 0 for one that never came."""
        return self._sums[key]

    @property
    def total(self) -> int:
        """Return the sum over all keys."""
        return self._sums.total()

    def count(self, keys: npt.NDArray[Any]) -> None:
        """Add 1 for each key."""
        found, counts = np.unique(keys, return_counts=True)
        for key, n in zip(found.tolist(), counts.tolist(), strict=True):
            self._sums[key] += n

    def add(self, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Add `values[i]`, an integer of at least 0, to the sum of `keys[i]`, exactly, however large."""
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        keys, words = keys[order], values[order].astype(np.uint64)
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        high = np.add.reduceat(words >> HIGH, first).tolist()
        low = np.add.reduceat(words & LOW, first).tolist()
        for key, most, least in zip(keys[first].tolist(), high, low, strict=True):
            self._sums[key] += (most << LOW_BITS) + least

    def top(self, n: int) -> list[tuple[int, int]]:
        """Return the `n` largest sums with their keys, largest first, equal ones by key."""
        return sorted(self._sums.items(), key=lambda item: (-item[1], item[0]))[:n]

    def items(self) -> list[tuple[int, int]]:
        """Return all keys and sums in the order of the keys."""
        return sorted(self._sums.items())
