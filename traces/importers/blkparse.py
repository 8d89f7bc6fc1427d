"""`blkparse`: block requests, of the text that blkparse prints of a blktrace recording.

    lines --blktext.py--> events --blockio/--> requests, in order of completion       commands --> tasks

Times are ns since the first event of the recording: the clock is `blkparse`. Lost are the events that
`Skips:` tells, or whose numbers are missing, and those that blktrace says it dropped, if that was kept with
the text. `tasks.pid` is -1: blktrace knows threads only. A request from before the recording has no arrival
and no task.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.errors import TraceError
from kdtool.traces.blockio import BlockColumns, RequestMatcher
from kdtool.traces.importers.base import Imported
from kdtool.traces.importers.blktext import HINT, Ints, TextBlock
from kdtool.traces.schema import NO_TIME
from kdtool.traces.writer import TraceWriter

__all__ = ["BlkparseImporter"]

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 1 << 16
MAGIC = b"\x07tae"
"""How blktrace's own files begin (BLK_IO_TRACE_MAGIC and version 7, little-endian)."""
NO_PID = -1


class BlkparseImporter:
    """Read requests from blkparse's text."""

    name = "blkparse"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append the requests of `file` to `blockio`; TraceError names the first line that is alien."""
        reading = _Reading(file, writer)
        for text in _blocks(file):
            reading.take(text)
        return Imported("blkparse", facts=reading.finish())


class _Reading:
    """What was read so far."""

    def __init__(self, file: Path, writer: TraceWriter) -> None:
        self._file, self._writer = file, writer
        self._matcher = RequestMatcher()
        self._lines = self._events = self._last_ns = 0
        self._skipped = self._dropped = self._unfinished = 0
        self._numbers: dict[int, tuple[int, int, int]] = {}
        self._names: dict[int, str] = {}

    def take(self, text: bytes) -> None:
        """Take whole lines."""
        block = TextBlock(self._file, text, self._lines)
        self._skipped += block.skipped
        self._dropped += block.dropped
        if block.n_events:
            back = np.diff(block.t_ns, prepend=self._last_ns) < 0
            if back.any():
                raise block.error(
                    int(np.flatnonzero(back)[0]), f"is earlier than the one before: {HINT}, of one run"
                )
            self._last_ns = int(block.t_ns[-1])
            self._count(*block.numbers())
            self._name(block)
            self._append(self._matcher.match(block.events()))
        self._lines, self._events = self._lines + block.n_lines, self._events + block.n_events

    def finish(self) -> dict[str, Any]:
        """Write the rest and what is lost; return what the manifest says."""
        self._append(self._matcher.finish())
        missing = sum(max(last - first + 1 - n, 0) for first, last, n in self._numbers.values())
        self._writer.lose("blockio", max(self._skipped, missing) + self._dropped)
        return {
            "lines": self._lines,
            "events": self._events,
            "missing_events": missing,
            "skipped_events": self._skipped,
            "dropped_events": self._dropped,
            "unfinished_requests": self._unfinished,
            "stray_events": self._matcher.stray,
            "device_flush_events": self._matcher.flushes,
            "adopted_bios": self._matcher.adopted,
        }

    def _count(self, places: Ints, numbers: Ints) -> None:
        """Note first and last number, and how many there are, of each device and CPU; 0 is none."""
        for place in np.unique(places).tolist():
            here = numbers[(places == place) & (numbers > 0)]
            if len(here):
                first, last, n = self._numbers.get(place, (int(here[0]), int(here[0]), 0))
                first, last = min(first, int(here.min())), max(last, int(here.max()))
                self._numbers[place] = first, last, n + len(here)

    def _name(self, block: TextBlock) -> None:
        new = []
        for t_ns, tid, name in block.commands():
            if self._names.get(tid) != name:
                self._names[tid] = name
                new.append((t_ns, NO_PID, tid, self._writer.name_id(name)))
        if new:
            columns = zip(("ts_ns", "pid", "tid", "name_id"), zip(*new, strict=True), strict=True)
            self._writer.append("tasks", {name: np.array(values) for name, values in columns})

    def _append(self, columns: BlockColumns) -> None:
        self._writer.append("blockio", columns)
        self._unfinished += int((columns["complete_ns"] == NO_TIME).sum())


def _blocks(file: Path) -> Iterator[bytes]:
    """Yield the file in blocks of whole lines."""
    left = b""
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) == MAGIC:
            raise TraceError(f"{file}: is what blktrace records: import what blkparse -i {file} prints")
        stream.seek(0)
        while data := stream.read(BLOCK_BYTES):
            data = left + data
            cut = data.rfind(b"\n") + 1
            if len(data) - cut > MAX_LINE_BYTES:
                raise TraceError(f"{file}: a line of more than {MAX_LINE_BYTES} bytes: {HINT}")
            if cut:
                yield data[:cut].replace(b"\r\n", b"\n")
            left = data[cut:]
    if left:
        yield left + b"\n"
