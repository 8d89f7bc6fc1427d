"""Whose a page is: the mapping that held it when it was touched, by the table `vmas`.

    vmas --paint, in order--> ranges of a process with a label each: (kind, name)
    rows --follow--> slices of rows between which no page changes its label

A page belongs to the mapping made last over it; before there was one, to the first that comes: what is
touched is mapped, but rows of `vmas` may be a moment late. That a range went away changes nothing, for
nothing touches it then. So almost all of the time nothing changes hands, and a lookup is one search.
State: 40 bytes a row of `vmas`.
Not known: heap and stack, where the recorder does not name them ([heap], [stack]) as the kernel does; they
are anonymous memory then.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.io import Trace
from kdtool.traces.schema import VmaFlag

__all__ = ["KINDS", "Label", "Mappings"]

KINDS = ("anonymous", "heap", "stack", "file", "unknown")
COLUMNS = ("pid", "start_vpn", "end_vpn", "flags", "name_id")

Label = tuple[str, str]
"""Kind, one of KINDS, and the file's path; "" where there is none."""
UNKNOWN: Label = ("unknown", "")

Change = tuple[int, int, int, int, int]
"""When (a row of `refs`, or ns), process, first page, last page + 1, label's number."""


class Mappings:
    """The mappings of a trace as they change over the rows of `table`, `faults` or `refs`, taken in order.

    labels : what a label's number stands for
    """

    def __init__(self, trace: Trace, table: str, names: dict[int, str]) -> None:
        self.labels: list[Label] = [UNKNOWN]
        self._numbers: dict[tuple[int, int], int] = {}
        parts = [np.empty((0, 5), np.int64)]
        if trace.rows("vmas"):
            when = "row" if table == "refs" else "ts_ns"
            parts += [self._label(rows, when, names) for rows in trace.batches("vmas", [when, *COLUMNS])]
        self._spaces = _first_labels(parts)
        self._kinds = np.array([KINDS.index(kind) for kind, _ in self.labels])
        self._changes = self._that_matter(parts)
        self._done = 0

    def follow(self, when: npt.NDArray[np.int64]) -> Iterator[slice]:
        """Yield the rows in slices, in each of which all pages keep their mapping, and move on in between.

        when : of each row, its number in `refs` or its time; one that is earlier than that before it counts
            as just after it
        """
        when = np.maximum.accumulate(when)
        start = 0
        while self._done < len(self._changes) and len(when):
            key, pid, first, last, label = self._changes[self._done]
            if key > when[-1]:
                break
            at = int(np.searchsorted(when, key))
            if at > start:
                yield slice(start, at)
                start = at
            self._spaces[pid].paint(first, last, label)
            self._done += 1
        if start < len(when):
            yield slice(start, len(when))

    def label_of(self, pid: int, pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the number in `labels` of each page of a process, 0 where no mapping is known."""
        space = self._spaces.get(pid)
        return np.zeros(len(pages), np.int64) if space is None else space.lookup(pages)

    def kind_of(self, pid: int, pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the number in KINDS of each page of a process."""
        kinds: npt.NDArray[np.int64] = self._kinds[self.label_of(pid, pages)]
        return kinds

    def _label(self, rows: dict[str, Any], when: str, names: dict[int, str]) -> npt.NDArray[np.int64]:
        """Return mappings as changes of shape (n, 5)."""
        changes = []
        for key, pid, first, last, flags, name_id in zip(
            *(rows[name].tolist() for name in (when, *COLUMNS)), strict=True
        ):
            if not flags & VmaFlag.UNMAPPED and first < last < 1 << 63:
                label = self._number(flags & VmaFlag.FILE, name_id, names.get(name_id, ""))
                changes.append((key, pid, first, last, label))
        return np.array(changes, np.int64).reshape(-1, 5)

    def _number(self, is_file: int, name_id: int, name: str) -> int:
        number = self._numbers.get((is_file, name_id))
        if number is None:
            special = {"[heap]": "heap", "[stack]": "stack"}.get(name, "anonymous")
            label = ("file", name) if is_file else (special, "")
            if label not in self.labels:
                self.labels.append(label)
            number = self._numbers[is_file, name_id] = self.labels.index(label)
        return number

    def _that_matter(self, parts: list[npt.NDArray[np.int64]]) -> list[Change]:
        """Return the changes by which a page goes from one label to another."""
        spaces = {pid: space.copy() for pid, space in self._spaces.items()}
        changes: list[Change] = []
        for part in parts:
            for key, pid, first, last, label in part.tolist():
                if spaces[pid].paint(first, last, label):
                    changes.append((key, pid, first, last, label))
        return changes


def _first_labels(parts: list[npt.NDArray[np.int64]]) -> dict[int, "_Space"]:
    """Return the spaces in which every page has its first label: painted backwards, it is what remains."""
    spaces: dict[int, _Space] = {}
    for part in reversed(parts):
        for _, pid, first, last, label in part[::-1].tolist():
            spaces.setdefault(pid, _Space()).paint(first, last, label)
    return spaces


class _Space:
    """The labels of one process's pages: ranges in rising order, none overlapping, like neighbours joined."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._labels: list[int] = []
        self._arrays: tuple[npt.NDArray[Any], ...] | None = None

    def copy(self) -> "_Space":
        """Return one like it that can be painted apart from it."""
        made = _Space()
        made._starts, made._ends, made._labels = self._starts[:], self._ends[:], self._labels[:]
        return made

    def paint(self, start: int, end: int, label: int) -> bool:
        """Give pages `start` to `end` - 1 a label; return whether any of them had another one."""
        i = bisect_left(self._ends, start)
        j = bisect_right(self._starts, end, i)
        low, high, changed = start, end, False
        before: list[tuple[int, int, int]] = []
        after: list[tuple[int, int, int]] = []
        for first, last, old in zip(self._starts[i:j], self._ends[i:j], self._labels[i:j], strict=True):
            if old == label:
                low, high = min(low, first), max(high, last)
                continue
            changed |= first < end and start < last
            if first < start:
                before.append((first, min(last, start), old))
            if last > end:
                after.append((max(first, end), last, old))
        made = [*before, (low, high, label), *after]
        self._starts[i:j], self._ends[i:j], self._labels[i:j] = map(list, zip(*made, strict=True))
        self._arrays = None
        return changed

    def lookup(self, pages: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the label of each page, 0 where there is none."""
        if self._arrays is None:
            self._arrays = (
                np.array(self._starts, np.uint64),
                np.array([0, *self._ends], np.uint64),
                np.array([0, *self._labels], np.int64),
            )
        starts, ends, labels = self._arrays
        at = np.searchsorted(starts, pages, side="right")
        found: npt.NDArray[np.int64] = np.where(pages < ends[at], labels[at], 0)
        return found
