"""Switches that the tracepoint does not report, by perf's records of switches.

    every CPU: did sched_switch report one from its idle task? --not on all--> perf's records --> rows

A virtual machine (Linux 6.18, nested paging by software) was seen on which the tracepoint is passed by,
whoever listens, when some tasks are switched from: one CPU's idle task, threads older than the recording.
perf's own records, which need no tracepoint, have those switches. Rows of `SEEN_IN` say that a thread is on
its CPU; `switchpairs.py` makes a switch of such as have none. Where every idle task is reported, as it should
be, nothing is recorded here.
"""

import os
import time

import numpy as np

from kdtool.collect.tracestream import Rows
from kdtool.kernel.perf_switches import PerfSwitches
from kdtool.kernel.tracefs import Instance

__all__ = ["SEEN_IN", "SeenSwitches", "unreported_cpus"]

SEEN_IN = 103
"""`event` of rows that say that a thread is on its CPU."""
SWITCH_EVENT = "sched:sched_switch"
IDLE_TID = 0
NAPS, NAP_S = 25, 0.0004
"""Of the probe, on each CPU: the first that makes it idle will do. 10 ms on one that others keep busy."""


class SeenSwitches:
    """Tells of switches to all threads on `cpus`; CapabilityError where perf is refused.

    dtype : of the rows, with fields ts_ns, event, cpu, tid (switched from) and next_tid
    """

    def __init__(self, cpus: list[int], dtype: np.dtype[np.void]) -> None:
        self.cpus = cpus
        self._switches = PerfSwitches(cpus)
        self._dtype = dtype
        self.start, self.stop, self.close = self._switches.start, self._switches.stop, self._switches.close

    @property
    def lost(self) -> int:
        """Return how many records found no room."""
        return self._switches.lost

    def drain(self) -> Rows:
        """Return the rows since the last call."""
        switches = self._switches.drain()
        rows = np.zeros(len(switches), self._dtype)
        rows["event"] = SEEN_IN
        columns = {"ts_ns": "t_ns", "cpu": "cpu", "tid": "prev_tid", "next_tid": "tid"}
        for column, field in columns.items():
            rows[column] = switches[field]
        return rows


def unreported_cpus() -> list[int]:
    """Return the CPUs of which sched_switch was not seen to report a switch from the idle task.

    Naps on every CPU in turn. One on which that cannot be seen (always busy, or not allowed to this process)
    is among them. CapabilityError where tracefs is refused.
    """
    allowed = os.sched_getaffinity(0)
    unseen = []
    with Instance(buffer_bytes=4096) as instance:
        instance.enable(SWITCH_EVENT, filter_by=f"prev_pid == {IDLE_TID}")
        instance.start()
        try:
            for number, cpu in enumerate(instance.cpus):
                if cpu not in allowed or not _seen(instance, number, cpu):
                    unseen.append(cpu)
        finally:
            os.sched_setaffinity(0, allowed)
    return unseen


def _seen(instance: Instance, number: int, cpu: int) -> bool:
    os.sched_setaffinity(0, {cpu})
    for _ in range(NAPS):
        time.sleep(NAP_S)
        if instance.stats()[number].counted:
            return True
    return False
