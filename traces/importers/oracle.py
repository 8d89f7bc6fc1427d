"""`oracle-general`: libCacheSim's binary traces (oracleGeneral), read and written; also compressed by zstd.

    record, 24 bytes, little-endian: time u32 (s) | object u64 | size u32 (bytes) | next access i64

An object becomes a page: vpn is its number if all are below 2**52, else numbers are given in the order
of first appearance; every record is one reference, whatever its size. `next access` is the number of the next
record of the same object, from 0, -1 for the last: written exactly, not needed when read. Written: one object
for each page of each process, numbered in the order of first reference, of 4096 bytes; the time is the number
of the reference / 1,000,000.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdtool.errors import ParameterError, TraceError
from kdtool.traces.importers.base import Imported
from kdtool.traces.io import Trace
from kdtool.traces.manifest import Reduction
from kdtool.traces.schema import RefKind
from kdtool.traces.sizes import PAGE_BYTES
from kdtool.traces.writer import TraceWriter

__all__ = ["OracleGeneralImporter", "write_oracle_general"]

RECORD = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
BLOCK_RECORDS = 1 << 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_VPN = 1 << 52
REFS_PER_SECOND = 1_000_000
"""Of the times that are written: references have none."""

Records = npt.NDArray[Any]


class OracleGeneralImporter:
    """Read references from oracleGeneral."""

    name = "oracle-general"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append a reference for each record of `file`."""
        numbers = _Numbers() if _has_large_objects(file) else None
        rows, sizes = 0, set[int]()
        for records in _blocks(file):
            n_rows = len(records)
            columns = {
                "pid": np.ones(n_rows, np.int32),
                "tid": np.ones(n_rows, np.int32),
                "vpn": records["object"] if numbers is None else numbers.of(records["object"]),
                "ip": np.zeros(n_rows, np.uint64),
                "kind": np.full(n_rows, RefKind.LOAD, np.uint8),
                "insns": np.arange(rows + 1, rows + n_rows + 1, dtype=np.uint64),
            }
            writer.append("refs", columns)
            rows += n_rows
            if len(sizes) < 2:
                sizes.update(np.unique(records["size"])[:2].tolist())
        facts = {"objects_renumbered": numbers is not None, "sizes": "one" if len(sizes) == 1 else "several"}
        return Imported("insns", reduction=Reduction("none", 0), facts=facts)


def write_oracle_general(trace: Trace, file: Path) -> int:
    """Write the references of `trace` to `file`, which must not exist, and return how many records it has.

    Memory: 16 bytes a page of the footprint beside the references themselves. TraceError without references.
    """
    if file.exists():
        raise ParameterError(f"{file}: exists already and is never overwritten: choose another name")
    refs = trace.columns("refs", ["pid", "vpn"])
    pages = refs["pid"].astype(np.uint64) << np.uint64(52) | refs["vpn"]
    _, first, object_of = np.unique(pages, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.uint64)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.uint64)
    after = _next_access(object_of, len(first))
    beside = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        with beside.open("wb") as out:
            for start in range(0, len(pages), BLOCK_RECORDS):
                part = slice(start, start + BLOCK_RECORDS)
                records = np.empty(len(pages[part]), RECORD)
                records["time"] = np.arange(start, start + len(records)) // REFS_PER_SECOND
                records["object"], records["size"] = rank[object_of[part]], PAGE_BYTES
                records["next"] = after[part]
                out.write(records.tobytes())
        beside.rename(file)
    except OSError as error:
        raise TraceError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            beside.unlink()
    return len(pages)


def _next_access(object_of: npt.NDArray[np.int64], n_objects: int) -> npt.NDArray[np.int64]:
    """Return for each reference the number of the next one to the same object, -1 if there is none.

    >>> _next_access(np.array([0, 1, 0, 0]), 2).tolist()
    [2, -1, 3, -1]
    """
    order = np.argsort(object_of, kind="stable")
    after = np.full(len(object_of), -1, np.int64)
    same = object_of[order[1:]] == object_of[order[:-1]]
    after[order[:-1][same]] = order[1:][same]
    return after


def _blocks(file: Path) -> Iterator[Records]:
    """Yield the records of a file, a block at a time."""
    left, at = b"", 0
    try:
        with _opened(file) as stream:
            while data := stream.read(BLOCK_RECORDS * RECORD.itemsize):
                data = left + data
                whole = len(data) // RECORD.itemsize * RECORD.itemsize
                records = np.frombuffer(data[:whole], RECORD)
                _check(file, records, at)
                yield records
                left, at = data[whole:], at + len(records)
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"{file}: cannot be read ({error}): is it whole?") from None
    if left:
        raise TraceError(
            f"{file}: {len(left)} bytes after record {at}, a record has 24: it is cut, or no oracleGeneral"
        )


def _opened(file: Path) -> pa.NativeFile:
    with file.open("rb") as head:
        magic = head.read(4)
    return pa.input_stream(str(file), compression="zstd" if magic == ZSTD_MAGIC else None)


def _check(file: Path, records: Records, at: int) -> None:
    """Raise for what no oracleGeneral file has: a next access that is not later."""
    number = np.arange(at, at + len(records))
    wrong = (records["next"] >= 0) & (records["next"] < number)
    if wrong.any():
        n = int(np.flatnonzero(wrong)[0])
        raise TraceError(
            f"{file}: record {at + n} says that its next access is record {records['next'][n]}, before it: "
            f"this is not oracleGeneral"
        )


def _has_large_objects(file: Path) -> bool:
    return any(int(records["object"].max(initial=0)) >= MAX_VPN for records in _blocks(file))


class _Numbers:
    """Numbers of objects in the order of first appearance: 16 bytes an object, sorted by object."""

    def __init__(self) -> None:
        self._objects = self._numbers = np.empty(0, np.uint64)

    def of(self, objects: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return the number of each object; new ones get the next."""
        block, first, inverse = np.unique(objects, return_index=True, return_inverse=True)
        is_new = ~np.isin(block, self._objects, assume_unique=True)
        new, order = block[is_new], np.argsort(first[is_new])
        numbers = np.empty(len(new), np.uint64)
        numbers[order] = np.arange(len(self._objects), len(self._objects) + len(new), dtype=np.uint64)
        at = np.searchsorted(self._objects, new)
        self._objects, self._numbers = (
            np.insert(self._objects, at, new),
            np.insert(self._numbers, at, numbers),
        )
        return self._numbers[np.searchsorted(self._objects, block)][inverse]
