"""The rows of `tasks` in a recording: what a thread was called when it began, and what it is called since."""

from pathlib import Path

import numpy as np

from kdtool.kernel.perf_records import Comm, Fork, Side
from kdtool.traces import TraceWriter

__all__ = ["TaskNames"]


class TaskNames:
    """Turns side records, in order of time, into rows of `tasks`; a new thread has its parent's name."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._pending: list[tuple[int, int, int, str]] = []

    def add(self, t_ns: int, pid: int, tid: int, name: str) -> None:
        """Take a thread's name; one that it has already says nothing."""
        if self._names.get(tid) != name:
            self._names[tid] = name
            self._pending.append((t_ns, pid, tid, name))

    def add_process(self, t_ns: int, pid: int) -> None:
        """Take the names of all threads that process `pid` has now."""
        for file in Path(f"/proc/{pid}/task").glob("*/comm"):
            try:
                name = file.read_text(errors="surrogateescape").rstrip("\n")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            self.add(t_ns, pid, int(file.parent.name), name)

    def follow(self, record: Side) -> None:
        """Take a side record."""
        if isinstance(record, Comm):
            self.add(record.t_ns, record.pid, record.tid, record.name)
        elif isinstance(record, Fork) and record.parent_tid in self._names:
            self._names.pop(record.tid, None)  # the number may have been another thread's
            self.add(record.t_ns, record.pid, record.tid, self._names[record.parent_tid])

    def write(self, writer: TraceWriter) -> None:
        """Append what came since the last time."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        t_ns, pids, tids, names = zip(*pending, strict=True)
        columns = {
            "ts_ns": np.array(t_ns, np.int64),
            "pid": np.array(pids, np.int32),
            "tid": np.array(tids, np.int32),
            "name_id": np.array([writer.name_id(name) for name in names], np.uint32),
        }
        writer.append("tasks", columns)
