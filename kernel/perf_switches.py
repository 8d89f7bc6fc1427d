"""Switches to tasks as perf reports them: a record when a task is on its CPU, whatever tracepoints say.

    PERF_RECORD_SWITCH_CPU_WIDE (48 bytes)  header | prev or next pid,tid | pid,tid | time | cpu | id

A second source beside the tracepoint sched_switch: it is written by perf_event_task_sched_in() of
kernel/events/core.c, about a microsecond after the tracepoint. Unit of work: the records of one CPU's ring.
Not here: switches away, of which the ring has a record as well.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from kdtool.kernel.fault_events import ring_share
from kdtool.kernel.perf import SWITCHES, Event, Ring

__all__ = ["SWITCH_IN", "PerfSwitches", "decode_switches"]

SWITCH_CPU_WIDE = 15
"""PERF_RECORD_SWITCH_CPU_WIDE."""
MISC_SWITCH_OUT = 1 << 13
RECORD_WORDS = 6
SWITCH_IN = np.dtype([("t_ns", "i8"), ("tid", "i4"), ("prev_tid", "i4"), ("cpu", "i2")])

Words = npt.NDArray[np.uint64]


class PerfSwitches:
    """Records switches to all tasks of some CPUs. CapabilityError, with what to do, where perf is refused."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._events: list[Event] = []
        self._rings: list[Ring] = []
        with ExitStack() as stack:
            stack.callback(self.close)
            for cpu in cpus:
                self._events.append(Event(SWITCHES, None, cpu))
                self._rings.append(Ring(self._events[-1], ring_share(len(cpus), None)))
            stack.pop_all()

    @property
    def lost(self) -> int:
        """Return how many records found no room in a ring."""
        return sum(event.read().lost for event in self._events)

    def start(self) -> None:
        """Begin to record."""
        for event in self._events:
            event.enable()

    def stop(self) -> None:
        """Stop recording; what the rings hold stays."""
        for event in self._events:
            event.disable()

    def drain(self) -> npt.NDArray[np.void]:
        """Return the switches to tasks that the rings hold (dtype SWITCH_IN), each CPU's in order of time."""
        blocks = [block for ring in self._rings if (block := ring.drain()) is not None]
        return np.concatenate([np.empty(0, SWITCH_IN), *map(decode_switches, blocks)])

    def close(self) -> None:
        """Take rings and events down."""
        while self._rings:
            self._rings.pop().close()
        while self._events:
            self._events.pop().close()


def decode_switches(words: Words) -> npt.NDArray[np.void]:
    """Return the switches to tasks among the records of a block, as SWITCH_IN.

    ValueError if the block does not hold whole records: a bug, not a user's mistake.

    >>> header = 15 | 48 << 48
    >>> words = np.array([header, 7 | 7 << 32, 8 | 9 << 32, 1000, 1, 5], np.uint64)
    >>> decode_switches(words).tolist()
    [(1000, 9, 7, 1)]
    """
    runs: list[Words] = []
    at = 0
    while at < len(words):
        kinds = words[at::RECORD_WORDS] & np.uint64(0xFFFF_FFFF)
        others = np.flatnonzero(kinds != SWITCH_CPU_WIDE)
        n = int(others[0]) if len(others) else len(kinds)
        runs.append(words[at : at + n * RECORD_WORDS].reshape(n, RECORD_WORDS))
        at += n * RECORD_WORDS
        if at < len(words):  # one of another kind, such as of what was lost before it
            n_words = int(words[at]) >> 51
            if n_words == 0 or at + n_words > len(words):
                raise ValueError(f"perf record of {n_words} words at word {at} of {len(words)}")
            at += n_words
    records = np.concatenate([np.empty((0, RECORD_WORDS), np.uint64), *runs])
    into = records[records[:, 0] & np.uint64(MISC_SWITCH_OUT << 32) == 0]
    switches = np.empty(len(into), SWITCH_IN)
    switches["prev_tid"], switches["tid"] = into[:, 1] >> np.uint64(32), into[:, 2] >> np.uint64(32)
    switches["t_ns"], switches["cpu"] = into[:, 3], into[:, 4] & np.uint64(0xFFFF_FFFF)
    return switches
