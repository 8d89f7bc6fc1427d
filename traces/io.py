"""Reading and writing traces: a folder `NAME.kdt/` of Parquet segments and a manifest.

    NAME.kdt/  recording.json   while it is written: what the manifest will say, should the writer die
               spool/           rows not yet in a segment (spool.py)
               TABLE/000000.parquet
               manifest.json    renamed into place last: from then on the trace is sealed

A folder without a manifest is no trace yet. Its writer holds a lock on it; when the writer has died, the
first reader seals what is there as `interrupted`. A sealed trace is read only after every segment's sha256
has been checked.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdtool.errors import TraceError
from kdtool.traces.manifest import Manifest, Segment
from kdtool.traces.schema import schema_of
from kdtool.traces.sealing import MANIFEST, lock_folder, recover, seal, write_draft
from kdtool.traces.spool import SPOOL, DiskError, TableSpool, sha256_of

__all__ = ["Columns", "Trace", "TraceWriter"]

Columns = Mapping[str, "np.ndarray[Any, Any]"]

UNKNOWN = Manifest("interrupted", "unknown", [], {"name": "unknown"})


class TraceWriter:
    """Write one trace; it is none before `seal`, and gone after an error.

    Each table is appended to by one thread at a time; tables and names by several at once.

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
            raise self._exists()
        self._tables: dict[str, TableSpool] = {}
        self._lost: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._names_spooled = 0
        self._lock = threading.RLock()
        self._keep = False
        self._folder_fd = -1

    def __enter__(self) -> Self:
        """Make the folder under another name first: it must not be seen without its draft."""
        made = self.path.with_name(f".{self.path.name}.new-{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.path)
            (made / SPOOL).mkdir(parents=True)
            self._folder_fd = lock_folder(made)
            write_draft(made, UNKNOWN, {})
            made.rename(self.path)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be created: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for table in self._tables.values():
            with suppress(DiskError):  # told before: the end mark of a stream has no room either
                table.close()
        if not (self.path / MANIFEST).exists() and not self._keep:
            gone = self.path.with_name(f".{self.path.name}.gone-{os.getpid()}")
            self.path.rename(gone)  # at once: a folder half removed must not look like a trace
            shutil.rmtree(gone, ignore_errors=True)
        os.close(self._folder_fd)

    @property
    def rows(self) -> int:
        """Return how many rows were appended so far, over all tables."""
        return sum(table.rows for table in list(self._tables.values()))

    @property
    def bytes(self) -> int:
        """Return what the trace takes on disk now."""
        return sum(table.bytes for table in list(self._tables.values()))

    @property
    def spool(self) -> Path:
        """Return the folder for what a source keeps besides rows; it goes when the trace is sealed."""
        return self.path / SPOOL

    def draft(self, manifest: Manifest, lost: Mapping[str, int]) -> None:
        """Note what is to be said of the trace, and lost so far, if this process dies before it seals it."""
        write_draft(self.path, manifest, lost)

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Append rows (arrays of one length, one per column of the schema) to `table`."""
        with self._keeping_what_is_there():
            with self._lock:
                spool = self._table(table)
                self._spool_names()
            spool.append(columns)

    def lose(self, table: str, lost: int) -> None:
        """Record that the source counted `lost` events of `table` that have no row."""
        with self._lock:
            self._table(table)
            self._lost[table] = self._lost.get(table, 0) + lost

    def name_id(self, name: str) -> int:
        """Return the id of `name` in the side table, adding it if it is new."""
        with self._lock:
            return self._names.setdefault(name, len(self._names))

    def seal(self, manifest: Manifest) -> "Trace":
        """Seal all tables, write the manifest, sync, rename it into place and open the trace."""
        with self._keeping_what_is_there():
            self._spool_names()
            seal(self.path, manifest, self._tables, self._lost)
        return Trace(self.path)

    def _table(self, table: str) -> TableSpool:
        if table not in self._tables:
            self._tables[table] = TableSpool(self.path, table)
        return self._tables[table]

    def _spool_names(self) -> None:
        """Append the names that are new, before the rows that refer to them."""
        names = list(self._names)[self._names_spooled :]
        if names:
            ids = np.arange(self._names_spooled, self._names_spooled + len(names))
            self._table("names").append({"name_id": ids, "name": names})
            self._names_spooled += len(names)

    @contextmanager
    def _keeping_what_is_there(self) -> Iterator[None]:
        """Keep the rows when the disk fills up: hours of recording are not to go for the last second."""
        try:
            yield
        except DiskError as error:
            self._keep = self.rows > 0
            held = f"; {self.path} holds what came before" if self._keep else ""
            raise TraceError(f"{error}{held}") from None

    def _exists(self) -> TraceError:
        return TraceError(f"{self.path}: exists already and is never overwritten: choose another name")


class Trace:
    """A sealed trace, checked when opened: version, hashes, balance. One whose writer died is sealed first.

    Raises
    ------
    TraceError
        Missing, truncated, altered by as little as one byte, unbalanced, or of another major version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        recover(self.path)
        self.manifest = Manifest.read(self.path / MANIFEST)
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
        _check_memory(self.path, info.rows, [schema.field(name).type for name in wanted])
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
        if columns.names != expected.names or columns.types != expected.types:
            raise TraceError(f"{file}: its columns are not those of table {table}: record it again")
        if metadata.num_rows != segment.rows:
            raise TraceError(
                f"{file}: {metadata.num_rows} rows, {segment.rows} in the manifest: record it again"
            )


def _check_memory(path: Path, rows: int, types: list[pa.DataType]) -> None:
    """Refuse columns that this machine cannot hold before they are read: a small file can declare many."""
    width = sum(each.bit_width for each in types if pa.types.is_primitive(each))
    needed = rows * width // 8 * 2  # as Arrow, and as NumPy where the two differ
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > total:
        raise TraceError(
            f"{path}: {rows} rows need {needed >> 30} GiB of memory, this machine has {total >> 30}: "
            f"use a larger machine or record a shorter trace"
        )


def _remove_stale(path: Path) -> None:
    """Remove what a writer of the same trace left that was killed before it began or while it cleared up."""
    for kind in ("new", "gone"):
        for left in path.parent.glob(f".{path.name}.{kind}-*"):
            if not Path("/proc", left.name.rpartition("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)
