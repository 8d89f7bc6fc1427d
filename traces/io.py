"""Reading traces: a folder `NAME.kdt/` of Parquet segments and a manifest, checked before it is read.

    NAME.kdt/  manifest.json          what was recorded, and the sha256 of every segment
               TABLE/000000.parquet   the columns of schema.py

Unit of work: a table's columns as arrays, whole or a batch at a time. How it comes about: writer.py.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdtool.errors import TraceError
from kdtool.traces.manifest import Manifest, Segment, TableInfo
from kdtool.traces.schema import ADDED_SINCE_1_0, schema_of
from kdtool.traces.sealing import MANIFEST, is_unsealed
from kdtool.traces.spool import sha256_of

__all__ = ["BATCH_ROWS", "Columns", "Trace", "require_room"]

Columns = Mapping[str, "np.ndarray[Any, Any]"]

BATCH_ROWS = 1 << 18
"""Rows of a batch unless asked otherwise: 12 MB of references."""
READ_BYTES = 1 << 20
"""Read ahead in each column of a segment."""
NAME_BYTES = 200
"""What a name takes in memory, beside its letters."""


class Trace:
    """A sealed trace, checked when opened: version, hashes, balance.

    Raises
    ------
    TraceError
        Missing, truncated, altered by as little as one byte, unbalanced, or of another major version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if is_unsealed(self.path):
            raise TraceError(
                f"{self.path}: is being recorded now, or its recorder was killed: `kdtool info {self.path}` "
                f"says which and seals what was left"
            )
        self.manifest = Manifest.read(self.path / MANIFEST)
        tables = self.manifest.tables.items()
        segments = [(table, segment) for table, info in tables for segment in info.segments]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # hashing holds no GIL
            for checked in [threads.submit(self._check, *segment) for segment in segments]:
                checked.result()

    @property
    def sha256(self) -> str:
        """Return the hash that stands for the whole trace: that of its manifest, which holds the others."""
        return str(self.manifest.to_document()["sha256"])

    def rows(self, table: str) -> int:
        """Return the rows of `table`, 0 when the trace does not have it."""
        info = self.manifest.tables.get(table)
        return 0 if info is None else info.rows

    def require_whole(self, *, allow_loss: bool) -> None:
        """Raise TraceError when events of any table were lost, unless that is allowed."""
        lost = {name: info for name, info in self.manifest.tables.items() if info.lost}
        if lost and not allow_loss:
            said = ", ".join(f"{info.lost:,} of {info.counted:,} {name}" for name, info in lost.items())
            raise TraceError(
                f"{self.path}: {said} were lost, and what is learned, replayed or exported from it would be "
                f"wrong: record it again with a larger --buffer, or give --allow-loss"
            )

    def columns(self, table: str, names: list[str] | None = None) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return columns of `table` as arrays of shape (n_rows,) in the dtypes of the schema.

        Raises
        ------
        TraceError
            The trace does not have `table`.
        """
        info, schema = self._info(table), schema_of(table)
        wanted = schema.names if names is None else names
        _check_memory(self.path, info.rows, [schema.field(name).type for name in wanted])
        parts = list(self.batches(table, wanted))
        if not parts:  # a segment may hold no row
            return {name: np.empty(0, schema.field(name).type.to_pandas_dtype()) for name in wanted}
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def batches(
        self,
        table: str,
        names: list[str] | None = None,
        rows: int = BATCH_ROWS,
        segment: int | None = None,
    ) -> Iterator[dict[str, "np.ndarray[Any, Any]"]]:
        """Yield columns of `table` in order, as `columns` has them, in arrays of 1 to `rows` rows.

        `segment` : index of the only segment to read; several may be read at a time, each by a thread.

        Memory: two batches, and of each column what is read ahead and one page of its file, whatever the
        table's size. No batch spans two segments.

        Raises
        ------
        TraceError
            The trace does not have `table`; later: a segment's contents are not what its head promises.
        """
        info, schema = self._info(table), schema_of(table)
        wanted = schema.names if names is None else names
        segments = info.segments if segment is None else [info.segments[segment]]
        return self._batches(table, segments, [schema.field(name) for name in wanted], rows)

    def names(self) -> dict[int, str]:
        """Return the side table: name_id to name."""
        n_rows = self.rows("names")
        if not n_rows:
            return {}
        require_room(self.path, f"{n_rows} rows", n_rows * NAME_BYTES)
        found: dict[int, str] = {}
        for part in self.batches("names"):
            found.update(zip(part["name_id"].tolist(), part["name"].tolist(), strict=True))
        return found

    def _info(self, table: str) -> TableInfo:
        info = self.manifest.tables.get(table)
        if info is None:
            have = ", ".join(self.manifest.tables) or "no table"
            raise TraceError(f"{self.path}: has no table {table!r} (it has {have}): collect --events {table}")
        return info

    def _batches(
        self, table: str, segments: list[Segment], fields: list[pa.Field], rows: int
    ) -> Iterator[dict[str, "np.ndarray[Any, Any]"]]:
        for segment in segments:
            file, seen = self.path / table / segment.file, 0
            try:
                # A text that many rows share is held once: written out, a small file could fill all memory.
                texts = [field.name for field in fields if pa.types.is_string(field.type)]
                with pq.ParquetFile(
                    file, read_dictionary=texts, buffer_size=READ_BYTES, pre_buffer=False
                ) as segment_file:
                    there = set(segment_file.schema_arrow.names)
                    wanted = [field.name for field in fields if field.name in there]
                    lacking = {
                        field.name: _lacking(table, field, rows)
                        for field in fields
                        if field.name not in there
                    }
                    for batch in segment_file.iter_batches(rows, columns=wanted):
                        n = batch.num_rows
                        seen += n
                        if n:
                            found = {name: _array(file, batch[name]) for name in wanted}
                            yield found | {name: values[:n] for name, values in lacking.items()}
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of names
                raise TraceError(f"{file}: cannot be decoded ({error}): record it again") from None
            if seen != segment.rows:
                raise TraceError(f"{file}: {seen} rows, {segment.rows} in the manifest: record it again")

    def _check(self, table: str, segment: Segment) -> None:
        file = self.path / table / segment.file
        try:
            if not file.is_file() or file.stat().st_size != segment.bytes:  # a device or a pipe would not end
                raise TraceError(
                    f"{file}: is no file of {segment.bytes} bytes: the trace is not whole; record it again"
                )
            found = sha256_of(file)
        except OSError as error:
            raise TraceError(f"{file}: {error.strerror}: the trace is not whole; record it again") from None
        if found != segment.sha256:
            raise TraceError(
                f"{file}: does not match its sha256 in the manifest: it was altered or cut; record it again"
            )
        try:
            metadata = pq.read_metadata(file)
            columns = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise TraceError(f"{file}: not a Parquet file ({error}): record it again") from None
        expected = schema_of(table)
        names = [
            name for name in expected.names if name in columns.names or (table, name) not in ADDED_SINCE_1_0
        ]
        if columns.names != names or columns.types != [expected.field(name).type for name in names]:
            raise TraceError(f"{file}: its columns are not those of table {table}: record it again")
        if metadata.num_rows != segment.rows:
            raise TraceError(
                f"{file}: {metadata.num_rows} rows, {segment.rows} in the manifest: record it again"
            )


def _lacking(table: str, field: pa.Field, rows: int) -> "np.ndarray[Any, Any]":
    """Return `rows` values of a column that an older trace does not have."""
    return np.full(rows, ADDED_SINCE_1_0[table, field.name], field.type.to_pandas_dtype())


def _array(file: Path, column: pa.Array) -> "np.ndarray[Any, Any]":
    """Return a column of a batch, without a copy where NumPy has the type; texts are shared objects."""
    if column.null_count:
        raise TraceError(f"{file}: {column.null_count} values are missing: record it again")
    values: np.ndarray[Any, Any]
    if pa.types.is_dictionary(column.type):
        texts = np.array(column.dictionary.to_pylist(), dtype=object)
        values = texts[np.from_dlpack(column.indices)]
    elif pa.types.is_boolean(column.type):
        values = np.from_dlpack(column.cast(pa.uint8())).view(np.bool_)
    else:
        values = np.from_dlpack(column)  # to_numpy() would import pandas, which takes 0.3 s
    return values


def _check_memory(path: Path, rows: int, types: list[pa.DataType]) -> None:
    """Refuse columns that this machine cannot hold before they are read: a small file can declare many."""
    width = sum(each.bit_width for each in types if pa.types.is_primitive(each))
    require_room(path, f"{rows} rows", rows * width // 8 * 2)  # as Arrow, and as NumPy where the two differ


def require_room(path: Path, what: str, needed: int) -> None:
    """Raise TraceError for `what` that needs more bytes than this machine has memory."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > total:
        raise TraceError(
            f"{path}: {what} need {needed >> 30} GiB of memory, this machine has {total >> 30}: "
            f"use a larger machine or record a shorter trace"
        )
