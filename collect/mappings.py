"""The rows of `vmas` in a recording of faults: what was mapped when it began, and what changed since.

    /proc/PID/maps  --snapshot-->  rows         MMAP2 --> a row     exec --> UNMAPPED over the whole space
                                                fork  --> the parent's rows again, under the child's pid

Linux reports no munmap to perf: a range that went away stays until another mapping covers it or the process
execs or ends. Names: the file's path, [heap] and [stack] as the kernel calls them, else "".
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdtool.errors import CapabilityError
from kdtool.kernel.perf_records import Comm, Exit, Fork, Mapping, Side
from kdtool.traces import NO_OFFSET, NO_ROW, TraceWriter, VmaFlag

__all__ = ["Mappings", "read_maps"]

PAGE_SHIFT = 12
KERNEL_NAMES = ("[heap]", "[stack]")
USER_END_VPN = 1 << 47 - PAGE_SHIFT
"""The end of user space with four-level page tables."""


@dataclass(frozen=True)
class Row:
    """A row of `vmas` without its process."""

    t_ns: int
    start_vpn: int
    end_vpn: int
    flags: int
    name: str


class _Live:
    """The rows of one process that no later one covers, in the order in which they came."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._by_start: list[tuple[int, int]] = []
        """First page and number of each row."""
        self._next = 0

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def add(self, row: Row) -> None:
        """Take a row in place of those that it covers."""
        first = bisect_left(self._by_start, (row.start_vpn, 0))
        after = bisect_left(self._by_start, (row.end_vpn, 0))
        for at in range(after - 1, first - 1, -1):
            number = self._by_start[at][1]
            old = self._rows[number]
            if old.start_vpn < old.end_vpn <= row.end_vpn:
                del self._rows[number], self._by_start[at]
        insort(self._by_start, (row.start_vpn, self._next))
        self._rows[self._next] = row
        self._next += 1

    def copy(self, t_ns: int) -> "_Live":
        """Return the same rows as of another time."""
        other = _Live()
        other._rows = {number: replace(row, t_ns=t_ns) for number, row in self._rows.items()}
        other._by_start, other._next = self._by_start.copy(), self._next
        return other


class Mappings:
    """Turns side records, in order of time, into rows of `vmas`; remembers what each process has mapped."""

    def __init__(self) -> None:
        self._live: dict[int, _Live] = {}
        self._pending: list[tuple[int, Row]] = []
        self.rows = 0

    def add(self, pid: int, row: Row) -> None:
        """Take a mapping."""
        self._live.setdefault(pid, _Live()).add(row)
        self._pending.append((pid, row))

    def follow(self, record: Side) -> None:
        """Take a side record."""
        if isinstance(record, Mapping):
            self.add(record.pid, _row(record))
        elif isinstance(record, Comm) and record.is_exec:
            self._live[record.pid] = _Live()
            gone = Row(record.t_ns, 0, USER_END_VPN, VmaFlag.UNMAPPED, "")
            self._pending.append((record.pid, gone))
        elif isinstance(record, Fork) and record.pid != record.parent_pid:
            self._fork(record)
        elif isinstance(record, Exit) and record.last:
            self._live.pop(record.pid, None)

    def _fork(self, record: Fork) -> None:
        inherited = self._live.get(record.parent_pid, _Live()).copy(record.t_ns)
        if record.pid in self._live:  # a snapshot was taken of it before its fork was read
            for row in inherited:
                self._live[record.pid].add(row)
        else:
            self._live[record.pid] = inherited
        self._pending += [(record.pid, row) for row in inherited]

    def write(self, writer: TraceWriter) -> None:
        """Append what came since the last time."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        rows = [row for _, row in pending]
        columns = {
            "ts_ns": np.array([row.t_ns for row in rows], np.int64),
            "pid": np.array([pid for pid, _ in pending], np.int32),
            "start_vpn": np.array([row.start_vpn for row in rows], np.uint64),
            "end_vpn": np.array([row.end_vpn for row in rows], np.uint64),
            "flags": np.array([row.flags for row in rows], np.uint8),
            "name_id": np.array([writer.name_id(row.name) for row in rows], np.uint32),
            "row": np.full(len(rows), NO_ROW, np.int64),
            "offset_pages": np.full(len(rows), NO_OFFSET, np.int64),
            "advice": np.zeros(len(rows), np.uint8),
        }
        writer.append("vmas", columns)
        self.rows += len(rows)


def read_maps(pid: int, t_ns: int) -> list[Row]:
    """Return what process `pid` has mapped now; empty if it has just ended.

    Raises CapabilityError for a process whose memory this user may not look at.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    except PermissionError:
        raise CapabilityError(
            f"/proc/{pid}/maps: refused to this user: run as the process's owner, or with CAP_SYS_PTRACE"
        ) from None
    rows = []
    for line in lines:
        addresses, permissions, _, _, _, *path = line.split(maxsplit=5)
        start, _, end = addresses.partition("-")
        prot = sum(bit for letter, bit in zip("rwx", (1, 2, 4), strict=True) if letter in permissions)
        name = path[0].strip() if path else ""
        record = Mapping(t_ns, pid, int(start, 16), int(end, 16), prot, permissions[3] == "s", name)
        rows.append(_row(record))
    return rows


def _row(record: Mapping) -> Row:
    is_file = record.name.startswith("/") and record.name != "//anon"
    flags = record.prot  # PROT_READ, WRITE and EXEC have the bits of VmaFlag
    flags |= VmaFlag.SHARED if record.shared else 0
    flags |= VmaFlag.FILE if is_file else 0
    name = record.name if is_file or record.name in KERNEL_NAMES else ""
    return Row(record.t_ns, record.start >> PAGE_SHIFT, record.end >> PAGE_SHIFT, int(flags), name)
