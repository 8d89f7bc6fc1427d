"""From records that tell of threads to when each was the scope's, and to rows of `tasks`.

    task_newtask: a thread was made          task_rename: it has another name

Unit of work: rows in order of time. They are of all threads of the machine; the scope's are those that join,
and what those make.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdtool.collect.threads import Lifetimes
from kdtool.collect.tracestream import Rows
from kdtool.kernel.event_format import EventFormat
from kdtool.kernel.trace_ring import Records
from kdtool.traces import TraceWriter

__all__ = ["NEWTASK", "RENAME", "THREAD_EVENTS", "ThreadRows"]

THREAD_EVENTS = ("task:task_newtask", "task:task_rename")
NEWTASK, RENAME = 100, 101
"""`event` of rows that tell of threads."""
CLONE_THREAD = 0x10000

SHAPES = {
    "task_newtask": (NEWTASK, "comm", {"tid": "common_pid", "next_tid": "pid", "prio": "clone_flags"}),
    "task_rename": (RENAME, "newcomm", {"tid": "common_pid", "next_tid": "pid"}),
}
"""Event, name, and for columns of a row the field of each tracepoint."""


class ThreadRows:
    """Learns of threads and writes their names.

    lifetimes : when each thread was the scope's
    told : rows seen, of whomever
    """

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._processes: dict[int, int] = {}
        self._names: dict[int, int] = {}
        self._joined: deque[tuple[int, int, int, str]] = deque()
        self.lifetimes = Lifetimes()
        self.told = 0

    def join(self, t_ns: int, tid: int, pid: int, name: str) -> None:
        """Take in a thread that lives already; from any thread."""
        self._joined.append((t_ns, tid, pid, name))

    def knows(self, fmt: EventFormat) -> bool:
        """Return whether a tracepoint tells of threads; CapabilityError when it lacks a field."""
        if fmt.name not in SHAPES:
            return False
        _, name, fields = SHAPES[fmt.name]
        fmt.require(name, *fields.values())
        return True

    def fill(self, fmt: EventFormat, records: Records, at: npt.NDArray[np.int64], rows: Rows) -> None:
        """Fill in event, tid, next_tid, prio and name_id of the rows `at`, records of such a tracepoint."""
        event, name, fields = SHAPES[fmt.name]
        rows["event"][at] = event
        for column, field in fields.items():
            rows[column][at] = fmt.numbers(records.buffer, records.starts[at], field)
        names = fmt.texts(records.buffer, records.starts[at], name)
        rows["name_id"][at] = [self._writer.name_id(each.decode(errors="replace")) for each in names.tolist()]

    def learn(self, rows: Rows, until_ns: int | None) -> None:
        """Learn from rows that `fill` made, and of those that joined up to a time (None: all)."""
        self.told += len(rows)
        named = []
        while self._joined and (until_ns is None or self._joined[0][0] <= until_ns):
            t_ns, tid, pid, name = self._joined.popleft()
            self._processes[tid] = pid
            self.lifetimes.born(tid, t_ns)
            named.append((t_ns, tid, self._writer.name_id(name)))
        columns = (rows[name].tolist() for name in ("ts_ns", "event", "tid", "next_tid", "prio", "name_id"))
        for t_ns, event, by, tid, clone_flags, name_id in zip(*columns, strict=True):
            if not self.lifetimes.owns(by if event == NEWTASK else tid, t_ns):
                if event == NEWTASK:
                    self.lifetimes.gone(tid, t_ns)
                continue
            if event == NEWTASK:
                self.lifetimes.born(tid, t_ns)
                self._processes[tid] = self._processes.get(by, by) if clone_flags & CLONE_THREAD else tid
                self._names.pop(tid, None)
            named.append((t_ns, tid, name_id))
        self._name(sorted(named))

    def _name(self, named: Sequence[tuple[int, int, int]]) -> None:
        """Write names that are new or changed."""
        new = []
        for t_ns, tid, name_id in named:
            if self._names.get(tid) != name_id:
                self._names[tid] = name_id
                new.append((t_ns, self._processes.get(tid, tid), tid, name_id))
        if new:
            columns = zip(("ts_ns", "pid", "tid", "name_id"), zip(*new, strict=True), strict=True)
            self._writer.append("tasks", {name: np.array(values) for name, values in columns})
