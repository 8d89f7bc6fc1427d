"""Arrays as long as a trace: in memory while they fit there, else in files without a name.

A mapped file's pages can be written back and read again, so a trace may be larger than memory: a replay goes
through its columns from front to back. Which it is depends on what memory is free, and changes no result.

In memory they are mapped, in huge pages where the kernel has them: what a replay reads here and there takes
fewer misses of the TLB. One that is gone leaves its room to the next of its size in the same process.
"""

import contextlib
import mmap
import os
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError

__all__ = ["COPY_ROWS", "kept", "new_array", "told_twice", "writable", "zeros"]

SHARE = 32
"""An array of more than this part of the memory that is free lies in a file: with as many as a replay of two
policies at a time has, half of it is used."""
COPY_ROWS = 1 << 20
PACK_ROWS = 1 << 14
"""So many rows stay in a CPU's cache."""
HUGE_BYTES = 2 << 20
"""Of a page that x86 maps by one entry more: an array of fewer bytes has no use for one."""
CGROUP_LIMITS = (
    ("memory", "/sys/fs/cgroup/memory{}/memory.limit_in_bytes"),
    ("", "/sys/fs/cgroup{}/memory.max"),
)
"""Controller in /proc/self/cgroup ("" is v2's), and where its limit is."""


def new_array(n: int, dtype: npt.DTypeLike, *, shared: bool = False) -> npt.NDArray[Any]:
    """Return zeros of shape (n,); `shared`: what a forked process writes is seen here.

    Raises CapabilityError where there is no room for it on disk.
    """
    n_bytes = n * np.dtype(dtype).itemsize
    if n_bytes > free_memory_bytes() // SHARE:
        return np.frombuffer(_map_file(n_bytes), dtype)
    if shared and n:
        return np.frombuffer(mmap.mmap(-1, n_bytes), dtype)
    return zeros(n, dtype)


def zeros(n: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros of shape (n,) in memory."""
    n_bytes = n * np.dtype(dtype).itemsize
    if n_bytes < HUGE_BYTES:
        return np.zeros(n, dtype)
    room = _spare.take(n_bytes)
    array = np.frombuffer(room, np.uint8, n_bytes)
    weakref.finalize(array, _spare.give, room).atexit = False
    return array.view(dtype)


class _Spare:
    """Mappings of arrays that are gone, by their size, for arrays to come.

    What a virtual machine frees in huge pages its host may take back, and touching it again is dear: a replay
    in an LRU took 22 ns an access instead of 13.
    """

    def __init__(self) -> None:
        self._rooms: dict[int, list[mmap.mmap]] = {}
        self._n_bytes = 0

    def take(self, n_bytes: int) -> mmap.mmap:
        """Return a mapping that begins with so many zeros, in whole huge pages."""
        size = -(-n_bytes // HUGE_BYTES) * HUGE_BYTES
        if rooms := self._rooms.get(size):
            room = rooms.pop()
            self._n_bytes -= size
            np.frombuffer(room, np.uint8, n_bytes).fill(0)
            return room
        room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            room.madvise(mmap.MADV_HUGEPAGE)
        return room

    def give(self, room: mmap.mmap) -> None:
        """Keep a mapping that nobody uses, unless there are many."""
        if self._n_bytes + len(room) <= free_memory_bytes() // SHARE:
            self._rooms.setdefault(len(room), []).append(room)
            self._n_bytes += len(room)

    def clear(self) -> None:
        """Give all back: after a fork they would be copied, in pages of 4 KiB, as they are written."""
        self._rooms.clear()
        self._n_bytes = 0


_spare = _Spare()
os.register_at_fork(after_in_child=_spare.clear)


def writable(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column itself, or a copy if it is read-only or has gaps: compiled code takes no others."""
    return np.require(column, requirements=["C", "W"])


def kept(column: npt.NDArray[Any], keep: npt.NDArray[np.bool_], n_kept: int) -> npt.NDArray[Any]:
    """Return the `n_kept` rows of a column that are kept, moved to its front, or a copy's if it is read-only.

    Not to a new array: in a virtual machine the first touch of memory takes longer than all else here.
    """
    packed, done = writable(column), 0
    if n_kept == len(column):
        return packed
    for start in range(0, len(column), PACK_ROWS):
        part = packed[start : start + PACK_ROWS][keep[start : start + PACK_ROWS]]
        packed[done : done + len(part)] = part
        done += len(part)
    return packed[:n_kept]


def told_twice(column: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return a column in which each of these rows, rising, follows itself.

    >>> told_twice(np.array([5, 6, 7]), np.array([1]))
    array([5, 6, 6, 7])
    """
    if not len(rows):
        return column
    longer = new_array(len(column) + len(rows), column.dtype)
    for start in range(0, len(column), COPY_ROWS):
        part = column[start : start + COPY_ROWS]
        first, last = np.searchsorted(rows, (start, start + len(part)))
        times = np.ones(len(part), np.int64)
        times[rows[first:last] - start] = 2
        longer[start + first : start + len(part) + last] = np.repeat(part, times)
    return longer


@cache
def free_memory_bytes() -> int:
    """Return what was free, of the machine and of this process's cgroup, when it was first asked."""
    free = _machine_bytes()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller, place in CGROUP_LIMITS:
            if controller in controllers.split(","):
                free = min(free, _limit_bytes(Path(place.format(path))))
    return free


def _machine_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    raise CapabilityError("/proc/meminfo has no MemAvailable: use Linux 3.14 or later")


def _limit_bytes(file: Path) -> int:
    """Return the limit of a cgroup; a number beyond any memory where it has none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 1 << 62
    return int(text) if text.isdecimal() else 1 << 62


def _map_file(n_bytes: int) -> mmap.mmap:
    """Return a mapping of a new file that has all its room and no name."""
    folder = os.environ.get("TMPDIR", "/var/tmp")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
            return mmap.mmap(file.fileno(), n_bytes)
    except OSError as error:
        raise CapabilityError(
            f"{folder}: no room for {n_bytes >> 20} MiB of a trace that does not fit in memory "
            f"({error.strerror}): set TMPDIR to a folder that has it"
        ) from None
