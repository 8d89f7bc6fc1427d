"""The ring buffers of a tracefs instance: reading their sub-buffers raw, and decoding all at once in numpy.

    sub-buffer  | timestamp u64 | commit: bytes used, flags | events ...            | missed, if flagged |
    event       | type_len 5 bits, time_delta 27 bits | data: type_len words                             |
                  0: length in the next word   29: padding   30: time extend   31: absolute time

Decoding walks all sub-buffers in lock-step: step k handles the k-th event of each, so that a step is a
handful of numpy operations however many there are. Kernel counterpart: kernel/trace/ring_buffer.c; the layout
is read from events/header_page and events/header_event. Not done here: what the records mean.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError, TraceError
from kdtool.kernel.event_format import parse_fields
from kdtool.kernel.tracefs import Instance

__all__ = ["PageLayout", "Records", "RingReader", "decode_pages", "page_layout", "parse_layout"]

EVENT_HEADER = {"type_len": 5, "time_delta": 27, "array": 32, "padding": 29, "time_extend": 30}
EVENT_HEADER |= {"time_stamp": 31, "data max type_len": 28}
PADDING, TIME_EXTEND, TIME_STAMP, DATA_MAX = 29, 30, 31, 28
WORD = 4
USED = (1 << 27) - 1
"""Of `commit`, the bits that count bytes; the flags lie above."""
MISSED, MISSED_STORED = 1 << 31, 1 << 30
TIME_BITS = 59
"""An absolute time has so many; its high bits are those of the time before it."""
MAX_SUBBUF_BYTES = 1 << 24
CHUNK_BYTES = 4 << 20
"""Read and decoded at once: 75,000 switches, decoded in 30 ms."""

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PageLayout:
    """Where things lie in a sub-buffer of `size` bytes."""

    size: int
    time: int
    commit: int
    data: int


@dataclass(frozen=True)
class Records:
    """Decoded records, in the order of the sub-buffers and within them.

    buffer : bytes of the sub-buffers, one after another
    t_ns : int64
    starts : int64, where each record begins in `buffer`
    sizes : int64, bytes of each record, rounded up to words
    pages : int64, the sub-buffer that each came from
    used : int64, for each sub-buffer its bytes of data
    missed_pages, missed : sub-buffers before which events are missing, and how many as far as stored there
    """

    buffer: Bytes
    t_ns: Ints
    starts: Ints
    sizes: Ints
    pages: Ints
    used: Ints
    missed_pages: int
    missed: int

    def __len__(self) -> int:
        return len(self.t_ns)

    def types(self) -> Ints:
        """Return the id of each record's event: the first field of all (`common_type`, u16)."""
        types: Ints = self.buffer.view("<u2")[self.starts >> 1].astype(np.int64)
        return types


def page_layout(instance: Instance) -> PageLayout:
    """Return the layout of the sub-buffers of an instance; CapabilityError when it is not understood."""
    events = instance.root / "events"
    size_file = instance.path / "buffer_subbuf_size_kb"  # not there: sub-buffers are pages
    size = int(size_file.read_text()) << 10 if size_file.exists() else os.sysconf("SC_PAGE_SIZE")
    return parse_layout((events / "header_page").read_text(), (events / "header_event").read_text(), size)


def parse_layout(header_page: str, header_event: str, size: int) -> PageLayout:
    """Return the layout that the two files describe, of sub-buffers of `size` bytes."""
    fields = parse_fields(header_page)
    numbers = re.findall(r"^\s*([\w ]+?)\s*:\s*(?:type == |== )?(\d+)", header_event, re.MULTILINE)
    numbers += re.findall(r"^\s*(data max type_len)\s*==\s*(\d+)", header_event, re.MULTILINE)
    said = {name: int(number) for name, number in numbers}
    missing = {"timestamp", "commit", "data"} - set(fields)
    if missing or said != EVENT_HEADER or not 0 < size <= MAX_SUBBUF_BYTES or size % WORD:
        raise CapabilityError(
            f"this kernel's ring buffer has sub-buffers of {size} bytes, events of {said} and no "
            f"{sorted(missing)}, understood: {EVENT_HEADER}: report it with the kernel's release"
        )
    layout = PageLayout(size, fields["timestamp"].offset, fields["commit"].offset, fields["data"].offset)
    if max(layout.time, layout.commit) + 8 > layout.data or layout.data >= size or layout.data % 8:
        raise CapabilityError(f"this kernel's header_page says {layout}: report it with the kernel's release")
    return layout


