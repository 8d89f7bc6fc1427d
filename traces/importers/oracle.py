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
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kdtool.errors import ParameterError, TraceError
from kdtool.traces.importers.base import Imported
from kdtool.traces.io import BATCH_ROWS, Trace, require_room
from kdtool.traces.manifest import Reduction
from kdtool.traces.schema import RefKind
from kdtool.traces.sizes import PAGE_BYTES
from kdtool.traces.writer import TraceWriter

__all__ = ["OracleGeneralImporter", "write_oracle_general"]

RECORD = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
BLOCK_RECORDS = 1 << 20
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
VPN_BITS = 52
MAX_VPN, MAX_PROCESSES = 1 << VPN_BITS, 1 << (64 - VPN_BITS)
BYTES_A_PAGE = 60
"""Its key and number, both once more while others are put between them, and what comes next."""
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

    Memory: some 60 bytes a page of the footprint, however many references there are: what comes next is
    filled in from the end of the file to its beginning. TraceError without references.
    """
    if file.exists():
        raise ParameterError(f"{file}: exists already and is never overwritten: choose another name")
    pages = _Pages(trace.path)
    batches = trace.batches("refs", ["pid", "vpn"], BATCH_ROWS)
    beside = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        with beside.open("w+b") as out:
            n_rows = 0
            for part in batches:
                records = np.empty(len(part["vpn"]), RECORD)
                records["time"] = np.arange(n_rows, n_rows + len(records)) // REFS_PER_SECOND
                records["object"], records["size"] = pages.of(part["pid"], part["vpn"]), PAGE_BYTES
                records["next"] = -1
                out.write(records.tobytes())
                n_rows += len(records)
            _fill_in_next(out, n_rows, pages.count)
        beside.rename(file)
    except OSError as error:
        raise TraceError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            beside.unlink()
    return n_rows


def _fill_in_next(out: BinaryIO, n_rows: int, n_objects: int) -> None:
    """Write into each record which one is the next of its object, the last block first."""
    following = np.full(n_objects, -1, np.int64)
    for start in reversed(range(0, n_rows, BATCH_ROWS)):
        out.seek(start * RECORD.itemsize)
        data = out.read(min(BATCH_ROWS, n_rows - start) * RECORD.itemsize)
        records = np.frombuffer(bytearray(data), RECORD)
        records["next"] = _next_access(records["object"], start, following)
        out.seek(start * RECORD.itemsize)
        out.write(records.tobytes())


def _next_access(
    objects: npt.NDArray[np.uint64], start: int, following: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return for each reference of a block the number of the next one to the same object, -1 if none is.

    following : of each object, the first reference after the block; then the first from `start` on

    >>> following = np.array([7, -1])
    >>> _next_access(np.array([0, 1, 0, 0]), 2, following).tolist(), following.tolist()
    ([4, -1, 5, 7], [2, 3])
    """
    order = np.argsort(objects, kind="stable")
    objects = objects[order]
    is_last = np.append(objects[1:] != objects[:-1], True)
    is_first = np.append(True, is_last[:-1])
    after = np.empty(len(order), np.int64)
    after[order[:-1]] = order[1:] + start
    after[order[is_last]] = following[objects[is_last]]
    following[objects[is_first]] = order[is_first] + start
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


class _Pages:
    """Numbers of the pages of all processes, in the order of first reference."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._processes, self._pages = _Numbers(), _Numbers()

    @property
    def count(self) -> int:
        """Return how many pages have a number."""
        return self._pages.count

    def of(self, pids: npt.NDArray[np.int32], vpns: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return the number of each reference's page; TraceError where a key has no room for it."""
        process = self._processes.of(pids.astype(np.uint64))
        if self._processes.count > MAX_PROCESSES:
            raise TraceError(
                f"{self._path}: has more than {MAX_PROCESSES} processes, which is the most: record fewer"
            )
        if (most := int(vpns.max(initial=0))) >= MAX_VPN:
            raise TraceError(
                f"{self._path}: page {most} is beyond any 64-bit address, below {MAX_VPN}: record it again"
            )
        numbers = self._pages.of(process << np.uint64(VPN_BITS) | vpns)
        require_room(self._path, f"{self.count} pages", self.count * BYTES_A_PAGE)
        return numbers


class _Numbers:
    """Numbers of objects in the order of first appearance: 16 bytes an object, sorted by object."""

    def __init__(self) -> None:
        self._objects = self._numbers = np.empty(0, np.uint64)

    @property
    def count(self) -> int:
        """Return how many objects have a number."""
        return len(self._objects)

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
