"""Rows on their way into a trace: an Arrow IPC stream that outlives us, and the Parquet segments made of it.

    append --> spool/TABLE-000003.arrows --full, or sealed--> TABLE/000003.parquet
                                             (written beside, fsync, rename; then the stream is removed)

Unit of work: a batch of rows of one table. A stream that was cut anywhere gives back its whole batches, so
that a recorder killed at any moment loses only what it had not appended yet. A stream whose segment exists
is a leftover of the moment between rename and removal, and is ignored.
"""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdtool.errors import TraceError
from kdtool.traces.manifest import Segment
from kdtool.traces.schema import schema_of

__all__ = ["SPOOL", "DiskError", "TableSpool", "read_names", "sha256_of", "spooled_tables", "sync"]

SPOOL = "spool"
SEGMENT_ROWS = 2_000_000
"""Rows a segment holds: 70 MB of faults in memory, 3 MB on disk; sealing one takes 0.15 s."""
BATCH_ROWS = 1 << 18
"""Larger appends are cut into batches of so many rows, to bound what a cut stream loses."""
SAMPLE_ROWS = 1 << 15
"""Rows on which the encodings of a segment are tried."""
ENCODINGS = ("RLE_DICTIONARY", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT")


class DiskError(TraceError):
    """The disk is full, or does not take what is written."""


class TableSpool:
    """One table of the trace being written in `folder`; used by one thread at a time, which has its lock.

    Raises DiskError when the disk is full or refuses.
    """

    def __init__(self, folder: Path, table: str) -> None:
        self.table, self.schema = table, schema_of(table)
        self.segments: list[Segment] = []
        self.lock = threading.Lock()
        self._folder = folder
        self._stream: pa.RecordBatchStreamWriter | None = None
        self._stream_rows = 0

    @property
    def rows(self) -> int:
        """Return how many rows were appended so far."""
        return sum(segment.rows for segment in self.segments) + self._stream_rows

    @property
    def bytes(self) -> int:
        """Return what the table takes on disk now."""
        try:
            streamed = self._stream_path().stat().st_size
        except FileNotFoundError:  # none yet, or the thread that appends has just sealed it
            streamed = 0
        return sum(segment.bytes for segment in self.segments) + streamed

    def append(self, columns: Mapping[str, Any]) -> None:
        """Append rows: arrays of one length, one for each column of the schema."""
        arrays = [pa.array(np.asarray(columns[field.name]), type=field.type) for field in self.schema]
        batch = pa.record_batch(arrays, schema=self.schema)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            with self._telling():
                self._open_stream().write_batch(part)
            self._stream_rows += part.num_rows
            if self._stream_rows >= SEGMENT_ROWS:
                self.seal()

    def seal(self) -> list[Segment]:
        """Turn what is spooled into a segment and return all segments."""
        self.close()
        path = self._stream_path()
        if path.exists():
            data = pa.Table.from_batches(whole_batches(path), schema=self.schema)
            if data.num_rows:
                self._write_segment(data)
            path.unlink()
        self._stream_rows = 0
        return self.segments

    def close(self) -> None:
        """Close the stream without sealing it."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with self._telling(), closing(self._file):
                stream.close()

    def recover(self) -> list[Segment]:
        """Take over what a dead writer left, seal it and return all segments."""
        for unfinished in (self._folder / self.table).glob("*.tmp"):
            unfinished.unlink()
        for file in sorted((self._folder / self.table).glob("*.parquet")):
            rows = pq.read_metadata(file).num_rows
            self.segments.append(Segment(file.name, rows, file.stat().st_size, sha256_of(file)))
        for leftover in (self._folder / SPOOL).glob(f"{self.table}-*.arrows"):
            if leftover != self._stream_path():
                leftover.unlink()
        return self.seal()

    def _stream_path(self) -> Path:
        return self._folder / SPOOL / f"{self.table}-{len(self.segments):06d}.arrows"

    def _open_stream(self) -> pa.RecordBatchStreamWriter:
        if self._stream is None:
            self._file = pa.OSFile(str(self._stream_path()), "wb")
            self._stream = pa.ipc.new_stream(self._file, self.schema)
        return self._stream

    def _write_segment(self, data: pa.Table) -> None:
        folder = self._folder / self.table
        target = folder / f"{len(self.segments):06d}.parquet"
        beside = target.with_suffix(".tmp")
        with self._telling():
            folder.mkdir(exist_ok=True)
            pq.write_table(data, beside, compression="zstd", **_encodings(data))
            sync(beside)
            beside.rename(target)
            sync(folder)
        self.segments.append(Segment(target.name, data.num_rows, target.stat().st_size, sha256_of(target)))

    def _telling(self) -> "_Telling":
        return _Telling(self._folder)


class _Telling:
    """Turns an OSError inside the block into a DiskError about the trace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        if isinstance(error, OSError):
            said = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
            raise DiskError(f"{self._folder}: cannot be written ({said}): free some space") from None


def whole_batches(path: Path) -> list[pa.RecordBatch]:
    """Return the batches of a stream up to where it was cut, mapped and not copied."""
    return list(_whole_batches(path))


def _whole_batches(path: Path) -> Iterator[pa.RecordBatch]:
    if not path.stat().st_size:
        return
    try:
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        for batch in reader:
            batch.validate(full=True)
            yield batch
    except (pa.ArrowInvalid, OSError):
        return  # the batch that was being written when the writer died


def spooled_tables(folder: Path) -> list[str]:
    """Return the tables that a dead writer left in `folder`."""
    streams = {file.name.rpartition("-")[0] for file in (folder / SPOOL).glob("*-*.arrows")}
    return sorted(streams | {file.parent.name for file in folder.glob("*/*.parquet")})


def read_names(folder: Path, segments: list[Segment]) -> dict[str, int]:
    """Return name: name_id of a side table that was sealed in `folder`."""
    parts = [pq.read_table(folder / segment.file) for segment in segments]
    rows = [row for part in parts for row in part.to_pylist()]
    return {row["name"]: row["name_id"] for row in rows}


def _encodings(data: pa.Table) -> dict[str, Any]:
    """Return for write_table how each column is smallest, tried on rows from the middle.

    Times and sequential pages are smallest as differences, pages of several processes as a dictionary.
    """
    sample = data.slice(max(0, (data.num_rows - SAMPLE_ROWS) // 2), SAMPLE_ROWS)
    dictionary, encoding = [], {}
    for field in data.schema:
        if not pa.types.is_integer(field.type):
            dictionary.append(field.name)
            continue
        best = min(ENCODINGS, key=lambda each: _size(sample.select([field.name]), each))
        if best == ENCODINGS[0]:
            dictionary.append(field.name)
        else:
            encoding[field.name] = best
    return {"use_dictionary": dictionary, "column_encoding": encoding or None}


def _size(column: pa.Table, encoding: str) -> int:
    name = column.schema.names[0]
    how: dict[str, Any] = {"use_dictionary": True}
    if encoding != ENCODINGS[0]:
        how = {"use_dictionary": False, "column_encoding": {name: encoding}}
    sink = pa.BufferOutputStream()
    pq.write_table(column, sink, compression="zstd", **how)
    return int(sink.tell())


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file, or a folder's entries, on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