class RingReader:
    """Reads the sub-buffers of all CPUs of an instance, into memory of its own. Close it before that."""

    def __init__(self, instance: Instance) -> None:
        self.layout = page_layout(instance)
        self._fds: list[int] = []
        pages = max(CHUNK_BYTES // self.layout.size, 1)
        self._pages = np.zeros((pages, self.layout.size), np.uint8)
        self._views = [memoryview(page) for page in self._pages]  # type: ignore[arg-type]
        try:
            for cpu in instance.cpus:
                path = Path(instance.path, f"per_cpu/cpu{cpu}/trace_pipe_raw")
                self._fds.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            self.close()
            raise CapabilityError(f"{path}: {error.strerror}: run as root") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, cpu: int, *, rest: bool = False) -> tuple[Records, bool]:
        """Return what CPU number `cpu` of the instance's list holds, and whether there is more to read now.

        rest : also read what trickles in while we read; else stop at two sub-buffers in turn that are not
            full: one may be the rest of what was read before, the CPU is writing to the other
        The records stand in memory that the next `read` fills anew.
        """
        full = self.layout.size - self.layout.data
        short = 0
        for number, view in enumerate(self._views):
            try:
                got = os.readv(self._fds[cpu], [view])
            except BlockingIOError:
                return self._decode(number), False
            if got == 0:
                return self._decode(number), False
            if got != self.layout.size:
                raise TraceError(
                    f"trace_pipe_raw gave {got} bytes of a sub-buffer of {self.layout.size}: record it again"
                )
            used = int.from_bytes(view[self.layout.commit : self.layout.commit + 4], "little") & USED
            short = short + 1 if used < full // 2 else 0
            if short == 2 and not rest:
                return self._decode(number + 1), False
        return self._decode(len(self._views)), True

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _decode(self, number: int) -> Records:
        return decode_pages(self._pages[:number].reshape(-1), self.layout)


