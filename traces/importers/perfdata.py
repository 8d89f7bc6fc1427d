"""The parts of a perf.data file: its header, its events, and its records in runs of one kind.

    header (104 bytes)  PERFILE2 | size | attr size | attrs | data | types | flags   (a section: offset, size)
    attrs   each a perf_event_attr and the section of its ids
    data    records: type u32, misc u16, size u16, body
    after the data: one section for each flag that is set, such as the command line

Counterpart: tools/perf/Documentation/perf.data-file-format.txt, include/uapi/linux/perf_event.h, Linux v6.18.
Little-endian files only. Not read: pipe mode, compressed records, the folder that --threads writes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError

__all__ = ["Attr", "PerfFile", "Run"]

MAGIC, MAGIC_SWAPPED = b"PERFILE2", b"2ELIFREP"
HEADER = struct.Struct("<8s9Q")
PIPE_HEADER_BYTES = 16
MIN_ATTR_BYTES, MAX_ATTR_BYTES, MAX_ATTRS, MAX_IDS = 64, 4096, 10_000, 1 << 20
CMDLINE, EVENT_DESC = 11, 12
MAX_FEATURE_BYTES = 1 << 20
FREQ, USE_CLOCKID = 1 << 10, 1 << 25
CLOCKID_AT = 92
CHUNK_WORDS = 4 << 20
"""Records are looked at 32 MiB at a time; the largest has 64 KiB."""
MAX_RECORD_WORDS = 1 << 13
AUXTRACE, COMPRESSED, COMPRESSED2 = 71, 81, 83
TYPE_AND_SIZE = np.uint64(0xFFFF_0000_FFFF_FFFF)

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Attr:
    """An event: struct perf_event_attr, and the ids by which samples name it. name: "" if not said."""

    type: int
    config: int
    sample_period: int
    sample_type: int
    is_freq: bool
    clockid: int | None
    ids: tuple[int, ...]
    name: str = ""


@dataclass(frozen=True)
class Run:
    """Records of one type and size, one after another: shape (n, words of each)."""

    type: int
    records: Words


class PerfFile:
    """A perf.data file; TraceError for one that is not, is damaged, or is of a kind not read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        if file.is_dir():
            raise TraceError(f"{file}: a folder, as `perf record --threads` makes: record without it")
        self._bytes = np.memmap(file, np.uint8, "r") if file.stat().st_size else np.empty(0, np.uint8)
        fields = self._header()
        attr_bytes, attrs_at, attrs_bytes, self._data_at, self._data_bytes = fields[2:7]
        flags = fields[9]
        if self._data_bytes == 0 and attrs_bytes:
            raise TraceError(f"{file}: perf was killed before it wrote its header: record it again")
        self._check_section(attrs_at, attrs_bytes)
        self._check_section(self._data_at, self._data_bytes)
        features = self._features(flags)
        names = self._event_names(features.get(EVENT_DESC))
        self.attrs = self._attrs(attrs_at, attrs_bytes, attr_bytes, names)
        self.command = self._command(features.get(CMDLINE))

    def runs(self) -> Iterator[Run]:
        """Yield all records in the order of the file."""
        if self._data_at % 8:
            raise self._damaged("its records do not begin at a multiple of 8 bytes")
        at, n_words = 0, self._data_bytes // 8
        with self.file.open("rb") as stream:  # not the mapping: what was looked at would stay in memory
            while at < n_words:
                stream.seek(self._data_at + 8 * at)
                words = np.fromfile(stream, np.uint64, min(CHUNK_WORDS, n_words - at))
                start = at
                for run in self._runs_of(words, at):
                    yield run
                    at += run.records.size
                if at == start:
                    raise self._damaged(f"the record at byte {self._data_at + 8 * at} is cut")

    def _runs_of(self, words: Words, first: int) -> Iterator[Run]:
        """Yield runs of the whole records of `words`, which stand at word `first` of the data."""
        at = 0
        while at < len(words):
            header = int(words[at])
            kind, n_words = header & 0xFFFF_FFFF, header >> 51
            if kind in (COMPRESSED, COMPRESSED2):
                raise TraceError(f"{self.file}: compressed (perf record -z): record without -z")
            if n_words == 0 or header >> 48 & 7:
                raise self._damaged(f"the record at byte {self._data_at + 8 * (first + at)} has no length")
            n = _equal_headers(words[at:], header, n_words)
            if n == 0:
                return  # it goes on after these words
            yield Run(kind, words[at : at + n * n_words].reshape(n, n_words))
            at += n * n_words
            if kind == AUXTRACE:
                raise TraceError(
                    f"{self.file}: has AUX area data (Intel PT ...): record page faults without it"
                )

    def _header(self) -> tuple[int, ...]:
        if len(self._bytes) < PIPE_HEADER_BYTES:
            raise TraceError(f"{self.file}: too short for a perf.data file: give what `perf record -o` wrote")
        magic = self._bytes[:8].tobytes()
        if magic == MAGIC_SWAPPED:
            raise TraceError(
                f"{self.file}: written on a big-endian machine: only little-endian files are read"
            )
        if magic != MAGIC:
            raise TraceError(f"{self.file}: not a perf.data file: give what `perf record -o` wrote")
        if int(self._bytes[8:16].view(np.uint64)[0]) == PIPE_HEADER_BYTES:
            raise TraceError(
                f"{self.file}: written into a pipe: `perf inject -i {self.file} -o perf.data` first"
            )
        if len(self._bytes) < HEADER.size:
            raise self._damaged("its header is cut")
        fields: tuple[int, ...] = HEADER.unpack(self._bytes[: HEADER.size].tobytes())
        return fields

    def _attrs(self, at: int, size: int, attr_bytes: int, names: dict[int, str]) -> list[Attr]:
        if not MIN_ATTR_BYTES + 16 <= attr_bytes <= MAX_ATTR_BYTES or size % attr_bytes:
            raise self._damaged(f"an event takes {attr_bytes} bytes")
        if size // attr_bytes > MAX_ATTRS:
            raise self._damaged(f"it has {size // attr_bytes} events")
        attrs, all_ids_bytes = [], 0
        for number, start in enumerate(range(at, at + size, attr_bytes)):
            attr = self._bytes[start : start + attr_bytes].tobytes()
            kind, _, config, period, sample_type, _, flags = struct.unpack_from("<IIQQQQQ", attr)
            ids_at, ids_bytes = struct.unpack_from("<QQ", attr, attr_bytes - 16)
            self._check_section(ids_at, ids_bytes)
            all_ids_bytes += ids_bytes
            if ids_bytes % 8 or ids_bytes // 8 > MAX_IDS:
                raise self._damaged(f"event {number} has {ids_bytes} bytes of ids")
            if all_ids_bytes > len(self._bytes):  # each has its own: shared ones would be held many times
                raise self._damaged(f"its events have {all_ids_bytes} bytes of ids or more")
            ids = self._bytes[ids_at : ids_at + ids_bytes].copy().view(np.uint64)
            clocked = flags & USE_CLOCKID and attr_bytes - 16 >= CLOCKID_AT + 4
            attrs.append(
                Attr(
                    kind,
                    config,
                    period,
                    sample_type,
                    bool(flags & FREQ),
                    struct.unpack_from("<i", attr, CLOCKID_AT)[0] if clocked else None,
                    tuple(ids.tolist()),
                    names.get(number, ""),
                )
            )
        if not attrs:
            raise self._damaged("it has no events")
        return attrs

    def _features(self, flags: int) -> dict[int, bytes]:
        """Return the sections after the data that are of use; what is cut there costs only names."""
        found, at = {}, self._data_at + self._data_bytes
        for bit in range(64):
            if not flags >> bit & 1:
                continue
            section = self._bytes[at : at + 16].tobytes()
            at += 16
            if len(section) == 16 and bit in (CMDLINE, EVENT_DESC):
                start, size = struct.unpack("<QQ", section)
                found[bit] = self._bytes[start : start + min(size, MAX_FEATURE_BYTES)].tobytes()
        return found

    def _event_names(self, section: bytes | None) -> dict[int, str]:
        """Return event number: name, as HEADER_EVENT_DESC has it."""
        names: dict[int, str] = {}
        try:
            n_events, attr_bytes = struct.unpack_from("<II", section or b"")
            at = 8
            for number in range(min(n_events, MAX_ATTRS)):
                at += attr_bytes
                n_ids, length = struct.unpack_from("<II", section or b"", at)
                text = (section or b"")[at + 8 : at + 8 + length].split(b"\0", 1)[0]
                names[number] = text.decode(errors="replace")
                at += 8 + length + 8 * n_ids
        except struct.error:
            return names
        return names

    def _command(self, section: bytes | None) -> list[str]:
        words: list[str] = []
        try:
            (n_words,) = struct.unpack_from("<I", section or b"")
            at = 4
            for _ in range(min(n_words, 10_000)):
                (length,) = struct.unpack_from("<I", section or b"", at)
                text = (section or b"")[at + 4 : at + 4 + length].split(b"\0", 1)[0]
                words.append(text.decode(errors="surrogateescape"))
                at += 4 + length
        except struct.error:
            return words
        return words

    def _check_section(self, at: int, size: int) -> None:
        if at + size > len(self._bytes):
            raise self._damaged(f"it is {len(self._bytes)} bytes long and says that it has {at + size}")

    def _damaged(self, how: str) -> TraceError:
        return TraceError(f"{self.file}: damaged ({how}): record it again")


def _equal_headers(words: Words, header: int, n_words: int) -> int:
    """Return how many whole records of the type and size of the first follow one another, by galloping."""
    wanted = np.uint64(header) & TYPE_AND_SIZE
    room, n, look = len(words) // n_words, 0, 16
    while n < room:
        headers = words[n * n_words :: n_words][: min(look, room - n)]
        other = np.flatnonzero(headers & TYPE_AND_SIZE != wanted)
        if len(other):
            return n + int(other[0])
        n += len(headers)
        look *= 4
    return n
