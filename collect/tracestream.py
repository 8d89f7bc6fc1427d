"""From tracefs' buffers to rows in order: one thread drains, decodes and merges the CPUs of some instances.

    per_cpu/cpu<n>/trace_pipe_raw --read--> records --decode--> rows --hold back--> sorted by time --> write

Unit of work: what a CPU's buffer holds. The sources say what a record is (`decode`) and where rows go
(`write`). Every occurrence is accounted for: what the kernel counted is what was decoded, plus what it could
not keep, plus what came so late that its second was written.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kdtool.collect.threads import check_pid_namespace
from kdtool.errors import TraceError
from kdtool.kernel.event_format import EventFormat
from kdtool.kernel.trace_ring import Records, RingReader
from kdtool.kernel.tracefs import CpuStats, Instance

__all__ = ["Beside", "Decode", "Fill", "Rows", "TraceStream", "Write", "probe_events", "rows_of"]

HOLD_NS = 500_000_000
"""How long before a drain a row is surely out of its CPU's hands, unless a hypervisor stops that CPU."""
FLUSH_NS = 500_000_000
"""With what is held back, a crash costs a second at most."""
MANY_ROWS = 4_000_000
"""Held rows (32 bytes each) above which less is held back, so that memory stays bounded."""
SHORT_HOLD_NS = 20_000_000
FILL_BYTES_S = 64e6
"""A CPU writes less than this in a second: 1.2 M switches."""
NICE = -15
"""Of the thread that drains: as many busy threads as there may be, its turn comes before a buffer is full."""
MIN_POLL_S, MAX_POLL_S = 0.005, 0.25

Rows = npt.NDArray[np.void]
"""A structured array with a field `ts_ns` (int64)."""
Decode = Callable[[Instance, int, Records], Rows]
"""Makes rows of the records that a CPU of an instance wrote."""
Fill = Callable[[EventFormat, Records, npt.NDArray[np.int64], Rows], None]
"""Fills in those rows (by their number) that records of one event are."""
Write = Callable[[Rows], None]
"""Takes rows in order of time; those of one call come after those of the calls before."""


class Beside(Protocol):
    """A source of rows of another kind, which are merged into those of the instances by time."""

    def start(self) -> None:
        """Begin to record."""

    def stop(self) -> None:
        """Stop recording."""

    def drain(self) -> Rows:
        """Return rows since the last call, of the same dtype."""

    def close(self) -> None:
        """Take it down."""


