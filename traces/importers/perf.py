"""`perf`: page faults of a perf.data file, as `perf record -e major-faults,minor-faults -c 1 -d` writes it.

    samples of page-fault events --> faults, in order of time     COMM --> tasks      LOST --> lost events

Also read: the event page-faults and the tracepoints exceptions:page_fault_user and _kernel, which cannot tell
major from minor faults: all are `major` = false then, and the manifest says so. Samples are not in order of
time in the file: what comes before a FINISHED_ROUND mark is older than all that follows the next one, so that
rows are held for two rounds and memory stays bounded. `cpu` is -1 where the file does not say it (-a does).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.traces.importers.base import Imported
from kdtool.traces.importers.perfdata import Attr, PerfFile, Run
from kdtool.traces.sealing import MAX_LOST
from kdtool.traces.writer import TraceWriter

__all__ = ["PerfImporter"]

LOST, COMM, SAMPLE, LOST_SAMPLES, FINISHED_ROUND = 2, 3, 9, 13, 68
SOFTWARE, TRACEPOINT = 1, 2
PAGE_FAULTS, MINOR_FAULTS, MAJOR_FAULTS = 2, 5, 6
TRACEPOINTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel")
IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD = 1, 2, 4, 8, 16, 32, 64, 128, 256
STREAM_ID, RAW, IDENTIFIER = 512, 1024, 1 << 16
IN_ORDER = (IDENTIFIER, IP, TID, TIME, ADDR, ID, STREAM_ID, CPU, PERIOD)
"""Fields of a sample, a word each, as the kernel writes them (perf_output_sample in kernel/events/core.c)."""
NAMES = {IP: "address of the instruction", TID: "thread", TIME: "time", ADDR: "address: record with -d"}
CLOCKS = {0: "realtime", 1: "monotonic", 4: "monotonic_raw", 7: "boottime"}
FEWEST_WORDS = {LOST: 3, COMM: 2, LOST_SAMPLES: 2}
"""Of a record, with its head: up to what is read of it."""
MAX_HELD, MAX_PERIOD = 16_000_000, 1 << 40
PAGE_SHIFT = np.uint64(12)
LOW_32, HALF = np.uint64(0xFFFF_FFFF), np.uint64(32)
T_NS, TASK, CPU_OF, PAGE, INSTRUCTION, MAJOR, COLUMNS = 0, 1, 2, 3, 4, 5, 6

Words = npt.NDArray[np.uint64]


class PerfImporter:
    """Read page faults from perf.data."""

    name = "perf"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append the faults of `file` to `faults` and its threads' names to `tasks`."""
        perf = PerfFile(file)
        reading = _Reading(perf, writer)
        for run in perf.runs():
            reading.take(run)
        reading.finish()
        clockid = reading.attrs[0].clockid
        facts: dict[str, Any] = {"events": reading.event_names(), "perf_command": perf.command}
        if not reading.tells_major:
            facts["majors"] = "not told from minor faults by these events: record major-faults,minor-faults"
        clock = "perf" if clockid is None else CLOCKS.get(clockid, f"clock {clockid}")
        return Imported(clock, facts=facts)


