"""From the rings to rows in order: one thread drains, one decodes, merges the CPUs and writes.

    rings (a CPU each) --drain--> blocks, so many at most --decode--> faults --held back 1 s--> in order

Every occurrence is accounted for: the kernel's count of each event is rows + lost, where lost is what found
no room in a ring, plus what came so late that its second was written. When the writer cannot keep up, blocks
are not drained, rings fill up and the kernel counts what it loses: memory stays bounded.
"""

import queue
import select
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.collect.base import Progress
from kdtool.collect.mappings import Mappings, read_maps
from kdtool.collect.tasknames import TaskNames
from kdtool.errors import TraceError
from kdtool.kernel.fault_events import CPU, FAULT_WORDS, IP, PAGE, TASK, TIME, Block, FaultEvents
from kdtool.kernel.perf_records import Side
from kdtool.traces import TraceWriter

__all__ = ["FaultStream"]

POLL_MS = 20
HOLD_NS = 1_000_000_000
"""How long before a drain a row is surely out of its CPU's hands: longer than a hypervisor stops a CPU."""
FLUSH_NS = 500_000_000
"""Rows are written at least so often, so that little is gone when the recorder is killed."""
WRITE_ROWS = 1_000_000
"""Rows are written earlier when so many wait: 40 MB."""
BACKLOG_BLOCKS = 64
"""Blocks that may wait to be decoded: each at most a ring."""
LOW_32 = np.uint64(0xFFFF_FFFF)
HALF, ONE = np.uint64(32), np.uint64(1)

Words = npt.NDArray[np.uint64]


class FaultStream:
    """Records the faults that `events` bring into `writer`; it owns the events from now on."""

    def __init__(self, events: FaultEvents, writer: TraceWriter, about: Mapping[str, Any]) -> None:
        self._events, self._writer, self._about = events, writer, about
        self._mappings, self._names = Mappings(), TaskNames()
        self._blocks: queue.Queue[Block | int | None] = queue.Queue(BACKLOG_BLOCKS)
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._held: list[Words] = []
        self._side: list[Side] = []
        self._written_ns = 0
        self.environment: Mapping[str, str] = {}
        self.rows = self.late = self.lost_in_ring = 0
        works = (self._drain, self._write)
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in works]

    def start(self, pids: Sequence[int]) -> None:
        """Begin to count, with what `pids` have mapped now as the first rows of `vmas`."""
        t_ns = time.monotonic_ns()
        self._events.enable(pids)
        for pid in pids:
            self._names.add_process(t_ns, pid)
            for row in read_maps(pid, t_ns):
                self._mappings.add(pid, row)
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what a thread failed with."""
        if self._error is not None:
            raise self._error

    def progress(self) -> Progress:
        """Return the rows written and the faults lost so far."""
        return Progress(self.rows, self._events.faults().lost + self.late)

    def finish(self) -> None:
        """Stop counting, write all rows that are left and the losses.

        Raises TraceError when rows and losses do not add up to what the kernel counted.
        """
        self._events.disable()
        self._join()
        self.check()
        faults = self._events.faults()
        self.lost_in_ring = faults.lost
        if faults.counted != self.rows + self.late + faults.lost:
            raise TraceError(
                f"{faults.counted} faults counted, {self.rows} recorded, {faults.lost} lost in rings, "
                f"{self.late} late: events vanished unseen: record it again"
            )
        self._writer.lose("faults", self.late + faults.lost)
        side_lost = self._events.side().lost  # of mappings and names together: it cannot be told which
        self._writer.lose("vmas", side_lost)
        self._writer.lose("tasks", 0)

    def facts(self) -> dict[str, Any]:
        """Return the events and their way here, the size of a ring, and what was lost where."""
        return {
            "events": ["page-faults-maj", "page-faults-min"],
            "path": self._events.path,
            "ring_bytes": self._events.ring_bytes,
            "lost_in_ring": self.lost_in_ring,
            "late": self.late,
            **self._about,
        }

    def close(self) -> None:
        """Take events, rings and threads down."""
        self._stopping.set()
        self._join()
        self._events.close()

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

    def _drain(self) -> None:
        """Empty the rings until told to stop, and once more after that."""
        poll = select.poll()
        for fd in self._events.fds():
            poll.register(fd, select.POLLIN)
        while not self._stopping.is_set():
            poll.poll(POLL_MS)
            self._drain_once()
        self._drain_once()
        self._put(None)

    def _drain_once(self) -> None:
        """Queue what every ring holds, and then the time before which nothing is left in them."""
        before_ns = time.monotonic_ns()
        blocks = self._events.drain()
        for block in blocks:
            self._put(block)
        if blocks:
            self._put(before_ns)

    def _put(self, item: Block | int | None) -> None:
        """Queue an item, waiting for room as long as anybody makes some."""
        while self._error is None:
            try:
                self._blocks.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _take(self) -> Block | int | None:
        """Return the next item; None after the last, and when the other thread has failed."""
        while self._error is None:
            try:
                return self._blocks.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def _write(self) -> None:
        """Decode blocks until the last; write when it is time, or enough rows wait."""
        held, flushed_ns = 0, 0
        while (item := self._take()) is not None:
            if isinstance(item, int):
                if held >= 2 * WRITE_ROWS or item - flushed_ns >= FLUSH_NS:
                    held, flushed_ns = self._flush(item - HOLD_NS), item
                continue
            faults, side = self._events.decode(item)
            self._held.append(faults)
            self._side += side
            held += len(faults) + len(side)
        if self._error is None:
            self._flush(None)

    def _flush(self, until_ns: int | None) -> int:
        """Write what is held up to a time (None: all) in order of time; return how much stays held."""
        self._side.sort(key=_time)
        n_side = len(self._side) if until_ns is None else bisect_left(self._side, until_ns, key=_time)
        for record in self._side[:n_side]:
            self._mappings.follow(record)
            self._names.follow(record)
        self._mappings.write(self._writer)
        self._names.write(self._writer)
        del self._side[:n_side]
        faults = np.concatenate(self._held) if self._held else np.empty((0, FAULT_WORDS), np.uint64)
        times = faults[:, TIME].astype(np.int64)
        if not np.all(times[1:] >= times[:-1]):
            order = np.argsort(times, kind="stable")
            faults, times = faults[order], times[order]
        first = int(np.searchsorted(times, self._written_ns))
        end = len(times) if until_ns is None else max(first, int(np.searchsorted(times, until_ns)))
        self.late += first
        self._append(faults[first:end])
        self._held = [faults[end:]]
        if end > first:
            self._written_ns = int(times[end - 1])
        return len(times) - end + len(self._side)

    def _append(self, faults: Words) -> None:
        if not len(faults):
            return
        columns = {
            "ts_ns": faults[:, TIME].astype(np.int64),
            "pid": (faults[:, TASK] >> HALF).astype(np.int32),
            "tid": (faults[:, TASK] & LOW_32).astype(np.int32),
            "cpu": faults[:, CPU].astype(np.int16),
            "vpn": faults[:, PAGE] >> ONE,
            "ip": faults[:, IP].copy(),
            "major": (faults[:, PAGE] & ONE).astype(bool),
        }
        self._writer.append("faults", columns)
        self.rows += len(faults)


def _time(record: Side) -> int:
    return record.t_ns
