"""How far a thread's next page is from its last one: the distances that a prefetcher would have to guess."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.info.histogram import bit_lengths

__all__ = ["Deltas"]

NEAR_PAGES = 4096
"""Distances up to here, 16 MiB, are counted one by one."""
TOP = 5
N_LENGTHS = 65


class Deltas:
    """Distances in pages between consecutive rows of a thread.

    State: the last page of each thread, and 64 KiB of counters.

    >>> deltas = Deltas()
    >>> deltas.add(np.array([1, 2, 1, 1]), np.array([10, 500, 11, 12], np.uint64))
    >>> deltas.document()["top"], deltas.document()["by_log2"]
    ([{'pages': 1, 'count': 2}], [0, 2])
    """

    def __init__(self) -> None:
        self._tids = np.empty(0, np.int32)
        self._last = np.empty(0, np.uint64)
        self._near = np.zeros(2 * NEAR_PAGES + 1, np.int64)
        self._lengths = np.zeros(N_LENGTHS, np.int64)
        self._forward = 0

    def add(self, tids: npt.NDArray[Any], pages: npt.NDArray[np.uint64]) -> None:
        """Take in rows in their order: the thread and its page."""
        tids = np.concatenate([self._tids, tids])
        pages = np.concatenate([self._last, pages])
        order = np.argsort(tids, kind="stable")
        tids, pages = tids[order], pages[order]
        same = tids[1:] == tids[:-1]
        # As 64-bit words: a difference wraps around to what it is, negative ones included.
        deltas = (pages[1:] - pages[:-1])[same].view(np.int64)
        sizes = np.minimum(np.abs(np.maximum(deltas, -(2**63) + 1)), 2**63 - 1)
        self._lengths += np.bincount(bit_lengths(sizes), minlength=N_LENGTHS)
        near = deltas[sizes <= NEAR_PAGES]
        self._near += np.bincount(near + NEAR_PAGES, minlength=len(self._near))
        self._forward += int((deltas > 0).sum())
        last = np.append(~same, True)
        self._tids, self._last = tids[last], pages[last]

    def document(self) -> dict[str, Any]:
        """Return how many there are, those forward, the commonest up to NEAR_PAGES, and the counts by size.

        `by_log2[i]` counts those of i bits: 0 pages, 1 page, 2 to 3, 4 to 7 ...
        """
        order = np.lexsort((np.abs(np.arange(len(self._near)) - NEAR_PAGES), -self._near))
        top = [
            {"pages": int(at) - NEAR_PAGES, "count": int(self._near[at])}
            for at in order[:TOP]
            if self._near[at]
        ]
        used = int(np.flatnonzero(self._lengths)[-1]) + 1 if self._lengths.any() else 0
        return {
            "count": int(self._lengths.sum()),
            "forward": self._forward,
            "top": top,
            "by_log2": self._lengths[:used].tolist(),
        }