class _Reading:
    """What was read so far and not yet written, and what the samples look like."""

    def __init__(self, perf: PerfFile, writer: TraceWriter) -> None:
        self._file, self._writer = perf.file, writer
        self.attrs = [attr for attr in perf.attrs if _is_fault(attr)]
        if not self.attrs:
            raise TraceError(
                f"{self._file}: has no page-fault event: perf record -e major-faults,minor-faults -c 1 -d"
            )
        self.tells_major = all(attr.config in (MINOR_FAULTS, MAJOR_FAULTS) for attr in self.attrs)
        self.tells_major &= all(attr.type == SOFTWARE for attr in self.attrs)
        self._id_at = self._where_the_id_is(perf.attrs)
        self._offsets = [self._layout(attr) for attr in self.attrs]
        self._held: list[Words] = []
        self._n_held = self._max_ns = self._round_ns = 0
        self._counted = self._rows = self._lost = self._lost_samples = 0
        self._tasks: list[tuple[int, int, int, int]] = []

    def event_names(self) -> list[str]:
        """Return what the fault events are called."""
        return [attr.name or f"{attr.type}:{attr.config}" for attr in self.attrs]

    def take(self, run: Run) -> None:
        """Take the records of a run."""
        if run.records.shape[1] < FEWEST_WORDS.get(run.type, 1):
            raise TraceError(
                f"{self._file}: damaged (a record of type {run.type} is too short): record it again"
            )
        if run.type == SAMPLE:
            self._take_samples(run.records)
        elif run.type == COMM:
            for record in run.records:
                self._take_comm(record)
        elif run.type == LOST:
            self._lost += sum(run.records[:, 2].tolist())  # of Python's integers: NumPy's would wrap
        elif run.type == LOST_SAMPLES:
            self._lost_samples += sum(run.records[:, 1].tolist())
        elif run.type == FINISHED_ROUND:
            self._flush(self._round_ns)
            self._round_ns = self._max_ns

    def finish(self) -> None:
        """Write the rest, and how many events have no row."""
        self._flush(None)
        if self._tasks:
            t_ns, pids, tids, name_ids = zip(*sorted(self._tasks), strict=True)
            columns = {"ts_ns": t_ns, "pid": pids, "tid": tids, "name_id": name_ids}
            self._writer.append("tasks", columns)
        # perf counts what it lost twice: when it noticed, and, since 6.1, once more at the end, exactly.
        lost = (self._lost_samples or self._lost) + self._counted - self._rows
        if lost > MAX_LOST:
            raise TraceError(f"{self._file}: damaged ({lost} events were lost): record it again")
        self._writer.lose("faults", lost)

    def _where_the_id_is(self, attrs: list[Attr]) -> int | None:
        """Return the word of a sample that says which event it is of; None if there is only one event."""
        if all(attr.sample_type & IDENTIFIER for attr in attrs):
            return 1
        kinds = {attr.sample_type for attr in attrs}
        if len(kinds) > 1:
            raise TraceError(f"{self._file}: its events have different fields: record page faults alone")
        kind = kinds.pop()
        if kind & ID:
            return _offsets(kind)[ID]
        if len(attrs) > 1:
            raise TraceError(f"{self._file}: its samples do not say of which event: record page faults alone")
        return None

    def _layout(self, attr: Attr) -> dict[int, int]:
        """Return field: word of a sample of `attr`, after checking that it has what a row needs."""
        offsets = _offsets(attr.sample_type)
        needed = [IP, TID, TIME] if attr.type == TRACEPOINT else [IP, TID, TIME, ADDR]
        missing = [NAMES[field] for field in needed if field not in offsets]
        if missing:
            raise TraceError(f"{self._file}: its samples have no {missing[0]}")
        if attr.type == TRACEPOINT:
            if not attr.sample_type & RAW or attr.sample_type & (READ | CALLCHAIN):
                raise TraceError(
                    f"{self._file}: its samples have no plain tracepoint fields: record without -g"
                )
            # u32 size, then common fields (8 bytes) and the address: the word is cut in two by the size.
            offsets[RAW] = 1 + len([field for field in IN_ORDER if attr.sample_type & field])
        return offsets

    def _take_samples(self, samples: Words) -> None:
        for attr, offsets in zip(self.attrs, self._offsets, strict=True):
            mine = samples
            if self._id_at is not None:
                if self._id_at >= samples.shape[1]:
                    raise TraceError(f"{self._file}: damaged (a sample is too short): record it again")
                mine = samples[np.isin(samples[:, self._id_at], np.array(attr.ids, np.uint64))]
            if len(mine):
                self._hold(mine, attr, offsets)

    def _hold(self, samples: Words, attr: Attr, offsets: dict[int, int]) -> None:
        if max(offsets.values()) + (2 if RAW in offsets else 0) >= samples.shape[1]:
            raise TraceError(f"{self._file}: damaged (a sample is too short): record it again")
        rows = np.empty((len(samples), COLUMNS), np.uint64)
        rows[:, T_NS], rows[:, TASK] = samples[:, offsets[TIME]], samples[:, offsets[TID]]
        rows[:, CPU_OF] = samples[:, offsets[CPU]] & LOW_32 if CPU in offsets else LOW_32
        rows[:, INSTRUCTION], rows[:, MAJOR] = samples[:, offsets[IP]], attr.config == MAJOR_FAULTS
        rows[:, PAGE] = _address(samples, offsets) >> PAGE_SHIFT
        if attr.type == TRACEPOINT:
            rows[:, MAJOR] = 0
        times = rows[:, T_NS]
        if int(times.max()) >= 1 << 63:
            raise TraceError(f"{self._file}: damaged (a time of 2**63 ns or more): record it again")
        self._max_ns = max(self._max_ns, int(times.max()))
        self._held.append(rows)
        self._n_held += len(rows)
        self._counted += self._events_of(samples, attr, offsets)
        if self._n_held > MAX_HELD:
            raise TraceError(f"{self._file}: {self._n_held} samples without a round mark: record it again")

    def _events_of(self, samples: Words, attr: Attr, offsets: dict[int, int]) -> int:
        """Return how many events the samples stand for."""
        if PERIOD in offsets:
            periods = np.maximum(samples[:, offsets[PERIOD]], 1)
            if int(periods.max()) > MAX_PERIOD:
                raise TraceError(
                    f"{self._file}: damaged (a sample of {periods.max()} events): record it again"
                )
            return int(periods.sum())
        if attr.is_freq:
            raise TraceError(f"{self._file}: samples by frequency without their periods: record with -c 1")
        return len(samples) * max(attr.sample_period, 1)

    def _flush(self, until_ns: int | None) -> None:
        """Write what is not newer than a time, in order; None: all."""
        if not self._held or (until_ns is not None and self._n_held < 100_000):
            return
        rows = np.concatenate(self._held)
        rows = rows[np.argsort(rows[:, T_NS], kind="stable")]
        end = len(rows) if until_ns is None else int(np.searchsorted(rows[:, T_NS], until_ns, "right"))
        self._held, self._n_held = [rows[end:].copy()], len(rows) - end
        self._append(rows[:end])

    def _append(self, rows: Words) -> None:
        columns = {
            "ts_ns": rows[:, T_NS].astype(np.int64),
            "pid": (rows[:, TASK] & LOW_32).astype(np.uint32).view(np.int32),
            "tid": (rows[:, TASK] >> HALF).astype(np.uint32).view(np.int32),
            "cpu": (rows[:, CPU_OF] & LOW_32).astype(np.uint32).view(np.int32).astype(np.int16),
            "vpn": rows[:, PAGE].copy(),
            "ip": rows[:, INSTRUCTION].copy(),
            "major": rows[:, MAJOR].astype(bool),
        }
        self._writer.append("faults", columns)
        self._rows += len(rows)

    def _take_comm(self, record: Words) -> None:
        body = record.tobytes()
        name = body[16:].split(b"\0", 1)[0].decode(errors="surrogateescape")
        pid, tid = np.frombuffer(body[8:16], np.int32).tolist()
        self._tasks.append((self._max_ns, pid, tid, self._writer.name_id(name)))


def _is_fault(attr: Attr) -> bool:
    if attr.type == SOFTWARE:
        return attr.config in (PAGE_FAULTS, MINOR_FAULTS, MAJOR_FAULTS)
    return attr.type == TRACEPOINT and attr.name in TRACEPOINTS


def _offsets(sample_type: int) -> dict[int, int]:
    """Return field: word in a sample, of the fields that are a word each.

    >>> _offsets(IP | TID | TIME | ADDR) == {IP: 1, TID: 2, TIME: 3, ADDR: 4}
    True
    """
    present = [field for field in IN_ORDER if sample_type & field]
    return {field: word for word, field in enumerate(present, start=1)}


def _address(samples: Words, offsets: dict[int, int]) -> Words:
    """Return the address that faulted; a tracepoint's is in its raw part, 4 bytes off a word."""
    if RAW not in offsets:
        return samples[:, offsets[ADDR]]
    low = samples[:, offsets[RAW] + 1] >> HALF
    return low | (samples[:, offsets[RAW] + 2] & LOW_32) << HALF
