"""A ring of records of one size in an array map, which a BPF program writes under a lock of its own.

    page 0: read position (ours), written position | data: records one behind the other

Positions are in bytes and only grow. A record's size is a power of two, and so none wraps. Beside
BPF_MAP_TYPE_RINGBUF (ringbuf.py) it has no lock, no call and no wake-up: its writer waits for nothing, and
its reader looks by the clock. Loads and stores need no barrier on x86-64.
"""

import mmap
import os

import numpy as np
import numpy.typing as npt

from kdtool.kernel.bpf import ARRAY, MMAPABLE, create_map

__all__ = ["SharedRing"]

Words = npt.NDArray[np.uint64]


class SharedRing:
    """Makes a ring of `size_bytes`, for records of `record_bytes`, both powers of two.

    read_at, written_at, data_at : where in the map's value the positions and the data lie; data_at in pages
    fd : of the map

    Raises CapabilityError when the kernel refuses the map.
    """

    def __init__(
        self, size_bytes: int, record_bytes: int, *, read_at: int, written_at: int, data_at: int
    ) -> None:
        self.size_bytes, self.record_bytes = size_bytes, record_bytes
        self.fd = create_map(ARRAY, 4, data_at + size_bytes, 1, MMAPABLE)
        self._mapped = mmap.mmap(self.fd, data_at + size_bytes)
        whole = np.frombuffer(self._mapped, np.uint64)
        self._read: Words | None = whole[read_at // 8 :][:1]
        self._written: Words | None = whole[written_at // 8 :][:1]
        self._data: Words | None = whole[data_at // 8 :].reshape(-1, record_bytes // 8)

    def drain(self) -> Words:
        """Return the records, shape (n, record words), and free their room."""
        assert self._read is not None and self._written is not None and self._data is not None, "closed"
        stop = int(self._written[0])
        numbers = np.arange(int(self._read[0]), stop, self.record_bytes) // self.record_bytes
        records: Words = self._data[numbers % len(self._data)]
        self._read[0] = stop
        return records

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Return where both positions, the reader's and the writer's, and the data lie, for compiled code."""
        assert self._read is not None and self._written is not None and self._data is not None, "closed"
        return self._read.ctypes.data, self._written.ctypes.data, self._data.ctypes.data

    def close(self) -> None:
        """Unmap it, and let go of the map."""
        self._read = self._written = self._data = None  # a map with views cannot be closed
        self._mapped.close()
        os.close(self.fd)
