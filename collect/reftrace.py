"""The reference tracer's machinery: the plugin's shared state, and the rows it left behind.

    pgtrace.c + sad.h --compiled.py--> plugin --qemu-x86_64 -plugin--> spool (records, not in order)
                                                                       state (what was pending)

The layouts here mirror `sad_record`, `sad_node` and `sad_state` in sadstate.h. The state file outlives every
traced process, a killed one too, so that pending references are read from it and nothing is lost.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from kdtool.errors import TraceError
from kdtool.traces import NO_TID, TraceWriter, VmaFlag
from kdtool.traces.spool import DiskError

__all__ = ["MAX_K", "RECORD", "SOURCES", "Spool", "write_rows"]

SOURCES = (
    "pgtrace.c",
    "pgexec.h",
    "pglayout.h",
    "pgmodify.h",
    "pgspill.h",
    "pgwaits.h",
    "pgzeros.h",
    "sad.h",
    "sadstate.h",
)
RING_RECORDS = 65_536
"""Records kept in the state before they are written to the spool: 3 MB."""
NAMES_BYTES = 1 << 20
MAX_K = 1 << 20
ZONE = 16
MAGIC = 0x314453746466656B
WAKES = 1 << 12
VMA_KIND, FORK_KIND, WAIT_KIND, ZEROS_KIND = 256, 512, 1024, 2048
MOVED_SHIFT = 12
CHUNK_ROWS = 2_000_000


def _struct(fields: str) -> "np.dtype[Any]":
    """Return the dtype of a C struct: `name dtype` pairs, laid out and padded as C does."""
    words = fields.split()
    return np.dtype(list(zip(words[::2], words[1::2], strict=True)), align=True)


RECORD = _struct("seq u8 vpn u8 ip u8 insns u8 pid i4 tid i4 kind u4 offset u4")
WAKE = _struct("key u8 seq u8 tid i4")
NODE = np.dtype([("key", "u8"), ("first", "u8"), ("pending", RECORD), ("links", "u4", 6)])
COUNTERS = _struct(
    """magic u8 k u4 hash_bits u4 ring_cap u4 zone_cap u4 names_at u8 ring_at u8 nodes_at u8 hash_at u8
    wakes_at u8 size u8 stop u4 broken u4 refs u8 insns u8 lost u8 untraced u8 processes u8 names_used u4
    names_lost u4 forks u4 unread u4 error u4"""
)
STREAM = _struct("lock i4 now u8 emitted u8 written u8 n u4 head u4 tail u4 zone_n u4")
UNDO = np.dtype([("undo_node", "u4"), ("undo_n", "u4"), ("undo_emitted", "u8"), ("undo", NODE)])
STREAM_AT = 192  # `lock` begins a cache line
UNDO_AT = STREAM_AT + STREAM.itemsize + ZONE * 12  # after zone and zone_last
HEADER_BYTES = 4096


class Spool:
    """The two files that the plugin writes, in the trace's own spool: the shared state and the records.

    They outlive the traced processes and us: `Spool(folder)` opens what a killed recorder left.
    """

    def __init__(self, folder: Path) -> None:
        self.state_path, self.records_path = folder / "state", folder / "records"
        self._bytes = np.memmap(self.state_path, np.uint8, "r+")
        self._counters = self._part(0, COUNTERS, 1)
        self._stream = self._part(STREAM_AT, STREAM, 1)

    @classmethod
    def left_in(cls, folder: Path) -> Self:
        """Open what a killed recorder left; TraceError unless it is whole, which bounds what is read."""
        try:
            if (folder / "state").stat().st_size < HEADER_BYTES:
                raise ValueError("it had not been begun")
            spool = cls(folder)
            spool._check()
        except (OSError, ValueError) as error:
            raise TraceError(f"{folder}: cannot be read ({error}): record the trace again") from None
        return spool

    def _check(self) -> None:
        """Raise ValueError unless the files are as `make` and the plugin leave them."""
        k, stream, undo = self.count("k"), self._stream[0], self._part(UNDO_AT, UNDO, 1)[0]
        if k > MAX_K or self._bytes.size != (layout := _layout(k))["size"]:
            raise ValueError(f"state: {self._bytes.size} bytes are not those of k = {k}")
        altered = [name for name, value in layout.items() if self.count(name) != value]
        if altered:
            raise ValueError(f"state: {altered[0]} is {self.count(altered[0])}, not {layout[altered[0]]}")
        written, emitted = int(stream["written"]), int(stream["emitted"])
        steps = [(emitted, int(stream["n"]))]
        if undo["undo_node"]:
            steps.append((int(undo["undo_emitted"]), int(undo["undo_n"])))
        if any(not written <= end <= written + RING_RECORDS or n > k + 1 for end, n in steps):
            raise ValueError(f"state: {emitted} records, of which {written} were written")
        if undo["undo_node"] > k + 1 or written * RECORD.itemsize > self.records_path.stat().st_size:
            raise ValueError(f"records: there are fewer than the {written} that were written")

    @classmethod
    def make(cls, folder: Path, k: int) -> Self:
        """Make the files for a reduction window of `k` pages; TraceError when there is no room for them."""
        layout = _layout(k)
        size = layout["size"]
        try:
            folder.mkdir()
            with (folder / "state").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            (folder / "records").touch()
        except OSError as error:
            raise TraceError(
                f"{folder.parent}: {error.strerror}: free {size >> 20} MiB or more there"
            ) from None
        spool = cls(folder)
        for name, value in layout.items():
            spool._counters[name] = value
        return spool

    @property
    def address(self) -> int:
        """Return where the state lies in this process's memory."""
        return int(self._bytes.ctypes.data)

    def count(self, name: str) -> int:
        """Return one counter of the state."""
        return int(self._counters[name][0])

    @property
    def emitted(self) -> int:
        """Return how many records were made so far."""
        return int(self._stream["emitted"][0])

    def stop(self) -> None:
        """Have every process record no more, from its next reference on."""
        self._counters["stop"] = 1

    def chunks(self) -> Iterator["np.ndarray[Any, Any]"]:
        """Yield every record that was made, in order of seq; to be called once, when all processes are gone.

        Raises
        ------
        DiskError
            Records cannot be written: the disk is full. They are still there, to be read another time.
        TraceError
            Records were lost.
        """
        self._spool_the_rest()
        if not self.records_path.stat().st_size:
            return
        records = np.memmap(self.records_path, RECORD, "r")
        self._seq = seq = np.ascontiguousarray(records["seq"])
        in_order = bool(np.all(seq[1:] >= seq[:-1]))
        self._order = order = None if in_order else np.argsort(seq, kind="stable")
        for start in range(0, len(records), CHUNK_ROWS):
            end = start + CHUNK_ROWS
            yield np.asarray(records[start:end]) if order is None else records[order[start:end]]

    def n_until(self, seq: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Return how many records are as old as each `seq`, or older; once chunks() has begun."""
        return np.searchsorted(self._seq, seq, side="right", sorter=self._order)

    def _spool_the_rest(self) -> None:
        """Append what is in the ring and what SAD had pending to the spooled records."""
        stream, undo = self._stream[0], self._part(UNDO_AT, UNDO, 1)[0]
        written, emitted, n = int(stream["written"]), int(stream["emitted"]), int(stream["n"])
        nodes = self._part(self.count("nodes_at"), NODE, self.count("k") + 2).copy()
        if undo["undo_node"]:  # a process was killed half-way through one step: take the step back
            nodes[undo["undo_node"]] = undo["undo"]
            emitted, n = int(undo["undo_emitted"]), int(undo["undo_n"])
        ring = self._part(self.count("ring_at"), RECORD, RING_RECORDS)
        pending = nodes["pending"][1 : n + 1]
        rest = [ring[np.arange(written, emitted) % RING_RECORDS], pending[pending["seq"] > 0]]
        if lost := self.count("lost"):
            raise TraceError(
                f"{self.records_path.parent.parent}: {lost} of {emitted + lost} records could not be written "
                f"({os.strerror(self.count('error'))}): record again"
            )
        try:
            with self.records_path.open("r+b") as file:
                file.truncate(written * RECORD.itemsize)  # no more than was counted, should a killer have hit
                file.seek(0, os.SEEK_END)
                file.write(np.concatenate(rest).tobytes())
        except OSError as error:
            raise DiskError(
                f"{self.records_path.parent.parent}: {emitted - written} of {emitted} records cannot be "
                f"written ({error.strerror}): free some space there"
            ) from None

    def name(self, offset: int) -> str:
        """Return the file name at `offset` of the side table; TraceError where that has no such place."""
        if not 0 <= offset < NAMES_BYTES:
            raise TraceError(f"{self.state_path}: has no name at {offset}: record the trace again")
        names = self._part(self.count("names_at"), np.dtype("u1"), NAMES_BYTES)[offset:]
        return bytes(names[: int(np.argmin(names))]).decode(errors="surrogateescape")

    def _part(self, at: int, dtype: "np.dtype[Any]", n: int) -> "np.ndarray[Any, Any]":
        return self._bytes[at : at + n * dtype.itemsize].view(dtype)


def _layout(k: int) -> dict[str, int]:
    """Return what the header of a state for a reduction window of `k` pages says."""
    hash_bits = max(10, (2 * (k + 1)).bit_length())
    names_at = HEADER_BYTES
    ring_at = names_at + NAMES_BYTES
    nodes_at = ring_at + RING_RECORDS * RECORD.itemsize
    hash_at = nodes_at + (k + 2) * NODE.itemsize
    wakes_at = hash_at + (4 << hash_bits)
    header = {"magic": MAGIC, "k": k, "hash_bits": hash_bits, "ring_cap": RING_RECORDS}
    header |= {"zone_cap": min(ZONE, k), "names_at": names_at, "ring_at": ring_at, "nodes_at": nodes_at}
    return header | {"hash_at": hash_at, "wakes_at": wakes_at, "size": wakes_at + WAKES * WAKE.itemsize}


def write_rows(spool: Spool, writer: TraceWriter) -> int:
    """Append all rows to the tables of `refs` and return how many references there are."""
    n_refs = n_vmas = 0
    others = np.empty(0, np.uint64)
    for records in spool.chunks():
        kind = records["kind"]
        is_ref, is_fork, is_wait = kind < VMA_KIND, kind == FORK_KIND, kind == WAIT_KIND
        is_zeros = kind == ZEROS_KIND
        is_vma = ~is_ref & ~is_fork & ~is_wait & ~is_zeros
        refs, row, vma_row = records[is_ref], n_refs + np.cumsum(is_ref), n_vmas + np.cumsum(is_vma)
        others = np.append(others, records["seq"][~is_ref])
        if is_vma.any():
            _append_vmas(spool, writer, records[is_vma], row[is_vma])
        if is_fork.any():
            _append_forks(writer, records[is_fork], row[is_fork], vma_row[is_fork])
        if is_wait.any():
            woken = records["vpn"][is_wait]
            by_row = spool.n_until(woken) - np.searchsorted(others, woken, side="right")
            _append_waits(writer, records[is_wait], row[is_wait], by_row)
        writer.append("zeros", {"row": row[is_zeros] - 1})
        columns = {name: refs[name] for name in ("pid", "tid", "vpn", "ip", "insns")}
        writer.append("refs", columns | {"kind": refs["kind"].astype(np.uint8)})
        n_refs, n_vmas = n_refs + len(refs), n_vmas + int(np.count_nonzero(is_vma))
    if not n_refs:
        raise TraceError("the command ended before its first instruction: nothing was recorded; run it alone")
    return n_refs


def _append_vmas(
    spool: Spool, writer: TraceWriter, changes: "np.ndarray[Any, Any]", rows: "np.ndarray[Any, Any]"
) -> None:
    """Append address-space changes; `rows[i]` references came before the i-th."""
    offsets, which = np.unique(changes["tid"], return_inverse=True)
    ids = np.array([writer.name_id(spool.name(int(offset))) for offset in offsets], np.uint32)
    unmapped = changes["kind"] & VmaFlag.UNMAPPED > 0
    above = changes["kind"].astype(np.int64) >> MOVED_SHIFT
    columns = {
        "ts_ns": changes["insns"].astype(np.int64),
        "pid": changes["pid"],
        "start_vpn": changes["vpn"],
        "end_vpn": changes["ip"],
        "flags": (changes["kind"] & (VMA_KIND - 1)).astype(np.uint8),
        "name_id": ids[which],
        "row": rows.astype(np.int64),
        "offset_pages": np.where(unmapped, above << 32, 0) | changes["offset"],
        "advice": np.where(unmapped, 0, above).astype(np.uint8),
    }
    writer.append("vmas", columns)


def _append_forks(
    writer: TraceWriter,
    forks: "np.ndarray[Any, Any]",
    rows: "np.ndarray[Any, Any]",
    vma_rows: "np.ndarray[Any, Any]",
) -> None:
    """Append forks; `rows[i]` references and `vma_rows[i]` address-space changes came before the i-th."""
    columns = {
        "ts_ns": forks["insns"].astype(np.int64),
        "pid": forks["pid"],
        "parent": forks["tid"],
        "row": rows.astype(np.int64),
        "vma_row": vma_rows.astype(np.int64),
    }
    writer.append("forks", columns)


def _append_waits(
    writer: TraceWriter,
    waits: "np.ndarray[Any, Any]",
    rows: "np.ndarray[Any, Any]",
    by_rows: "np.ndarray[Any, Any]",
) -> None:
    """Append sleeps; `rows[i]` references came before the end of the i-th, `by_rows[i]` before its cause."""
    known = waits["offset"] > 0
    columns = {
        "ts_ns": waits["insns"].astype(np.int64),
        "pid": waits["pid"],
        "tid": waits["tid"],
        "row": rows.astype(np.int64),
        "by_tid": np.where(known, waits["offset"], NO_TID).astype(np.int32),
        "by_row": np.where(known, by_rows, rows).astype(np.int64),
        "asked_ns": waits["ip"].astype(np.int64),
    }
    writer.append("waits", columns)
