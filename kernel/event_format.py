"""The `format` file of a tracepoint: where each field lies in its records, and numpy columns of them.

    field:pid_t prev_pid;              offset:24; size:4;  signed:1;     a number
    field:char prev_comm[16];          offset:8;  size:16; signed:0;     an array
    field:__data_loc char[] comm;      offset:8;  size:4;  signed:0;     u16 offset, u16 length of a tail

Offsets are read, never assumed: kernels move, widen and turn fields into tails. Unit of work: all records of
one event among those that `trace_ring.py` found. Kernel counterpart: f_show() in kernel/trace/trace_events.c.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError, TraceError

__all__ = ["EventFormat", "Field", "parse_fields", "parse_format"]

FIELD = re.compile(
    r"^\s*field:\s*(?P<declared>[^;]+);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
    r"(?:\s*signed:(?P<signed>\d+);)?",
    re.MULTILINE,
)
MAX_RECORD_BYTES = 1 << 16
WORD = 4

Bytes = npt.NDArray[np.uint8]
Starts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """One field. `size` in bytes; `tail`: "" or how its place is said, `__data_loc` or `__rel_loc`.

    length : elements of an array, 0 for a number
    """

    name: str
    offset: int
    size: int
    signed: bool
    length: int = 0
    tail: str = ""


@dataclass(frozen=True)
class EventFormat:
    """The layout of an event's records.

    Columns are taken from a buffer, at the offsets `starts` (int64, bytes) where records of this event begin.
    Records begin at multiples of 4 in a buffer that is itself aligned, and lie within it.
    """

    name: str
    id: int
    fields: dict[str, Field]

    @property
    def size(self) -> int:
        """Return the bytes of a record without its tails."""
        return max(field.offset + field.size for field in self.fields.values())

    def require(self, *names: str) -> None:
        """Raise CapabilityError unless it has these fields."""
        for name in names:
            if name not in self.fields:
                raise CapabilityError(
                    f"tracepoint {self.name}: this kernel's has no field {name} (it has "
                    f"{', '.join(self.fields)}): report it with the kernel's release"
                )

    def numbers(self, buffer: Bytes, starts: Starts, name: str) -> npt.NDArray[np.int64]:
        """Return a numeric field as int64; an unsigned one of 8 bytes keeps its bits."""
        field = self.fields[name]
        values = _unsigned(buffer, starts + field.offset, field.size, field.offset % WORD)
        if field.signed and field.size < 8:
            sign = np.int64(1 << 8 * field.size - 1)
            values = (values ^ sign) - sign
        return values

    def texts(self, buffer: Bytes, starts: Starts, name: str) -> npt.NDArray[np.bytes_]:
        """Return a character array or tail as bytes up to its first NUL (dtype S<n>)."""
        field = self.fields[name]
        if not field.tail:
            return _texts(buffer, starts + field.offset, np.full(len(starts), field.size))
        begins, lengths = self.tails(buffer, starts, name)
        return _texts(buffer, begins, lengths)

    def tails(self, buffer: Bytes, starts: Starts, name: str) -> tuple[Starts, Starts]:
        """Return where in the buffer the tail of each record begins, and its bytes."""
        field = self.fields[name]
        where = _unsigned(buffer, starts + field.offset, WORD, field.offset % WORD)
        base = starts + (field.offset + WORD if field.tail == "__rel_loc" else 0)
        begins, lengths = base + (where & 0xFFFF), where >> 16
        if len(starts) and int((begins + lengths).max()) > len(buffer):
            raise TraceError(f"{self.name}: the tail {name} of a record lies outside of it: record it again")
        return begins, lengths


def parse_format(text: str) -> EventFormat:
    """Return the layout that a `format` file describes; CapabilityError when it is none.

    >>> parse_format("name: x\\nID: 7\\nformat:\\n\\tfield:int a;\\toffset:8;\\tsize:4;\\tsigned:1;").size
    12
    """
    name = re.search(r"^name:\s*(\S+)", text, re.MULTILINE)
    number = re.search(r"^ID:\s*(\d+)", text, re.MULTILINE)
    fields = parse_fields(text)
    if name is None or number is None or not fields:
        raise CapabilityError(
            f"a tracepoint's format file begins '{text[:40]!r}', allowed: name, ID and fields: "
            f"report it with the kernel's release"
        )
    return EventFormat(name[1], int(number[1]), fields)


def parse_fields(text: str) -> dict[str, Field]:
    """Return the fields of a `format` or `header_page` file by name."""
    fields = (_field(match) for match in FIELD.finditer(text))
    return {field.name: field for field in fields}


def _field(match: re.Match[str]) -> Field:
    declared = match["declared"].strip()
    offset, size = int(match["offset"]), int(match["size"])
    if offset + size > MAX_RECORD_BYTES:
        raise CapabilityError(
            f"field '{declared}' ends at byte {offset + size}, allowed: {MAX_RECORD_BYTES}: "
            f"report it with the kernel's release"
        )
    signed = match["signed"] == "1"
    words = declared.split()
    tail = {"__data_loc": "__data_loc", "__rel_loc": "__rel_loc"}.get(words[0], "")
    array = re.search(r"\[(\w*)\]$", declared)
    name = re.sub(r"\[\w*\]$", "", words[-1]).lstrip("*")
    length = int(array[1]) if array is not None and array[1].isdigit() else 0
    return Field(name, offset, size, signed, length, tail)


def _unsigned(buffer: Bytes, at: Starts, size: int, misaligned: int) -> npt.NDArray[np.int64]:
    """Return little-endian numbers of `size` bytes at `at`; by whole words where they are aligned."""
    if size in (4, 8) and not misaligned:
        words = buffer.view("<u4")
        values: Starts = words[at >> 2].astype(np.int64)
        return values if size == 4 else values | words[(at >> 2) + 1].astype(np.int64) << 32
    if size == 2 and not misaligned & 1:
        values = buffer.view("<u2")[at >> 1].astype(np.int64)
        return values
    values = np.zeros(len(at), np.int64)
    for byte in range(size):
        values |= buffer[at + byte].astype(np.int64) << 8 * byte
    return values


def _texts(buffer: Bytes, begins: Starts, lengths: Starts) -> npt.NDArray[np.bytes_]:
    longest = int(lengths.max()) if len(lengths) else 0
    if not longest:
        return np.zeros(len(begins), "S1")
    steps = np.arange(longest)
    at = np.minimum(begins[:, None] + steps, len(buffer) - 1)
    characters = np.where(steps < lengths[:, None], buffer[at], 0).astype(np.uint8)
    ended = np.cumsum(characters == 0, axis=1) > 0  # what follows the NUL is left over from before
    characters[ended] = 0
    return characters.view(f"S{longest}").reshape(-1)