class TraceStream:
    """Drains instances, and what is beside them, in a thread of its own. It closes them.

    late : rows dropped since later ones had been written already
    lost : events that the buffers could not keep, as of about a second ago; exact after `finish`
    missed : sub-buffers before which the kernel marked events as missing
    decoded : records of each instance
    told_beside : rows of what is beside them
    """

    def __init__(
        self, instances: Sequence[Instance], decode: Decode, write: Write, beside: Sequence[Beside] = ()
    ) -> None:
        self._instances, self._decode, self._write, self._beside = instances, decode, write, beside
        self._readers: list[RingReader] = []
        self._held: list[Rows] = []
        self._written_ns = self._flushed_ns = 0
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._guard, name="tracestream")
        self.late = self.lost = self.missed = 0
        self.decoded = [0 for _ in instances]
        self.told_beside = 0
        self.stats: list[CpuStats] = []
        smallest = min(instance.buffer_bytes for instance in instances)
        self._poll_s = min(max(smallest / 2 / FILL_BYTES_S, MIN_POLL_S), MAX_POLL_S)
        try:
            for instance in instances:
                self._readers.append(RingReader(instance))
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Begin to record and to drain."""
        for source in self._sources():
            source.start()
        self._thread.start()

    def check(self) -> None:
        """Raise what the thread failed with."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Stop recording, write what is left and strike the balance.

        Raises TraceError when what was decoded and lost is not what the kernel counted.
        """
        for source in self._sources():
            source.stop()
        self._join()
        self.check()
        self.stats = [_total(instance) for instance in self._instances]
        self.lost = sum(stats.lost for stats in self.stats)
        for instance, stats, decoded in zip(self._instances, self.stats, self.decoded, strict=True):
            if stats.entries or decoded != stats.read:
                raise TraceError(
                    f"{instance.path.name}: {stats.counted} events counted, {decoded} decoded, {stats.lost} "
                    f"lost, {stats.entries} left: events vanished unseen: record it again"
                )

    def facts(self) -> dict[str, Any]:
        """Return the sizes of the buffers and what was lost where."""
        total = sum(self.stats, CpuStats())
        return {
            "path": "tracefs",
            "buffer_bytes": [instance.buffer_bytes for instance in self._instances],
            "events": [fmt.name for each in self._instances for fmt in each.formats.values()],
            "overrun": total.overrun,
            "commit_overrun": total.commit_overrun,
            "dropped": total.dropped,
            "late": self.late,
        }

    def close(self) -> None:
        """Take thread, readers and instances down."""
        self._join()
        for reader in self._readers:
            reader.close()
        self._readers = []
        for source in self._sources():
            source.close()

    def _sources(self) -> Sequence[Instance | Beside]:
        """Return them in the order in which they begin: an event is told by an instance, then beside it."""
        return [*self._instances, *self._beside]

    def _join(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _guard(self) -> None:
        try:
            self._work()
        except BaseException as error:  # kept for the thread that records, which raises it
            self._error = error

    def _work(self) -> None:
        """Drain until told to stop, and once more after that; write whenever enough time has passed."""
        with suppress(PermissionError):  # not root's: then it takes its turn as every thread does
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while not self._stopping.wait(self._poll_s):
            before_ns = time.monotonic_ns()
            self._drain(rest=False)
            many = sum(map(len, self._held)) > MANY_ROWS
            if many or before_ns - self._flushed_ns > FLUSH_NS:
                self._flushed_ns = before_ns
                self.lost = sum(_total(instance).lost for instance in self._instances)
                self._flush(before_ns - (SHORT_HOLD_NS if many else HOLD_NS))
        self._drain(rest=True)
        self._flush(None)

    def _drain(self, *, rest: bool) -> None:
        """Decode what every buffer holds; after that no CPU has anything older than when this began."""
        for number, (instance, reader) in enumerate(zip(self._instances, self._readers, strict=True)):
            for index, cpu in enumerate(instance.cpus):
                more = True
                while more:
                    records, more = reader.read(index, rest=rest)
                    self.decoded[number] += len(records)
                    self.missed += records.missed_pages
                    if len(records):
                        self._held.append(self._decode(instance, cpu, records))
        for source in self._beside:
            self._held.append(source.drain())
            self.told_beside += len(self._held[-1])

    def _flush(self, until_ns: int | None) -> None:
        """Write what is held up to a time (None: all) in order of time."""
        if not self._held:
            return
        rows = np.concatenate(self._held)
        times = rows["ts_ns"]
        late = times < self._written_ns
        self.late += int(late.sum())
        ready = ~late if until_ns is None else ~late & (times < until_ns)
        self._held = [rows[~ready & ~late]]
        chosen = np.flatnonzero(ready)
        rows = rows[chosen[np.argsort(times[chosen], kind="stable")]]
        if len(rows):
            self._written_ns = int(rows["ts_ns"][-1])
            self._write(rows)


def rows_of(instance: Instance, records: Records, dtype: np.dtype[np.void], fill: Fill) -> Rows:
    """Return a row for each record, in the same order; TraceError for one of an event never enabled."""
    rows = np.zeros(len(records), dtype)
    rows["ts_ns"] = records.t_ns
    types = records.types()
    known = np.zeros(len(records), bool)
    for number, fmt in instance.formats.items():
        at = np.flatnonzero(types == number)
        if len(at):
            known[at] = True
            fill(fmt, records, at, rows)
    if not known.all():
        raise TraceError(f"{instance.path.name}: a record of an event never enabled: record it again")
    return rows


def probe_events(events: Iterable[str]) -> str:
    """Make an instance, enable events in it, and remove it; return where. CapabilityError where refused."""
    check_pid_namespace()
    with Instance(buffer_bytes=4096, options={"event-fork": True}) as instance:
        for event in events:
            instance.enable(event)
        return str(instance.root)


def _total(instance: Instance) -> CpuStats:
    return sum(instance.stats(), CpuStats())
