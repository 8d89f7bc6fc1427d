"""Which VMA a page is in, and how far that reaches, at any time: readahead by address goes by it.

Follows vma_merge_new_range() and __split_vma() in mm/vma.c, v6.18: a new anonymous mapping becomes part of
its neighbours of the same protection and advice; of the lower one alone where they are not two parts of one.
A VMA that is cut in two is two from then on, and one again when the gap is filled. Mappings of files are
never joined.

Differs from the kernel: the upper part of a VMA that was cut in two knows nothing of its readahead.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.replay.keys import VPN_BITS
from kdtool.traces import VmaFlag

__all__ = ["CHANGE_WORDS", "follow_vmas"]

CHANGE_WORDS = 5
"""Of one change: first page id, last + 1, the VMA that those are in, and its first vpn and last + 1."""

ADVICE_SHIFT = 8
_FILE_FLAG, _UNMAPPED_FLAG = int(VmaFlag.FILE), int(VmaFlag.UNMAPPED)


class _Vma(NamedTuple):
    """`origin`: what parts of one VMA have in common, and the kernel calls its anon_vma."""

    start: int
    end: int
    flags: int
    number: int
    origin: int

    def joins(self, flags: int) -> bool:
        return self.flags == flags and not flags & _FILE_FLAG


class _Mapped:
    """The VMAs of one process, disjoint and in order, and what changed since `changes` was emptied.

    A change: pages [first, last) are of a VMA, which reaches from start to end.
    """

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._vmas: list[_Vma] = []
        self.changes: list[tuple[int, int, _Vma]] = []

    def _from(self, vpn: int) -> int:
        """Return the index of the first VMA that ends behind `vpn`."""
        at = bisect_left(self._vmas, (vpn,))
        return at - (at > 0 and self._vmas[at - 1].end > vpn)

    def cut(self, start: int, end: int) -> None:
        """Take [start, end) away; of a VMA that is left on both sides, what is above becomes a new one."""
        first, last = self._from(start), bisect_left(self._vmas, (end,))
        left: list[_Vma] = []
        for vma in self._vmas[first:last]:
            below, above = vma.start < start, vma.end > end
            if below:
                left.append(vma._replace(end=start))
                self.changes.append((start, start, left[-1]))
            if above:
                left.append(vma._replace(start=end, number=next(self._numbers) if below else vma.number))
                self.changes.append((end, vma.end, left[-1]))
        self._vmas[first:last] = left

    def add(self, start: int, end: int, flags: int) -> None:
        """Map [start, end), which is free, as a VMA of its own or as part of its neighbours."""
        at = bisect_left(self._vmas, (start,))
        before = [vma for vma in self._vmas[max(at - 1, 0) : at] if vma.end == start and vma.joins(flags)]
        after = [vma for vma in self._vmas[at : at + 1] if vma.start == end and vma.joins(flags)]
        if before and after and before[0].origin != after[0].origin:
            after = []
        parts = [*before, *after]
        if parts:
            vma = parts[0]._replace(start=min(start, parts[0].start), end=max(end, parts[-1].end))
        else:
            number = next(self._numbers)
            vma = _Vma(start, end, flags, number, number)
        self._vmas[at - len(before) : at + len(after)] = [vma]
        self.changes.append((start, vma.end if before else end, vma))


def follow_vmas(
    maps: dict[str, npt.NDArray[np.generic]] | None,
    pids: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
    keep: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return (row, change) pairs, changes of CHANGE_WORDS, in order of row, and how many VMAs there are.

    At first each process is one VMA, of its index, without bounds. A row is one of those to be kept.

    pids, keys : of the processes, and of their pages as in Workload
    """
    numbers = count(len(pids))
    rows: list[int] = []
    changes: list[tuple[int, ...]] = []
    if maps is not None:
        advice = maps.get("advice", np.zeros(len(maps["row"]), np.uint8))
        process = {int(pid): (i << VPN_BITS, _Mapped(numbers)) for i, pid in enumerate(pids)}
        for i in np.argsort(maps["row"], kind="stable"):
            flags, pid = int(maps["flags"][i]) | int(advice[i]) << ADVICE_SHIFT, int(maps["pid"][i])
            start, end = int(maps["start_vpn"][i]), int(maps["end_vpn"][i])
            if pid not in process or start == end:
                continue
            base, mapped = process[pid]
            mapped.cut(start, end)
            if not flags & _UNMAPPED_FLAG:
                mapped.add(start, end, flags)
            for first, last, vma in mapped.changes:
                ids = np.searchsorted(keys, [base | first, base | last])
                changes.append((*map(int, ids), vma.number, vma.start, vma.end))
                rows.append(max(int(maps["row"][i]), 0))
            mapped.changes.clear()
    table = np.array(changes, np.int64).reshape(-1, CHANGE_WORDS)
    return _kept_rows(np.array(rows, np.int64), keep), table, next(numbers)


def _kept_rows(rows: npt.NDArray[np.int64], keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return how many rows are kept before each of `rows`, which rise."""
    bounds = np.minimum(np.concatenate(([0], rows)), len(keep))
    counts = [np.count_nonzero(keep[a:b]) for a, b in pairwise(bounds.tolist())]
    return np.cumsum(counts, dtype=np.int64)
