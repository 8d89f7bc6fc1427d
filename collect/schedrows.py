"""From records of the scheduler's tracepoints to rows of `sched` and `tasks`.

Unit of work: the records of one CPU (`decode`), and then rows of all CPUs in order of time (`write`), where
it is known which threads are the scope's. A record makes one row, or is not the scope's, or tells of a
thread: that it was made (task_newtask) or renamed (task_rename).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdtool.collect.switchpairs import SwitchPairs
from kdtool.collect.threadrows import NEWTASK, RENAME, ThreadRows
from kdtool.collect.threads import own_threads
from kdtool.collect.tracestream import Rows, rows_of
from kdtool.errors import TraceError
from kdtool.kernel.event_format import EventFormat
from kdtool.kernel.trace_ring import Records
from kdtool.kernel.tracefs import Instance
from kdtool.traces import PREEMPTED, SchedEvent, TraceWriter

__all__ = ["ROW", "SchedRows"]

ROW = np.dtype(
    [
        ("ts_ns", "i8"),
        ("tid", "i4"),
        ("next_tid", "i4"),
        ("prio", "i4"),
        ("cpu", "i2"),
        ("target_cpu", "i2"),
        ("event", "u1"),
        ("state", "u1"),
        ("name_id", "u4"),
    ]
)
IN_INTERRUPT = 0x08 | 0x10 | 0x40
"""`common_flags`: hard interrupt, soft interrupt, NMI (enum trace_flag_type)."""
NONE = -1

# Event and, for tid, next_tid, prio, target_cpu, the field of each tracepoint; None: there is none.
SHAPES: dict[str, tuple[int, str, str | None, str | None, str | None]] = {
    "sched_switch": (SchedEvent.SWITCH, "prev_pid", "next_pid", "next_prio", None),
    "sched_waking": (SchedEvent.WAKING, "common_pid", "pid", "prio", "target_cpu"),
    "sched_wakeup": (SchedEvent.WAKEUP, "common_pid", "pid", "prio", "target_cpu"),
    "sched_wakeup_new": (SchedEvent.WAKEUP, "common_pid", "pid", "prio", "target_cpu"),
    "sched_migrate_task": (SchedEvent.MIGRATE, "common_pid", "pid", "prio", "dest_cpu"),
    "sched_process_fork": (SchedEvent.FORK, "parent_pid", "child_pid", None, None),
    "sched_process_exit": (SchedEvent.EXIT, "pid", None, "prio", None),
}


class SchedRows:
    """Decodes and writes; CapabilityError when a tracepoint lacks a field that is needed.

    rows : written to `sched`
    foreign : records that are not the scope's
    threads : what the records say of threads
    pairs : what was missing between the switches
    """

    def __init__(self, formats: Sequence[EventFormat], writer: TraceWriter) -> None:
        self._writer = writer
        self._own: set[int] = set()
        self.threads = ThreadRows(writer)
        self.pairs = SwitchPairs(self.threads.lifetimes)
        self.rows = self.foreign = 0
        for fmt in formats:
            if not self.threads.knows(fmt):
                needed = [field for field in SHAPES[fmt.name][1:] if field is not None]
                fmt.require("common_pid", "common_flags", *needed)

    def decode(self, instance: Instance, cpu: int, records: Records) -> Rows:
        """Return a row for each record that a CPU wrote, in the same order."""
        rows = rows_of(instance, records, ROW, self._fill)
        rows["cpu"] = cpu
        return rows

    def write(self, rows: Rows) -> None:
        """Write rows that are in order of time."""
        about = (rows["event"] == NEWTASK) | (rows["event"] == RENAME)
        self.threads.learn(rows[about], int(rows["ts_ns"][-1]))
        if about.any():
            rows = rows[~about]
        rows = self.pairs.complete(rows)
        ours = self._are_ours(rows)
        if not ours.all():
            self.foreign += int((~ours).sum())
            rows = rows[ours]
        if len(rows):
            self._writer.append("sched", {name: rows[name] for name in ROW.names or () if name != "name_id"})
            self.rows += len(rows)

    def facts(self) -> dict[str, int]:
        """Return what became of the records that made no row, and the switches that do not pair."""
        return {"foreign": self.foreign, "told": self.threads.told, **self.pairs.facts()}

    def balance(self, decoded: int) -> None:
        """Raise TraceError unless every record became a row, was foreign, or told what is known."""
        self.threads.learn(np.empty(0, ROW), None)
        told = self.threads.told + self.pairs.seen_again
        if decoded != self.rows + self.foreign + told:
            raise TraceError(
                f"{decoded} records decoded, {self.rows} rows, {self.foreign} not of the scope, {told} "
                f"of threads: records vanished: record it again"
            )

    def _fill(self, fmt: EventFormat, records: Records, at: npt.NDArray[np.int64], rows: Rows) -> None:
        """Fill in the rows `at` which a record of one tracepoint is."""
        if self.threads.knows(fmt):
            self.threads.fill(fmt, records, at, rows)
            return
        buffer, starts = records.buffer, records.starts[at]
        event, *fields = SHAPES[fmt.name]
        rows["event"][at] = event
        for column, field in zip(("tid", "next_tid", "prio", "target_cpu"), fields, strict=True):
            rows[column][at] = NONE if field is None else fmt.numbers(buffer, starts, field)
        if event == SchedEvent.SWITCH:
            state = fmt.numbers(buffer, starts, "prev_state")
            rows["state"][at] = np.where(state > 0xFF, PREEMPTED, state & 0xFF)
        elif event in (SchedEvent.WAKING, SchedEvent.WAKEUP, SchedEvent.MIGRATE):
            rows["state"][at] = fmt.numbers(buffer, starts, "common_flags") & IN_INTERRUPT != 0

    def _are_ours(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which rows are events of the scope's threads.

        Switches were selected by the kernel. Wakings are those of our threads, and by them, but not by an
        interrupt that struck while one ran; migrations are those of our threads, forks and exits by them.
        """
        self._own |= own_threads()
        event, owns = rows["event"], self.threads.lifetimes.owns
        done_to = owns(np.maximum(rows["next_tid"], 0), rows["ts_ns"])
        done_by = owns(rows["tid"], rows["ts_ns"]) & (rows["state"] == 0)
        waking = (event == SchedEvent.WAKING) | (event == SchedEvent.WAKEUP)
        end = (event == SchedEvent.FORK) | (event == SchedEvent.EXIT)
        recorder = np.isin(rows["next_tid"], np.array(sorted(self._own)))
        ours: npt.NDArray[np.bool_] = np.select(
            [event == SchedEvent.SWITCH, end, waking],
            [np.ones(len(rows), bool), done_by, (done_to | done_by) & ~recorder],
            done_to,
        )
        return ours
