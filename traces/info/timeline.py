"""When: the span of a table on the trace's clock, and how many rows fall into each of its equal parts.

Times below 0 are not known (NO_TIME): such a row has no place in time, and is counted as `untimed`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.io import Columns, Trace

__all__ = ["PARTS", "TIMES", "Span", "Timeline", "first_known", "span_of"]

PARTS = 50
"""Into how many equal parts a span is cut."""

TIMES: dict[str, tuple[str, ...]] = {
    "faults": ("ts_ns",),
    "vmas": ("ts_ns",),
    "forks": ("ts_ns",),
    "waits": ("ts_ns",),
    "sched": ("ts_ns",),
    "blockio": ("queue_ns", "issue_ns", "complete_ns"),
    "accel": ("queued_ns", "submit_ns", "start_ns", "end_ns"),
    "tasks": ("ts_ns",),
}
"""The columns that say when, earliest first; a row's place in time is the first of them that is known."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """From the first to the last known time, in ns of the trace's clock; both None where no row has one."""

    first_ns: int | None = None
    last_ns: int | None = None

    @property
    def length_ns(self) -> int | None:
        """Return how long it is; 0 for a single moment."""
        if self.first_ns is None or self.last_ns is None:
            return None
        return self.last_ns - self.first_ns

    @property
    def part_ns(self) -> int:
        """Return the length of one of its PARTS, rounded up so that they cover it; at least 1."""
        return self.parts(PARTS)

    def parts(self, n: int) -> int:
        """Return the length of one of `n` equal parts that cover it; at least 1."""
        return (self.length_ns or 0) // n + 1

    def join(self, other: "Span") -> "Span":
        """Return the span from the earlier beginning to the later end of both."""
        if self.first_ns is None or self.last_ns is None:
            return other
        if other.first_ns is None or other.last_ns is None:
            return self
        return Span(min(self.first_ns, other.first_ns), max(self.last_ns, other.last_ns))


def _ignore(rows: int) -> None:
    return


def span_of(trace: Trace, table: str, progress: Callable[[int], None] = _ignore) -> Span:
    """Return the span of `table`, by reading its times once."""
    span = Span()
    if table not in TIMES or not trace.rows(table):
        return span
    for rows in trace.batches(table, list(TIMES[table])):
        for times in rows.values():
            known = times[times >= 0]
            if len(known):
                span = span.join(Span(int(known.min()), int(known.max())))
        progress(len(times))
    return span


def first_known(rows: Columns, table: str) -> Integers:
    """Return for each row of `table` its place in time, below 0 where none is known."""
    first, *others = TIMES[table]
    times = rows[first]
    for name in others:
        times = np.where(times >= 0, times, rows[name])
    return times


class Timeline:
    """Rows in each of the PARTS of a span."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.counts = np.zeros(PARTS, np.int64)
        self.untimed = 0

    def add(self, times_ns: Integers) -> None:
        """Count rows by their times, which lie in the span or are not known."""
        known = times_ns[times_ns >= 0]
        self.untimed += len(times_ns) - len(known)
        if len(known) and self._span.first_ns is not None:
            parts = (known - self._span.first_ns) // self._span.part_ns
            self.counts += np.bincount(parts, minlength=PARTS)

    def document(self) -> dict[str, Any]:
        """Return the length of a part and the rows in each."""
        return {"part_ns": self._span.part_ns, "rows": self.counts.tolist(), "untimed": self.untimed}
