"""Sets of pages, exact and compact: which pages of each process were touched.

    page = word << 6 | bit        words  [0x4000, 0x4001, 0x7fff0]   sorted
                                  bits   [0xffff, 0x0003, 0x8000]    64 pages each

State: 16 bytes for each 64 pages (256 KiB) of address space in which any page was touched: 10 million
pages of a dense heap take 2.5 MB, ten million lone ones 160 MB.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Footprint", "PageSet", "distinct", "split"]

WORD_BITS = np.uint64(6)
LOW = np.uint64(63)
ONE = np.uint64(1)

Pages = npt.NDArray[np.uint64]


class PageSet:
    """A set of page numbers below 2**64.

    >>> pages = PageSet()
    >>> pages.add(np.array([7, 9, 200], np.uint64)).tolist()
    [True, True, True]
    >>> pages.add(np.array([8, 9], np.uint64)).tolist()
    [True, False]
    >>> pages.count, pages.ranges().tolist()
    (4, [[7, 10], [200, 201]])
    """

    def __init__(self) -> None:
        self._words = np.empty(0, np.uint64)
        self._bits = np.empty(0, np.uint64)
        self.count = 0

    def add(self, pages: Pages) -> npt.NDArray[np.bool_]:
        """Take in different pages in rising order and return which were not there before."""
        words, masks = pages >> WORD_BITS, ONE << (pages & LOW)
        begins = np.append(True, words[1:] != words[:-1])[: len(words)]
        first = np.flatnonzero(begins)
        if not len(first):
            return begins
        at = np.searchsorted(self._words, words[first])
        known = np.zeros(len(first), bool)
        inside = at < len(self._words)
        known[inside] = self._words[at[inside]] == words[first][inside]
        old = np.zeros(len(first), np.uint64)
        old[known] = self._bits[at[known]]
        added = np.bitwise_or.reduceat(masks, first)
        self._bits[at[known]] |= added[known]
        if not known.all():
            self._words = np.insert(self._words, at[~known], words[first][~known])
            self._bits = np.insert(self._bits, at[~known], added[~known])
        is_new: npt.NDArray[np.bool_] = old[np.cumsum(begins) - 1] & masks == 0
        self.count += int(np.count_nonzero(is_new))
        return is_new

    def ranges(self) -> npt.NDArray[np.uint64]:
        """Return the pages as ranges of shape (n, 2), first and last + 1, in rising order, none adjoining."""
        # A run begins where a bit is set and the one below is not; the lowest looks into the word before.
        before = np.append(np.uint64(0), self._bits[:-1] >> LOW)
        adjoins = np.append(False, self._words[1:] == self._words[:-1] + ONE)
        starts = self._bits & ~(self._bits << ONE | np.where(adjoins, before, np.uint64(0)))
        after = np.append(self._bits[1:] << LOW, np.uint64(0))
        followed = np.append(adjoins[1:], False)
        lasts = self._bits & ~(self._bits >> ONE | np.where(followed, after, np.uint64(0)))
        return np.stack([self._numbers(starts), self._numbers(lasts) + ONE], axis=1)

    def _numbers(self, bits: Pages) -> Pages:
        """Return the page of every bit that is set, in rising order."""
        found, words = [np.empty(0, np.uint64)], self._words
        while len(bits):
            left = bits != 0
            words, bits = words[left], bits[left]
            lowest = bits & (~bits + ONE)
            found.append(words << WORD_BITS | np.bitwise_count(lowest - ONE).astype(np.uint64))
            bits = bits ^ lowest
        return np.sort(np.concatenate(found))


class Footprint:
    """The pages touched in each of several spaces: processes, or disks."""

    def __init__(self) -> None:
        self.sets: dict[int, PageSet] = {}

    @property
    def count(self) -> int:
        """Return the pages of all spaces together; a page number in two spaces is two pages."""
        return sum(pages.count for pages in self.sets.values())

    def add(self, space: int, pages: Pages) -> npt.NDArray[np.bool_]:
        """Take in different pages of a space, in rising order, and return which were not there before."""
        return self.sets.setdefault(space, PageSet()).add(pages)


def distinct(pages: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the different values in rising order.

    np.unique of NumPy 2.4 hashes them, which took 10 to 30 times as long.
    """
    pages = np.sort(pages)
    found: npt.NDArray[Any] = pages[np.append(True, pages[1:] != pages[:-1])[: len(pages)]]
    return found


def split(keys: npt.NDArray[Any]) -> Iterator[tuple[int, Any]]:
    """Yield each different key with an index of the rows that have it, in order.

    >>> [(key, rows.tolist()) for key, rows in split(np.array([5, 3, 5]))]
    [(3, [1]), (5, [0, 2])]
    """
    if len(keys) and (keys == keys[0]).all():
        yield int(keys[0]), slice(None)
        return
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    for part in np.split(order, edges) if len(keys) else []:
        yield int(keys[part[0]]), part
