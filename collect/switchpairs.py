"""Switches to and from a thread alternate: checks that they do, and puts in those that were not reported.

    of one thread   to  from  to  from  [to]  from        a switch to it is missing when it is switched from
    perf's records    ^         ^         ^               twice; where perf saw it on its CPU, it is put in

Unit of work: rows in order of time, of switches and `SEEN_IN`. Of what is put in, the time is perf's, about a
microsecond late; the priority is the thread's last; the state of the other thread is not told, unless it is
the idle task, which can always run.
"""

import numpy as np
import numpy.typing as npt

from kdtool.collect.seenswitches import IDLE_TID, SEEN_IN
from kdtool.collect.threads import PID_LIMIT, Lifetimes
from kdtool.collect.tracestream import Rows
from kdtool.traces import UNTOLD, SchedEvent

__all__ = ["SwitchPairs"]

NOTHING, TO, FROM = 0, 1, 2
"""Of a thread's last switch. Nothing follows from none, nor from one by a dead thread: when a process execs
in another thread, that one takes over the id of the first."""
DEAD = (0x10, 0x20)
"""`state` of a thread that is switched from for the last time: X or Z."""
NO_PRIO = NO_CPU = -1
CAN_RUN = 0
TELL_PRIO = (SchedEvent.SWITCH, SchedEvent.WAKING, SchedEvent.WAKEUP, SchedEvent.MIGRATE)
"""Events with the priority of `next_tid`."""

Ints = npt.NDArray[np.int64]


class SwitchPairs:
    """Follows the scope's threads on and off their CPUs.

    put_in : switches that were put in
    seen_again : rows of SEEN_IN that told nothing new, or of others' threads
    unpaired : switches that are missing: to a thread that runs already, or from one that does not
    """

    def __init__(self, lifetimes: Lifetimes) -> None:
        self._lifetimes = lifetimes
        self._last = np.zeros(PID_LIMIT + 1, np.int8)
        self._prio = np.full(PID_LIMIT + 1, NO_PRIO, np.int16)
        self.put_in = self.seen_again = self.unpaired = 0

    def facts(self) -> dict[str, int]:
        """Return the counts."""
        return {"put_in": self.put_in, "seen_again": self.seen_again, "unpaired": self.unpaired}

    def complete(self, rows: Rows) -> Rows:
        """Return the rows without SEEN_IN, and with the switches that were missing."""
        seen = rows["event"] == SEEN_IN
        missing = self._follow(rows, seen)
        if len(missing):
            rows["prio"][missing] = self._find_prios(rows, missing)
            rows["event"][missing] = SchedEvent.SWITCH
            rows["target_cpu"][missing] = NO_CPU
            rows["state"][missing] = np.where(rows["tid"][missing] == IDLE_TID, CAN_RUN, UNTOLD)
        self._learn_prios(rows)
        self.put_in += len(missing)
        self.seen_again += int(seen.sum()) - len(missing)
        seen[missing] = False
        return rows[~seen] if seen.any() else rows

    def _follow(self, rows: Rows, seen: npt.NDArray[np.bool_]) -> Ints:
        """Count switches that are missing, and return the rows of `seen` to put in for others."""
        switched = np.flatnonzero(rows["event"] == SchedEvent.SWITCH)
        to = np.flatnonzero((rows["event"] == SchedEvent.SWITCH) | seen)
        at = np.concatenate((to, switched))
        tids = np.concatenate((rows["next_tid"][to], rows["tid"][switched]))
        way = np.repeat(np.array([TO, FROM], np.int8), (len(to), len(switched)))
        mine = self._lifetimes.owns(tids, rows["ts_ns"][at])
        at, tids, way = at[mine], tids[mine], way[mine]
        order = np.lexsort((at, tids))
        at, tids, way = at[order], tids[order], way[order]
        dead = (way == FROM) & np.isin(rows["state"][at], DEAD)
        before = self._before(tids, np.where(dead, np.int8(NOTHING), way))
        by_perf = seen[at]
        self.unpaired += int((~by_perf & (before == way)).sum())
        missing: Ints = at[by_perf & (before != TO)]
        return missing

    def _before(self, tids: npt.NDArray[np.int32], left: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Return what the switch before left, and keep what each thread's last one leaves."""
        first = np.ones(len(tids), bool)
        first[1:] = tids[1:] != tids[:-1]
        before = np.concatenate((left[:1], left[:-1]))
        before[first] = self._last[tids[first]]
        final = np.append(first[1:], True)[: len(tids)]
        self._last[tids[final]] = left[final]
        return before

    def _find_prios(self, rows: Rows, missing: Ints) -> npt.NDArray[np.int16]:
        """Return for each missing switch the priority that its thread had when it was last told."""
        telling = np.flatnonzero(np.isin(rows["event"], TELL_PRIO))
        keys = np.sort(_key(rows, telling))
        wanted = _key(rows, missing)
        found = np.maximum(np.searchsorted(keys, wanted) - 1, 0)
        tids = rows["next_tid"][missing]
        kept: npt.NDArray[np.int16] = self._prio[tids]
        if not len(keys):
            return kept
        told = keys[found]
        same = (told >> 32 == tids) & (told < wanted)
        found_prios: npt.NDArray[np.int16] = np.where(same, rows["prio"][told & 0xFFFF_FFFF], kept)
        return found_prios

    def _learn_prios(self, rows: Rows) -> None:
        telling = rows[np.isin(rows["event"], TELL_PRIO)]
        self._prio[np.maximum(telling["next_tid"], 0)] = telling["prio"]


def _key(rows: Rows, at: Ints) -> Ints:
    """Return numbers in the order of threads and, of one thread, of rows."""
    keys: Ints = rows["next_tid"][at].astype(np.int64) << 32 | at
    return keys
