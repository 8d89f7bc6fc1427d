"""The figures of `sched`: switches, wakings and moves, how long threads waited and ran.

Run-queue latency: from a thread's waking to its next switch in. It waited then, unless it was still on its
CPU when it was woken and went on; such a waking is followed by a switch from it in a runnable state, or by
none. So of each thread's rows without those switches from it by which it went to sleep, a switch to it right
after a waking of it is a sample.
On-CPU time: from a switch to a thread to the next switch on that CPU. Where that one says that another thread
ran, one between was not seen, and nothing is counted. Of threads that `tasks` names, where it names any: rows
tell of others only when they meet one of the workload's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.traces.info.base import About
from kdtool.traces.info.counts import Sums
from kdtool.traces.info.histogram import Histogram
from kdtool.traces.info.timeline import Timeline
from kdtool.traces.io import Columns
from kdtool.traces.schema import PREEMPTED, SchedEvent

__all__ = ["OnCpu", "SchedFigures"]

Arrays = dict[str, npt.NDArray[Any]]

EVENTS = {
    "switches": SchedEvent.SWITCH,
    "wakings": SchedEvent.WAKING,
    "wakeups": SchedEvent.WAKEUP,
    "migrations": SchedEvent.MIGRATE,
    "forks": SchedEvent.FORK,
    "exits": SchedEvent.EXIT,
}
RUNNABLE = (0, PREEMPTED)
IDLE = 0


class SchedFigures:
    """Figures of scheduling."""

    columns = ("ts_ns", "cpu", "event", "tid", "next_tid", "state")

    def __init__(self, about: About) -> None:
        self._who = about.who
        self._events, self._tids, self._cpus = Sums(), Sums(), Sums()
        self._left = self._preempted = 0
        self._waits, self._on_cpu = RunQueue(), OnCpu(about.who.threads)
        self._over_time = Timeline(about.span)

    def add(self, rows: Columns) -> None:
        """Take in the next events."""
        self._events.count(rows["event"])
        self._over_time.add(rows["ts_ns"])
        switches = _where(rows, rows["event"] == SchedEvent.SWITCH)
        left = self._on_cpu.count(switches["tid"])
        self._left += int(left.sum())
        self._preempted += int(np.isin(switches["state"][left], RUNNABLE).sum())
        self._waits.add(rows)
        for runs in self._on_cpu.add(switches):
            self._tids.add(runs["tid"], runs["end_ns"] - runs["start_ns"])
            self._cpus.add(runs["cpu"], runs["end_ns"] - runs["start_ns"])

    def document(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            **{name: self._events[event] for name, event in EVENTS.items()},
            "switched_out": self._left,
            "preempted": self._preempted,
            "runqueue_ns": self._waits.histogram.document(),
            "on_cpu_ns": self._cpus.total,
            "cpus": [{"cpu": cpu, "on_cpu_ns": n} for cpu, n in self._cpus.items()],
            "threads": len(self._tids),
            "top_threads": self._who.top("tid", self._tids, "on_cpu_ns"),
            "over_time": self._over_time.document(),
        }


class RunQueue:
    """Run-queue latencies. State: the waking of each thread that waits."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._woken: Arrays = {"tid": np.empty(0, np.int32), "ts_ns": np.empty(0, np.int64)}

    def add(self, rows: Columns) -> None:
        """Take in the next rows."""
        event = rows["event"]
        switch, waking = event == SchedEvent.SWITCH, event == SchedEvent.WAKING
        left = np.flatnonzero(switch & np.isin(rows["state"], RUNNABLE))
        done_to = np.flatnonzero(switch | waking)
        # A row that switches between two threads says something of both: first that one left, then that
        # the other came.
        at = np.concatenate([left, done_to])
        tids = np.concatenate([self._woken["tid"], rows["tid"][left], rows["next_tid"][done_to]])
        t_ns = np.concatenate([self._woken["ts_ns"], rows["ts_ns"][at]])
        n_old = len(self._woken["tid"])
        woke = np.concatenate([np.ones(n_old, bool), np.zeros(len(left), bool), waking[done_to]])
        came = np.concatenate([np.zeros(n_old + len(left), bool), switch[done_to]])
        order = np.lexsort((np.concatenate([np.full(n_old, -1), at]), tids))
        tids, t_ns, woke, came = tids[order], t_ns[order], woke[order], came[order]
        waited = (tids[1:] == tids[:-1]) & woke[:-1] & came[1:] & (tids[1:] != IDLE)
        latencies = (t_ns[1:] - t_ns[:-1])[waited]
        self.histogram.add(latencies[latencies >= 0])
        last = np.append(tids[1:] != tids[:-1], True)[: len(tids)] & woke
        self._woken = {"tid": tids[last], "ts_ns": t_ns[last]}


class OnCpu:
    """Stretches for which a thread ran. State: the last switch of each CPU.

    threads : those that count; all where there are none
    """

    columns = ("ts_ns", "cpu", "tid", "next_tid")

    def __init__(self, threads: Mapping[int, int]) -> None:
        self._threads = np.array(sorted(threads), np.int64)
        dtypes = (np.int64, np.int16, np.int32, np.int32)
        self._last: Arrays = {
            name: np.empty(0, dtype) for name, dtype in zip(self.columns, dtypes, strict=True)
        }

    def count(self, tids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which threads count; an idle task never does."""
        counted: npt.NDArray[np.bool_] = tids != IDLE
        if len(self._threads):
            counted &= np.isin(tids, self._threads)
        return counted

    def add(self, switches: Columns) -> list[Arrays]:
        """Take in the next switches and return the stretches that end in them, in a list of one or none.

        A stretch is cpu, tid, start_ns and end_ns.
        """
        rows = {name: np.concatenate([old, switches[name]]) for name, old in self._last.items()}
        order = np.argsort(rows["cpu"], kind="stable")
        rows = {name: values[order] for name, values in rows.items()}
        same = rows["cpu"][1:] == rows["cpu"][:-1]
        ran = rows["next_tid"][:-1]
        start_ns, end_ns = rows["ts_ns"][:-1], rows["ts_ns"][1:]
        seen = same & (ran == rows["tid"][1:]) & self.count(ran) & (start_ns >= 0) & (end_ns >= start_ns)
        last = np.append(~same, True)[: len(rows["cpu"])]
        self._last = {name: values[last] for name, values in rows.items()}
        stretches = {"cpu": rows["cpu"][1:], "tid": ran, "start_ns": start_ns, "end_ns": end_ns}
        return [_where(stretches, seen)] if seen.any() else []


def _where(rows: Columns, chosen: npt.NDArray[np.bool_]) -> Arrays:
    return {name: values[chosen] for name, values in rows.items()}
