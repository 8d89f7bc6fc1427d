"""From records of block tracepoints to rows of `blockio`: the requests that the scope's threads submitted.

Unit of work: the records of one CPU (`decode`), and then events of all CPUs in order of time (`write`), from
which traces/blockio makes requests. A record tells of a request, of a thread, or of what is no request.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdtool.collect.threadrows import NEWTASK, ThreadRows
from kdtool.collect.tracestream import Rows, rows_of
from kdtool.errors import TraceError
from kdtool.kernel.event_format import EventFormat
from kdtool.kernel.trace_ring import Records
from kdtool.kernel.tracefs import Instance
from kdtool.traces import NO_TID, NO_TIME, TraceWriter
from kdtool.traces.blockio import EVENT, BlockColumns, BlockEvent, RequestMatcher, op_of

__all__ = ["BLOCK_EVENTS", "BlockRows"]

ROW = np.dtype([*EVENT.descr, ("next_tid", "i4"), ("prio", "i4"), ("name_id", "u4")])
IN_INTERRUPT = 0x08 | 0x10 | 0x40
"""`common_flags`: hard interrupt, soft interrupt, NMI (enum trace_flag_type)."""
LAST_OF_BIOS = BlockEvent.FRONTMERGE

# Event and, for nr_sectors, other, old_dev, the field of each tracepoint; None: there is none.
SHAPES: dict[str, tuple[BlockEvent, str | None, str | None, str | None]] = {
    "block_bio_queue": (BlockEvent.QUEUE, "nr_sector", None, None),
    "block_bio_remap": (BlockEvent.REMAP, "nr_sector", "old_sector", "old_dev"),
    "block_split": (BlockEvent.SPLIT, None, "new_sector", None),
    "block_getrq": (BlockEvent.GETRQ, "nr_sector", None, None),
    "block_bio_backmerge": (BlockEvent.BACKMERGE, "nr_sector", None, None),
    "block_bio_frontmerge": (BlockEvent.FRONTMERGE, "nr_sector", None, None),
    "block_rq_merge": (BlockEvent.MERGE, "nr_sector", None, None),
    "block_rq_issue": (BlockEvent.ISSUE, "nr_sector", None, None),
    "block_rq_requeue": (BlockEvent.REQUEUE, "nr_sector", None, None),
    "block_rq_complete": (BlockEvent.COMPLETE, "nr_sector", "error", None),
    "block_bio_complete": (BlockEvent.COMPLETE, "nr_sector", "error", None),
}
BLOCK_EVENTS = tuple(f"block:{name}" for name in SHAPES)


class BlockRows:
    """Decodes, matches and writes; CapabilityError when a tracepoint lacks a field that is needed.

    rows : requests written to `blockio`
    unfinished : those of them that had not completed at the end
    foreign : requests that others submitted, or that were submitted before the recording
    threads : what the records say of threads
    """

    def __init__(self, formats: Sequence[EventFormat], writer: TraceWriter) -> None:
        self._writer = writer
        self._ops: dict[tuple[bytes, bool], int] = {}
        self.matcher = RequestMatcher()
        self.threads = ThreadRows(writer)
        self.rows = self.unfinished = self.foreign = 0
        for fmt in formats:
            if fmt.name in SHAPES:
                needed = [field for field in SHAPES[fmt.name][1:] if field is not None]
                fmt.require("common_pid", "common_flags", "dev", "sector", "rwbs", *needed)
            elif not self.threads.knows(fmt):
                raise ValueError(f"{fmt.name}: no rows are made of it")

    def decode(self, instance: Instance, _cpu: int, records: Records) -> Rows:
        """Return a row for each record that a CPU wrote, in the same order."""
        return rows_of(instance, records, ROW, self._fill)

    def write(self, rows: Rows) -> None:
        """Take in rows that are in order of time, and write the requests that they end."""
        about = rows["event"] >= NEWTASK
        self.threads.learn(rows[about], int(rows["ts_ns"][-1]))
        rows = rows[~about]
        # Whoever is not of the scope is nobody: what only he submitted is dropped once its request is whole.
        ours = (rows["event"] <= LAST_OF_BIOS) & self.threads.lifetimes.owns(rows["tid"], rows["ts_ns"])
        rows["tid"] = np.where(ours, rows["tid"], NO_TID)
        self._append(self.matcher.match(rows))

    def finish(self, decoded: int) -> None:
        """Write the requests that are still open.

        Raises TraceError unless every record is part of a request, told of a thread, or is known as stray.
        """
        self.threads.learn(np.empty(0, ROW), None)
        self._append(self.matcher.finish())
        told = self.threads.told
        if decoded != self.matcher.fed + told:
            raise TraceError(
                f"{decoded} records decoded, {self.matcher.fed} of block devices, {told} of threads: records "
                f"vanished: record it again"
            )

    def facts(self) -> dict[str, int]:
        """Return what became of the records, and of the requests that made no row."""
        return {
            "block_events": self.matcher.fed,
            "told": self.threads.told,
            "foreign_requests": self.foreign,
            "unfinished_requests": self.unfinished,
            "stray_events": self.matcher.stray,
            "device_flush_events": self.matcher.flushes,
            "adopted_bios": self.matcher.adopted,
        }

    def _append(self, columns: BlockColumns) -> None:
        ours = columns["tid"] != NO_TID
        n_rows = int(ours.sum())
        self.foreign += len(ours) - n_rows
        if n_rows:
            columns = {name: column[ours] for name, column in columns.items()}
            self._writer.append("blockio", columns)
            self.rows += n_rows
            self.unfinished += int((columns["complete_ns"] == NO_TIME).sum())

    def _fill(self, fmt: EventFormat, records: Records, at: npt.NDArray[np.int64], rows: Rows) -> None:
        """Fill in the rows `at` which a record of one tracepoint is."""
        if self.threads.knows(fmt):
            self.threads.fill(fmt, records, at, rows)
            return
        buffer, starts = records.buffer, records.starts[at]
        event, *fields = SHAPES[fmt.name]
        rows["event"][at] = event
        for column, field in zip(("nr_sectors", "other", "old_dev"), fields, strict=True):
            if field is not None:
                rows[column][at] = fmt.numbers(buffer, starts, field)
        rows["dev"][at] = fmt.numbers(buffer, starts, "dev")
        rows["sector"][at] = fmt.numbers(buffer, starts, "sector").view(np.uint64)
        struck = fmt.numbers(buffer, starts, "common_flags") & IN_INTERRUPT != 0
        rows["tid"][at] = np.where(struck, 0, fmt.numbers(buffer, starts, "common_pid"))
        empty = (rows["nr_sectors"][at] == 0) & (event != BlockEvent.SPLIT)
        rows["op"][at] = self._operations(fmt.texts(buffer, starts, "rwbs"), empty)

    def _operations(
        self, letters: npt.NDArray[np.bytes_], empty: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.uint16]:
        known = self._ops
        keys = list(zip(letters.tolist(), empty.tolist(), strict=True))
        for rwbs, nothing in set(keys) - known.keys():
            known[rwbs, nothing] = op_of(rwbs.decode(errors="replace"), empty=nothing)
        return np.fromiter((known[key] for key in keys), np.uint16, len(keys))