def decode_pages(buffer: Bytes, layout: PageLayout) -> Records:
    """Return all records in sub-buffers that follow one another in `buffer` (uint8, aligned to 8 bytes).

    Raises TraceError for sub-buffers cut off, or whose records run past their end.
    """
    if len(buffer) % layout.size:
        raise TraceError(f"{len(buffer)} bytes are no whole sub-buffers of {layout.size}: record it again")
    n = len(buffer) // layout.size
    words = buffer.view("<u4")
    base = np.arange(n, dtype=np.int64) * (layout.size // WORD)
    flags = words[base + layout.commit // WORD].astype(np.int64)
    used = flags & USED
    if n and int(used.max()) > layout.size - layout.data:
        raise TraceError(f"a sub-buffer of {layout.size} bytes says it holds {used.max()}: record it again")
    stored = flags & MISSED_STORED != 0
    missed = _stored_counts(words, (base + layout.data // WORD)[stored], used[stored], layout)
    low, high = (words[base + layout.time // WORD + i].astype(np.int64) for i in (0, 1))
    walk = _Walk(words, base + layout.data // WORD, used, low | high << 32)
    t_ns, starts, sizes, pages = walk.all()
    missed_pages = int((flags & MISSED != 0).sum())
    return Records(buffer, t_ns, starts * WORD, sizes * WORD, pages, used, missed_pages, missed)


def _stored_counts(words: npt.NDArray[np.uint32], data: Ints, used: Ints, layout: PageLayout) -> int:
    """Return the sum of the counts of missed events (a long, 8 bytes) that follow the data of sub-buffers."""
    if len(used) and int(used.max()) + 8 > layout.size - layout.data:
        raise TraceError(
            "a sub-buffer has no room for the count of missed events it says it holds: record it again"
        )
    at = data + used // WORD
    return int((words[at].astype(np.int64) | words[at + 1].astype(np.int64) << 32).sum())


class _Walk:
    """The lock-step walk: for each sub-buffer where it is, where it ends, and its time so far."""

    def __init__(self, words: npt.NDArray[np.uint32], at: Ints, used: Ints, t_ns: Ints) -> None:
        self._words = words
        self._page = np.flatnonzero(used > 0)
        self._at, self._t_ns = at[self._page], t_ns[self._page]
        self._end = self._at + (used[self._page] + WORD - 1) // WORD
        self._per_page = np.zeros(len(at), np.int64)
        self._found: list[tuple[Ints, Ints, Ints, Ints, Ints]] = []

    def all(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Return time, start and size in words, and sub-buffer, of every record, in order."""
        while len(self._at):
            self._step()
        if not self._found:
            return (np.empty(0, np.int64),) * 4
        t_ns, starts, sizes, pages, ranks = (np.concatenate(each) for each in zip(*self._found, strict=True))
        place = (np.cumsum(self._per_page) - self._per_page)[pages] + ranks
        columns = []
        for values in (t_ns, starts, sizes, pages):
            ordered = np.empty_like(values)
            ordered[place] = values
            columns.append(ordered)
        return columns[0], columns[1], columns[2], columns[3]

    def _step(self) -> None:
        """Handle the next event of each sub-buffer that has one."""
        header = self._words[self._at].astype(np.int64)
        kind, delta = header & 31, header >> 5
        starts, sizes = self._at + 1, kind  # of plain data, the most frequent by far
        event = kind <= DATA_MAX
        plain = event & (kind > 0)
        if plain.all():
            self._t_ns += delta
        else:
            sizes = kind.copy()
            second = self._second(~plain)
            self._sized_by_word(kind, delta, second, starts, sizes)
            self._timed(kind, delta, second)
        after = starts + sizes
        if (after > self._end).any():
            raise TraceError("an event runs past the end of its sub-buffer: record it again")
        found = self._page[event]
        ranks = self._per_page[found]
        self._found.append((self._t_ns[event], starts[event], sizes[event], found, ranks))
        self._per_page[found] += 1
        self._at = after
        goes_on = after < self._end
        if not goes_on.all():
            self._page, self._at = self._page[goes_on], self._at[goes_on]
            self._end, self._t_ns = self._end[goes_on], self._t_ns[goes_on]

    def _second(self, needed: npt.NDArray[np.bool_]) -> Ints:
        """Return the word after the header where it is needed, which must lie in the sub-buffer."""
        second = np.zeros(len(self._at), np.int64)
        inside = needed & (self._at + 1 < self._end)
        second[inside] = self._words[self._at[inside] + 1]
        return second

    def _sized_by_word(self, kind: Ints, delta: Ints, second: Ints, starts: Ints, sizes: Ints) -> None:
        """Set the sizes of what is not plain data; `second` counts itself."""
        long = kind == 0
        starts[long] += 1
        sizes[long] = (second[long] - WORD + WORD - 1) // WORD
        if (second[long] <= WORD).any():
            raise TraceError("an event in a sub-buffer has no length: record it again")
        sizes[kind > PADDING] = 1
        padding = kind == PADDING
        sizes[padding] = (second[padding] + WORD - 1) // WORD
        rest = padding & (delta == 0)
        sizes[rest] = (self._end - starts)[rest]

    def _timed(self, kind: Ints, delta: Ints, second: Ints) -> None:
        """Move the times on, as rb_update_read_stamp() and, for discarded events, check_buffer() do."""
        wide = (second << 27) + delta
        moved = np.where(kind == TIME_EXTEND, wide, delta)
        moved[(kind == PADDING) & (delta == 1)] = 0  # a discarded event's 0, which would mean no event
        before = self._t_ns
        high = before >> TIME_BITS << TIME_BITS
        stamp = wide | high
        stamp += np.where(stamp < before, 1 << TIME_BITS, 0)
        self._t_ns = np.where(kind == TIME_STAMP, stamp, before + moved)
