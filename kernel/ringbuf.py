"""The reader's side of a BPF ring buffer (BPF_MAP_TYPE_RINGBUF), for records of one fixed size.

    page 0: consumer position (ours) | page 1: producer position | data, mapped twice in a row, so that a run
                                                                   of records never wraps
    record  length u32, with BUSY while it is being written | page offset u32 | payload

Counterpart: kernel/bpf/ringbuf.c. Loads and stores of the positions need no barrier on x86-64.
"""

import mmap

import numpy as np
import numpy.typing as npt

__all__ = ["BUSY", "HEADER_BYTES", "RingBuffer"]

BUSY = np.uint64(1 << 31)
HEADER_BYTES = 8

Words = npt.NDArray[np.uint64]


class RingBuffer:
    """Reads records of `payload_bytes` (a multiple of 8) from the map `fd`, a ring of `size_bytes`."""

    def __init__(self, fd: int, size_bytes: int, payload_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._record_words = (HEADER_BYTES + payload_bytes) // 8
        page = mmap.PAGESIZE
        self._consumer_map = mmap.mmap(fd, page)
        self._producer_map = mmap.mmap(fd, page + 2 * size_bytes, prot=mmap.PROT_READ, offset=page)
        self._consumer: Words | None = np.frombuffer(self._consumer_map, np.uint64)
        whole = np.frombuffer(self._producer_map, np.uint64)
        self._producer: Words | None = whole[:1]
        self._data: Words | None = whole[page // 8 :]

    def drain(self) -> Words | None:
        """Return the whole records, shape (n, 1 + payload words), and free their room; None if empty."""
        assert self._consumer is not None and self._producer is not None and self._data is not None, "closed"
        start, stop = int(self._consumer[0]), int(self._producer[0])
        if start == stop:
            return None
        first = start % self.size_bytes // 8
        records = self._data[first : first + (stop - start) // 8].reshape(-1, self._record_words).copy()
        busy = np.flatnonzero(records[:, 0] & BUSY)
        if len(busy):
            records = records[: int(busy[0])]
        self._consumer[0] = start + records.size * 8
        return records if len(records) else None

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Return where both positions, consumer's and producer's, and the data lie, for compiled code."""
        assert self._consumer is not None and self._producer is not None and self._data is not None, "closed"
        return self._consumer.ctypes.data, self._producer.ctypes.data, self._data.ctypes.data

    def close(self) -> None:
        """Unmap it."""
        self._consumer = self._producer = self._data = None  # a map with views cannot be closed
        self._consumer_map.close()
        self._producer_map.close()
