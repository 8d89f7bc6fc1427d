"""Rows of `accel` for importers: SQLite sorts them on disk, here they are checked and appended.

    SELECT of the columns of ROW --ORDER BY, spilled to disk--> blocks --checked--> accel

Profilers write events grouped by stream or thread; `accel` is in order of start, whatever the size of the
file. Sorting spills into SQLite's folder for temporary files (SQLITE_TMPDIR, TMPDIR, else /var/tmp); at no
time is more in memory than a block, and CACHE_BYTES for each table that is sorted. All times are integers.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.traces.schema import NO_TIME, AccelKind
from kdtool.traces.writer import TraceWriter

__all__ = ["NAMES_BYTES", "ROW", "NameIds", "append_sorted", "database", "too_many_names"]

BLOCK_ROWS = 1 << 16
CACHE_BYTES = 32 << 20
"""SQLite's page cache a database, and the memory of each of its sorts."""
VALUE_BYTES = 1 << 24
"""The longest text or row that is read."""
NAMES_BYTES = 1 << 27
"""All different names together: they are held in memory, so a file of nothing but names is refused."""
LAST_NS = 1 << 62
"""Later than any time: the year 2116 by the realtime clock."""

ROW = {
    "queued_ns": (NO_TIME, LAST_NS),
    "submit_ns": (NO_TIME, LAST_NS),
    "start_ns": (0, LAST_NS),
    "end_ns": (NO_TIME, LAST_NS),
    "pid": (-1, 2**31 - 1),
    "device": (-1, 2**15 - 1),
    "queue": (0, 2**32 - 1),
    "kind": (0, int(max(AccelKind))),
    "bytes": (0, 2**62),
    "address": (0, 2**63 - 1),
    "name_id": (0, 2**32 - 1),
}
"""The columns of a row, in this order, and the values allowed. pid or device -1: not known, or the host."""


class NameIds:
    """Ids in the trace for the names of a file, given for whatever the file calls them by.

    Parameters
    ----------
    writer : of the trace
    file : what is imported, for messages
    name_of : returns the name for a key, or raises TraceError
    """

    def __init__(self, writer: TraceWriter, file: Path, name_of: Callable[[Any], str]) -> None:
        self._writer, self._file, self._name_of = writer, file, name_of
        self._ids: dict[Any, int] = {}
        self._bytes = 0

    def __call__(self, keys: tuple[Any, ...]) -> list[int]:
        """Return the ids of the names of `keys`."""
        for key in set(keys) - self._ids.keys():
            name = self._name_of(key)
            self._bytes += len(name) + 64
            if self._bytes > NAMES_BYTES:
                raise too_many_names(self._file)
            self._ids[key] = self._writer.name_id(name)
        return [self._ids[key] for key in keys]


def too_many_names(file: Path) -> TraceError:
    """Return the error for more names than are held in memory."""
    return TraceError(
        f"{file}: its different names take more than {NAMES_BYTES >> 20} MiB: record with names that do not "
        f"hold a number of their own each"
    )


@contextmanager
def database(uri: str, file: Path, fix: str) -> Iterator[sqlite3.Connection]:
    """Open a SQLite database; what goes wrong with it inside the block is a TraceError about `file`.

    Parameters
    ----------
    uri : `file:...`, with its options
    file : what the user gave, for the message
    fix : what to do when it is damaged
    """
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as opened:
            opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
            opened.execute("PRAGMA trusted_schema = OFF")
            opened.execute("PRAGMA temp_store = FILE")
            opened.execute(f"PRAGMA cache_size = {-(CACHE_BYTES >> 10)}")
            yield opened
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            fix = "free some space, or set SQLITE_TMPDIR to a folder that has it"
        raise TraceError(f"{file}: {str(error).splitlines()[0][:120]}: {fix}") from None
    except OverflowError:
        raise TraceError(f"{file}: a number beyond 64 bits: {fix}") from None
    except UnicodeDecodeError:  # SQLite names in its message what it found
        raise TraceError(f"{file}: text that is not UTF-8: {fix}") from None


def append_sorted(
    writer: TraceWriter, file: Path, cursor: sqlite3.Cursor, names: NameIds, begin_ns: int = 0
) -> None:
    """Append to `accel` all that `cursor` returns: the columns of ROW, in order of start.

    Parameters
    ----------
    cursor : its last column is a key for `names`
    begin_ns : is added to all times that are known

    Raises
    ------
    TraceError
        A value that is no integer, or not one of those that ROW allows; an end before the start.
    """
    done = 0
    while rows := cursor.fetchmany(BLOCK_ROWS):
        *numbers, keys = zip(*rows, strict=True)
        columns = {}
        for name, values in zip(ROW, [*numbers, names(keys)], strict=True):
            columns[name] = _integers(file, name, values, done)
            if name.endswith("_ns") and begin_ns:
                columns[name] = _shifted(columns[name], begin_ns)
            _check_range(file, name, columns[name], done)
        _check_ends(file, columns, done)
        writer.append("accel", columns)
        done += len(rows)


def _integers(file: Path, name: str, values: Sequence[Any], done: int) -> npt.NDArray[np.int64]:
    if set(map(type, values)) != {int}:
        row = next(i for i, value in enumerate(values) if type(value) is not int)
        raise TraceError(
            f"{file}: {name} of event {done + row} by time is {str(values[row])[:40]!r}, not an integer: "
            f"export it again"
        )
    return np.array(values, np.int64)


def _shifted(times_ns: npt.NDArray[np.int64], begin_ns: int) -> npt.NDArray[np.int64]:
    """Add without overflow: what is out of range stays so."""
    known = (times_ns != NO_TIME) & (np.abs(times_ns) <= LAST_NS)
    return np.where(known, times_ns + begin_ns, times_ns)


def _check_range(file: Path, name: str, values: npt.NDArray[np.int64], done: int) -> None:
    low, high = ROW[name]
    outside = (values < low) | (values > high)
    if outside.any():
        row = int(np.argmax(outside))
        raise TraceError(
            f"{file}: {name} of event {done + row} by time is {values[row]}, allowed are {low} to {high}: "
            f"export it again"
        )


def _check_ends(file: Path, columns: dict[str, npt.NDArray[np.int64]], done: int) -> None:
    early = (columns["end_ns"] != NO_TIME) & (columns["end_ns"] < columns["start_ns"])
    if early.any():
        row = int(np.argmax(early))
        raise TraceError(
            f"{file}: event {done + row} by time ends at {columns['end_ns'][row]} ns, before it starts at "
            f"{columns['start_ns'][row]} ns: export it again"
        )
