"""Writing traces: a folder `NAME.kdt/` that is a trace once its manifest is in place.

    NAME.kdt/  recording.json   while it is written: what the manifest will say, should the writer be killed
               spool/           rows not yet in a segment (spool.py)
               TABLE/000000.parquet
               manifest.json    renamed into place last: from then on the trace is sealed

The writer holds a lock on the folder. After an error nothing is left, but when the disk is full; after
SIGKILL, `ResumedWriter` takes over what is there.
"""

import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from kdtool.errors import TraceError
from kdtool.traces.io import Trace
from kdtool.traces.manifest import Manifest
from kdtool.traces.sealing import MANIFEST, lock_folder, read_draft, seal, write_draft
from kdtool.traces.spool import SPOOL, DiskError, TableSpool, read_names, spooled_tables

__all__ = ["ResumedWriter", "TraceWriter"]

NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte of a file's name (PEP 383)."""
UNKNOWN = Manifest("interrupted", "unknown", [], {"name": "unknown"})


class TraceWriter:
    """Write one trace; it is none before `seal`, and gone after an error.

    Several threads may append at once.

    spooled : records that a source has in the spool so far, and recovers from there itself

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "t.kdt"
    >>> with TraceWriter(path) as writer:
    ...     writer.append("refs", {"pid": [1], "tid": [1], "vpn": [7], "ip": [0], "kind": [0], "insns": [5]})
    ...     trace = writer.seal(Manifest("complete", "insns", ["true"], {"name": "doctest"}))
    >>> trace.columns("refs", ["vpn"])["vpn"].tolist()
    [7]
    """

    def __init__(self, path: Path | str) -> None:
        self._begin(Path(path))
        if self.path.suffix != ".kdt":
            raise TraceError(f"{self.path}: a trace's name ends in .kdt: give -o {self.path.stem or 'T'}.kdt")
        if os.path.exists(self.path):  # of a name that is too long, making it says so
            raise TraceError(f"{self.path}: exists already and is never overwritten: choose another name")

    def _begin(self, path: Path) -> None:
        self.path = path
        self._tables: dict[str, TableSpool] = {}
        self._lost: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._names_spooled = 0
        self._lock = threading.RLock()
        self.spooled = 0
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
        except (OSError, TraceError) as error:
            if self._folder_fd >= 0:
                os.close(self._folder_fd)
            shutil.rmtree(made, ignore_errors=True)
            why = error.strerror if isinstance(error, OSError) else "no space left: free some"
            raise TraceError(f"{self.path}: cannot be created: {why}") from None
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
        """Return what the trace takes on disk now, what sources keep in its spool included."""
        kept = sum(file.stat().st_size for file in self.spool.glob("*/*"))
        return kept + sum(table.bytes for table in list(self._tables.values()))

    @property
    def spool(self) -> Path:
        """Return the folder for what a source keeps besides rows; it goes when the trace is sealed."""
        return self.path / SPOOL

    def draft(self, manifest: Manifest, lost: Mapping[str, int]) -> None:
        """Note what is to be said of the trace, and lost so far, if this process dies before it seals it."""
        with self.keeping_what_is_there():
            write_draft(self.path, manifest, lost)

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Append rows (arrays of one length, one per column of the schema) to `table`."""
        with self.keeping_what_is_there():
            with self._lock:
                spool = self._table(table)
                self._spool_names()
            with spool.lock:
                spool.append(columns)

    def lose(self, table: str, lost: int) -> None:
        """Record that the source counted `lost` events of `table` that have no row."""
        with self._lock:
            self._table(table)
            self._lost[table] = self._lost.get(table, 0) + lost

    def name_id(self, name: str) -> int:
        """Return the id of `name` in the side table, adding it if it is new.

        A file may have any bytes as its name, and JSON half a character: what is no UTF-8 becomes the
        replacement character.
        """
        text = NO_BYTE.sub("\ufffd", name).encode(errors="surrogateescape").decode(errors="replace")
        with self._lock:
            return self._names.setdefault(text, len(self._names))

    def seal(self, manifest: Manifest) -> "Trace":
        """Seal all tables, write the manifest, sync, rename it into place and open the trace."""
        with self.keeping_what_is_there():
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
    def keeping_what_is_there(self) -> Iterator[None]:
        """Keep what was recorded when the disk fills up: hours are not to go for the last second."""
        try:
            yield
        except DiskError as error:
            self._keep = self.rows + self.spooled > 0
            held = f"; {self.path} holds what came before" if self._keep else ""
            raise TraceError(f"{error}{held}") from None


class ResumedWriter(TraceWriter):
    """Take over what a killed writer left in `path`; `seal(writer.drafted)` makes it an interrupted trace.

    Nothing is removed if that fails. Raises TraceError when the trace is still being recorded, or cannot be
    read or written.
    """

    def __init__(self, path: Path | str) -> None:
        self._begin(Path(path))
        self.drafted = UNKNOWN

    def __enter__(self) -> Self:
        try:
            self._folder_fd = lock_folder(self.path)
        except BlockingIOError:
            raise TraceError(f"{self.path}: is being recorded now: wait for the recording to end") from None
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror}: give a folder that you may read") from None
        try:
            self.drafted, self._lost = read_draft(self.path)
            for name in spooled_tables(self.path):
                self._table(name).recover()
            known = read_names(self.path / "names", self._table("names").segments)
        except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
            os.close(self._folder_fd)
            raise TraceError(f"{self.path}: was interrupted and cannot be sealed ({error})") from None
        self._names, self._names_spooled = known, len(known)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        os.close(self._folder_fd)

    def forget(self, table: str) -> None:
        """Drop the rows of a table that its source writes anew, from what it kept in the spool."""
        self._tables.pop(table, None)
        shutil.rmtree(self.path / table, ignore_errors=True)


def _remove_stale(path: Path) -> None:
    """Remove what a writer of the same trace left that was killed before it began or while it cleared up."""
    for kind in ("new", "gone"):
        for left in path.parent.glob(f".{path.name}.{kind}-*"):
            if not Path("/proc", left.name.rpartition("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)
