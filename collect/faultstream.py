"""From perf's rings to rows in order: one thread drains, one decodes, merges the CPUs and writes.

    rings (a CPU each) --drain--> blocks --split--> samples --hold back 1 s--> sorted by time --> writer

Unit of work: a block of whole records. Every occurrence is accounted for: the kernel's count of each event is
rows + lost, where lost is what found no room in a ring, plus what came so late that its second was written.
"""

import queue
import select
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.collect.base import Progress
from kdtool.collect.mappings import Mappings, read_maps
from kdtool.errors import TraceError
from kdtool.kernel.fault_events import FaultEvents
from kdtool.kernel.perf import DUMMY, PAGE_FAULTS_MAJ, PAGE_FAULTS_MIN
from kdtool.kernel.perf_records import Side, split_records
from kdtool.traces import TraceWriter

__all__ = ["FaultStream"]

POLL_MS = 50
HOLD_NS = 1_000_000_000
"""How long before a drain a row is surely out of its CPU's hands: longer than a hypervisor stops a CPU."""
WRITE_ROWS = 1_000_000
"""Rows a segment: 56 MB in memory, about 4 MB on disk."""
ID, IP, PID_TID, TIME, ADDRESS, CPU = range(1, 7)
PAGE_SHIFT = 12
LOW_32 = np.uint64(0xFFFF_FFFF)

Words = npt.NDArray[np.uint64]


class FaultStream:
    """Records the page faults of the tasks in the cgroup directory `cgroup` into `writer`.

    buffer_bytes : of each CPU's ring, a power of two of pages; None: as `fault_events.py` chooses
    """

    def __init__(self, cgroup: Path, writer: TraceWriter, buffer_bytes: int | None = None) -> None:
        self._writer = writer
        self._mappings = Mappings()
        self._blocks: queue.SimpleQueue[Words | int | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._held: list[Words] = []
        self._side: list[Side] = []
        self._written_ns = 0
        self.environment: Mapping[str, str] = {}
        self.rows = self.late = self.counted = self.lost_in_ring = 0
        works = (self._drain, self._write)
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in works]
        self._perf = FaultEvents(cgroup, buffer_bytes)
        self.ring_bytes = self._perf.ring_bytes

    def start(self, pids: Sequence[int]) -> None:
        """Begin to count, with what `pids` have mapped now as the first rows of `vmas`."""
        t_ns = time.monotonic_ns()
        self._perf.enable()
        for pid in pids:
            for row in read_maps(pid, t_ns):
                self._mappings.add(pid, row)
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what a thread failed with."""
        if self._error is not None:
            raise self._error

    def progress(self) -> Progress:
        """Return the rows written and the samples lost so far."""
        lost = self._perf.counts(PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ).lost
        return Progress(self.rows, lost + self.late)

    def facts(self) -> dict[str, Any]:
        """Return the events, the size of a ring, and what was lost where."""
        return {
            "events": ["page-faults-maj", "page-faults-min"],
            "path": "perf",
            "ring_bytes": self.ring_bytes,
            "lost_in_ring": self.lost_in_ring,
            "late": self.late,
        }

    def finish(self) -> None:
        """Stop counting, write all rows that are left and the losses.

        Raises TraceError when rows and losses do not add up to what the kernel counted.
        """
        self._perf.disable()
        self._join()
        self.check()
        faults = self._perf.counts(PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ)
        self.counted, self.lost_in_ring = faults.counted, faults.lost
        if self.counted != self.rows + self.late + self.lost_in_ring:
            raise TraceError(
                f"{self.counted} faults counted, {self.rows} recorded, {self.lost_in_ring} lost in rings, "
                f"{self.late} late: events vanished unseen: record it again"
            )
        self._writer.lose("faults", self.counted - self.rows)
        self._writer.lose("vmas", self._perf.counts(DUMMY).lost)

    def close(self) -> None:
        """Take events, rings and threads down."""
        self._join()
        self._perf.close()

    def _join(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # kept for the thread that records, which raises it
            self._error = self._error or error
            self._stopping.set()
            self._blocks.put(None)

    def _drain(self) -> None:
        """Empty the rings until told to stop, and once more after that."""
        poll = select.poll()
        for event in self._perf.events:
            poll.register(event.fd, select.POLLIN)
        while not self._stopping.is_set():
            poll.poll(POLL_MS)
            self._drain_once()
        self._drain_once()
        self._blocks.put(None)

    def _drain_once(self) -> None:
        """Queue what every ring holds, and then the time before which nothing is left in them."""
        before_ns = time.monotonic_ns()
        blocks = [words for ring in self._perf.rings if (words := ring.drain()) is not None]
        for words in blocks:
            self._blocks.put(words)
        if blocks:
            self._blocks.put(before_ns)

    def _write(self) -> None:
        """Decode blocks until the last; write whenever enough rows are old enough."""
        held = 0
        while (item := self._blocks.get()) is not None:
            if isinstance(item, int):
                held = held if held < 2 * WRITE_ROWS else self._flush(item - HOLD_NS)
                continue
            samples, others = split_records(item)
            self._held.append(samples)
            self._side += others
            held += len(samples) + len(others)
        self._flush(None)

    def _flush(self, until_ns: int | None) -> int:
        """Write what is held up to a time (None: all) in order of time; return how much stays held."""
        self._side.sort(key=_time)
        n_side = len(self._side) if until_ns is None else bisect_left(self._side, until_ns, key=_time)
        for record in self._side[:n_side]:
            self._mappings.follow(record)
        self._mappings.write(self._writer)
        del self._side[:n_side]
        samples = np.concatenate(self._held) if self._held else np.empty((0, 7), np.uint64)
        times = samples[:, TIME].astype(np.int64)
        late = times < self._written_ns
        self.late += int(late.sum())
        ready = ~late if until_ns is None else ~late & (times < until_ns)
        rows = samples[ready][np.argsort(times[ready], kind="stable")]
        self._held = [samples[~ready & ~late]]
        self._append(rows)
        if len(rows):
            self._written_ns = int(rows[-1, TIME])
        return len(self._held[0]) + len(self._side)

    def _append(self, rows: Words) -> None:
        majors = [event.id for event in self._perf.events if event.config == PAGE_FAULTS_MAJ]
        columns = {
            "ts_ns": rows[:, TIME].astype(np.int64),
            "pid": (rows[:, PID_TID] & LOW_32).astype(np.int32),
            "tid": (rows[:, PID_TID] >> np.uint64(32)).astype(np.int32),
            "cpu": (rows[:, CPU] & LOW_32).astype(np.int16),
            "vpn": rows[:, ADDRESS] >> np.uint64(PAGE_SHIFT),
            "ip": rows[:, IP],
            "major": np.isin(rows[:, ID], np.array(majors, np.uint64)),
        }
        self._writer.append("faults", columns)
        self.rows += len(rows)


def _time(record: Side) -> int:
    return record.t_ns
