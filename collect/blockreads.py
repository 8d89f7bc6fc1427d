"""The reads of one disk while something else is timed: when each went to the device and when it came back.

    block_rq_issue, block_rq_complete (or block_bio_queue, block_bio_complete) --pair by sector--> Reads

Kernel counterpart: block/blk-mq.c blk_mq_start_request() and blk_update_request(), v6.18. This is where the
device's own time can be told from the kernel's: a fault's time less its read's is what the kernel did.
Not done here: writes, recording into a trace.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.kernel.event_format import EventFormat
from kdtool.kernel.swap import Disk
from kdtool.kernel.trace_ring import Records, RingReader
from kdtool.kernel.tracefs import CpuStats, Instance

__all__ = ["ReadTracer", "Reads"]

BUFFER_BYTES = 4 << 20
"""A CPU's: 20,000 reads between `record` and its end."""
SECTORS_A_PAGE = 8

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reads:
    """Reads that began and ended, in order of their beginning: int64, CLOCK_MONOTONIC, and pages of 4 KiB."""

    issue_ns: Ints
    complete_ns: Ints
    pages: Ints

    def within(self, begin_ns: int, end_ns: int) -> "Reads":
        """Return those that lie in a time."""
        inside = (self.issue_ns >= begin_ns) & (self.complete_ns <= end_ns)
        return Reads(self.issue_ns[inside], self.complete_ns[inside], self.pages[inside])


class ReadTracer:
    """Records the reads of `disk`, whoever asks for them; nothing else of the machine.

    Raises CapabilityError, with what to do, without tracefs or the right to it.
    """

    def __init__(self, disk: Disk) -> None:
        events = ("block_rq_issue", "block_rq_complete")
        if not disk.queued:
            events = ("block_bio_queue", "block_bio_complete")
        self._instance = Instance(buffer_bytes=BUFFER_BYTES)
        self._reader: RingReader | None = None
        try:
            self._begins, self._ends = (
                self._instance.enable(f"block:{event}", filter_by=f"dev == {disk.dev}") for event in events
            )
            for fmt in (self._begins, self._ends):
                fmt.require("sector", "nr_sector", "rwbs")
            self._reader = RingReader(self._instance)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def record(self) -> Iterator[list[Reads]]:
        """Record inside the block; after it, the list holds one element: the reads.

        Raises TraceError when events were lost.
        """
        found: list[Reads] = []
        self._drain()
        self._instance.start()
        try:
            yield found
        finally:
            self._instance.stop()
        found.append(pair_reads(*self._drain()))
        lost = sum(self._instance.stats(), CpuStats()).lost
        if lost:
            raise TraceError(f"{lost} block events were lost: end what else reads this disk, and try again")

    def close(self) -> None:
        """Take the instance down."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._instance.close()

    def _drain(self) -> tuple[Ints, Ints]:
        """Return what was recorded: (n, 3) times, sectors, numbers of sectors, of beginnings and of ends."""
        assert self._reader is not None, "closed"
        begins, ends = [np.empty((0, 3), np.int64)], [np.empty((0, 3), np.int64)]
        for cpu in range(len(self._instance.cpus)):
            more = True
            while more:
                records, more = self._reader.read(cpu, rest=True)
                begins.append(_reads(records, self._begins))
                ends.append(_reads(records, self._ends))
        return np.concatenate(begins), np.concatenate(ends)


def pair_reads(begins: Ints, ends: Ints) -> Reads:
    """Return each beginning (time, sector, sectors) with the next end of the same sectors.

    A beginning without an end, or an end without a beginning, was not recorded whole and is left out.

    >>> begins, ends = np.array([[10, 800, 8], [12, 64, 16]]), np.array([[40, 64, 16], [30, 800, 8]])
    >>> pair_reads(begins, ends)
    Reads(issue_ns=array([10, 12]), complete_ns=array([30, 40]), pages=array([1, 2]))
    """
    open_since: dict[tuple[int, int], list[int]] = defaultdict(list)
    rows = []
    events = sorted([(*event, 0) for event in begins.tolist()] + [(*event, 1) for event in ends.tolist()])
    for t_ns, sector, sectors, is_end in events:
        waiting = open_since[sector, sectors]
        if not is_end:
            waiting.append(t_ns)
        elif waiting:
            rows.append((waiting.pop(0), t_ns, sectors // SECTORS_A_PAGE))
    columns = np.array(sorted(rows), np.int64).reshape(-1, 3).T.copy()
    return Reads(columns[0], columns[1], columns[2])


def _reads(records: Records, fmt: EventFormat) -> Ints:
    """Return time, sector and sectors of those records of an event that are reads, shape (n, 3)."""
    mine = np.flatnonzero(records.types() == fmt.id)
    starts = records.starts[mine]
    kind = fmt.texts(records.buffer, starts, "rwbs")
    numbers = [fmt.numbers(records.buffer, starts, name) for name in ("sector", "nr_sector")]
    table = np.stack([records.t_ns[mine], *numbers], axis=1)
    return table[np.char.startswith(kind, b"R")]
