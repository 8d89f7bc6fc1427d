"""Reading and writing traces: a folder `NAME.kdt/` of Parquet segments and a manifest.

A trace is written beside its final name and renamed once everything is on disk: a reader sees a whole
trace or none. It is read back only after every segment's sha256 has been checked.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdtool.errors import TraceError
from kdtool.traces.manifest import Manifest, Segment, TableInfo, canonical_json
from kdtool.traces.schema import schema_of

__all__ = ["Columns", "Trace", "TraceWriter"]

Columns = Mapping[str, "np.ndarray[Any, Any]"]

SEGMENT_ROWS = 4_000_000
"""Rows a segment holds at most: 4 M rows of `refs` are 120 MB in memory."""

# Sorted or nearly constant columns shrink to a few bits a row; dictionaries suit the rest.
DELTA_COLUMNS = ("ts_ns", "insns", "queue_ns", "issue_ns", "complete_ns", "vpn")


class TraceWriter:
    """Write one trace; nothing exists under its final name before `seal`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "t.kdt"
    >>> with TraceWriter(path) as writer:
    ...     writer.append("refs", {"pid": [1], "tid": [1], "vpn": [7], "ip": [0], "kind": [0], "insns": [5]})
    ...     trace = writer.seal(Manifest("complete", "insns", ["true"], {"name": "doctest"}))
    >>> trace.columns("refs", ["vpn"])["vpn"].tolist()
    [7]
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.suffix != ".kdt":
            raise TraceError(f"{self.path}: a trace's name ends in .kdt: give -o {self.path.stem or 'T'}.kdt")
        if self.path.exists():
            raise TraceError(f"{self.path}: exists already and is never overwritten: choose another name")
        self._partial = self.path.with_name(f".{self.path.name}.partial-{os.getpid()}")
        self._segments: dict[str, list[Segment]] = {}
        self._lost: dict[str, int] = {}
        self._names: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be created: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    @property
    def rows(self) -> int:
        """Return how many rows were appended so far, over all tables."""
        return sum(segment.rows for segments in self._segments.values() for segment in segments)

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Append rows (arrays of one length, one per column of the schema) to `table`."""
        schema = schema_of(table)
        arrays = {field.name: np.asarray(columns[field.name]) for field in schema}
        n_rows = len(next(iter(arrays.values())))
        self._segments.setdefault(table, [])
        for start in range(0, n_rows, SEGMENT_ROWS):
            part = {name: values[start : start + SEGMENT_ROWS] for name, values in arrays.items()}
            self._write_segment(table, schema, part)

    def lose(self, table: str, lost: int) -> None:
        """Record that the source counted `lost` events of `table` that have no row."""
        self._segments.setdefault(table, [])
        self._lost[table] = self._lost.get(table, 0) + lost

    def name_id(self, name: str) -> int:
        """Return the id of `name` in the side table, adding it if it is new."""
        return self._names.setdefault(name, len(self._names))

    def seal(self, manifest: Manifest) -> "Trace":
        """Write names and manifest, sync, rename to the final name and open the trace."""
        if self._names:
            self.append("names", {"name_id": list(self._names.values()), "name": list(self._names)})
        tables = {name: self._table_info(name) for name in sorted(self._segments)}
        document = replace(manifest, tables=tables).to_document()
        target = self._partial / "manifest.json"
        target.write_bytes(canonical_json(document))
        _sync(target)
        _sync(self._partial)
        try:
            self._partial.rename(self.path)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be written: {error.strerror}") from None
        _sync(self.path.parent)
        return Trace(self.path)

    def _table_info(self, table: str) -> TableInfo:
        segments = self._segments[table]
        rows, lost = sum(s.rows for s in segments), self._lost.get(table, 0)
        return TableInfo(rows=rows, counted=rows + lost, lost=lost, segments=segments)

    def _write_segment(self, table: str, schema: pa.Schema, columns: Columns) -> None:
        folder = self._partial / table
        folder.mkdir(exist_ok=True)
        segments = self._segments[table]
        target = folder / f"{len(segments):06d}.parquet"
        data = pa.table([pa.array(columns[f.name], type=f.type) for f in schema], schema=schema)
        delta = {name: "DELTA_BINARY_PACKED" for name in schema.names if name in DELTA_COLUMNS}
        plain = [name for name in schema.names if name not in delta]
        try:
            pq.write_table(data, target, compression="zstd", use_dictionary=plain, column_encoding=delta)
            _sync(target)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be written ({error}): free some space") from None
        segments.append(Segment(target.name, data.num_rows, target.stat().st_size, _sha256(target)))


class Trace:
    """A sealed trace, checked when opened: version, hashes, balance.

    Raises
    ------
    TraceError
        Missing, truncated, altered by as little as one byte, unbalanced, or of another major version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = Manifest.read(self.path / "manifest.json")
        for table, info in self.manifest.tables.items():
            for segment in info.segments:
                self._check(table, segment)

    @property
    def sha256(self) -> str:
        """Return the hash that stands for the whole trace: that of its manifest, which holds the others."""
        return str(self.manifest.to_document()["sha256"])

    def rows(self, table: str) -> int:
        """Return the rows of `table`, 0 when the trace does not have it."""
        info = self.manifest.tables.get(table)
        return 0 if info is None else info.rows

    def columns(self, table: str, names: list[str] | None = None) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return columns of `table` as arrays of shape (n_rows,) in the dtypes of the schema.

        Raises
        ------
        TraceError
            The trace does not have `table`.
        """
        info = self.manifest.tables.get(table)
        if info is None:
            have = ", ".join(self.manifest.tables) or "no table"
            raise TraceError(f"{self.path}: has no table {table!r} (it has {have}): collect --events {table}")
        schema = schema_of(table)
        wanted = schema.names if names is None else names
        if not info.segments:
            return {name: np.empty(0, schema.field(name).type.to_pandas_dtype()) for name in wanted}
        files = [self.path / table / segment.file for segment in info.segments]
        parts = pa.concat_tables([pq.read_table(file, columns=wanted) for file in files])
        return {name: parts[name].to_numpy() for name in wanted}

    def names(self) -> dict[int, str]:
        """Return the side table: name_id to name."""
        if not self.rows("names"):
            return {}
        side = self.columns("names")
        return dict(zip(side["name_id"].tolist(), side["name"].tolist(), strict=True))

    def _check(self, table: str, segment: Segment) -> None:
        file = self.path / table / segment.file
        try:
            found = _sha256(file)
        except OSError as error:
            raise TraceError(f"{file}: {error.strerror}: the trace is not whole; record it again") from None
        if found != segment.sha256:
            raise TraceError(
                f"{file}: does not match its sha256 in the manifest: it was altered or cut; record it again"
            )
        if pq.read_schema(file).names != schema_of(table).names:
            raise TraceError(f"{file}: its columns are not those of table {table}: record it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
