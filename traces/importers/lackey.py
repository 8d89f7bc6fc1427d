"""`lackey`: page references of `valgrind --tool=lackey --trace-mem=yes --log-file=F PROGRAM`.

    I  04016b80,3    an instruction of 3 bytes         L 1ffefffe78,8   a load (one space before L, S, M)
     M 0421c7cc,4    a load and a store of the same     S 04222cac,8    a store      ==PID== ...  no reference

Every page that an access touches is a reference, M two of them; a repeat of the reference before (same page,
same kind) is left out, which changes no LRU memory of a page or more. `insns` counts the instructions so far.
Threads are not told apart by lackey, and what the kernel touches is not seen. Unit of work: 16 MiB of text,
parsed by numpy: columns of characters, not lines.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.traces.importers.base import Imported
from kdtool.traces.manifest import Reduction
from kdtool.traces.schema import RefKind
from kdtool.traces.writer import TraceWriter

__all__ = ["LackeyImporter"]

BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 16
HEX_DIGITS, SIZE_DIGITS, PID_DIGITS = 16, 5, 9
PAGE_SHIFT = np.uint64(12)
ONE = np.uint64(1)
NEWLINE, COMMA, SPACE = ord("\n"), ord(","), ord(" ")
BAD = 255
PROCESS = re.compile(rb"^(?:==|--|\*\*)(\d+)", re.MULTILINE)
HINT = "record with valgrind --tool=lackey --trace-mem=yes --log-file=FILE"

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def _digits(base: int) -> Bytes:
    """Return the value of every character as a digit, BAD for those that are none."""
    table = np.full(256, BAD, np.uint8)
    for value, text in enumerate("0123456789abcdef"[:base]):
        table[[ord(text), ord(text.upper())]] = value
    return table


DECIMAL, HEXADECIMAL = _digits(10), _digits(16)


class LackeyImporter:
    """Read references from lackey's text."""

    name = "lackey"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append the references of `file` to `refs`; TraceError names the first line that is not lackey's."""
        pids: set[int] = set()
        lines, insns, last = 0, 0, (np.uint64(0), -1)
        for text in _blocks(file):
            pids.update(_processes(file, text))
            if len(pids) > 1:
                raise TraceError(f"{file}: of processes {sorted(pids)[:2]}, mixed: {HINT}.%p")
            parsed = _Lines(file, text, lines)
            vpn, kind, so_far = parsed.references(insns)
            keep = _changes(vpn, kind, last)
            _append(writer, vpn[keep], kind[keep], so_far[keep], min(pids, default=1))
            if len(vpn):
                last = (vpn[-1], int(kind[-1]))
            lines, insns = lines + parsed.n_lines, insns + parsed.n_insns
        return Imported("insns", reduction=Reduction("repeats", 1), facts={"lines": lines, "insns": insns})


class _Lines:
    """A block of whole lines, parsed."""

    def __init__(self, file: Path, text: bytes, lines_before: int) -> None:
        self._file, self._lines_before = file, lines_before
        self._text = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(self._text == NEWLINE)
        starts = np.concatenate(([0], ends[:-1] + 1))
        self.n_lines = len(ends)
        first = self._text[starts]
        said = (first == ord("=")) | (first == ord("-")) | (first == ord("*")) | (first == NEWLINE)
        self._numbers = np.flatnonzero(~said)
        starts, ends = starts[~said], ends[~said]
        self._check(ends - starts >= 6)
        self._letter = np.where(self._text[starts] == SPACE, self._text[starts + 1], self._text[starts])
        is_code = self._text[starts] == ord("I")
        data = np.isin(self._letter, np.frombuffer(b"LSM", np.uint8))
        self._check(is_code | ((self._text[starts] == SPACE) & data))
        commas = self._commas(starts, ends)
        self._address = self._number(starts + 3, commas, HEXADECIMAL, HEX_DIGITS, 4)
        self._size = self._decimal(commas + 1, ends)
        self._check(self._address + self._size - ONE >= self._address)  # it ends below 2**64
        self.n_insns = int(is_code.sum())
        self._is_code = is_code

    def references(self, insns_before: int) -> tuple[npt.NDArray[np.uint64], Bytes, npt.NDArray[np.uint64]]:
        """Return page, kind and instructions so far of every reference, in order."""
        first = self._address >> PAGE_SHIFT
        two_pages = (self._address + self._size - ONE) >> PAGE_SHIFT != first
        twice = self._letter == ord("M")
        counts = (1 + two_pages) * (1 + twice)
        line = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
        second_page = two_pages[line] & (nth % 2 == 1)
        vpn = first[line] + second_page.astype(np.uint64)
        kind = np.full(len(line), RefKind.LOAD, np.uint8)
        kind[self._is_code[line]] = RefKind.CODE
        stores = nth >= (1 + two_pages)[line]
        kind[(self._letter[line] == ord("S")) | (twice[line] & stores)] = RefKind.STORE
        so_far = insns_before + np.cumsum(self._is_code)
        return vpn, kind, so_far[line].astype(np.uint64)

    def _commas(self, starts: Integers, ends: Integers) -> Integers:
        """Return where the comma of each line is."""
        commas = np.flatnonzero(self._text == COMMA)
        at = np.searchsorted(commas, starts)
        found = at < len(commas)
        self._check(found)
        where = commas[at]
        self._check((where > starts + 3) & (where < ends - 0) & (where - starts - 3 <= HEX_DIGITS))
        return where

    def _decimal(self, starts: Integers, ends: Integers) -> npt.NDArray[np.uint64]:
        carriage = self._text[ends - 1] == ord("\r")
        ends = ends - carriage
        self._check((ends > starts) & (ends - starts <= SIZE_DIGITS))
        width = ends[:, None] - SIZE_DIGITS + np.arange(SIZE_DIGITS)
        digits = np.where(width >= starts[:, None], DECIMAL[self._text[np.maximum(width, 0)]], 0)
        self._check((digits != BAD).all(axis=1))
        value = digits.astype(np.uint64) @ (10 ** np.arange(SIZE_DIGITS - 1, -1, -1)).astype(np.uint64)
        self._check((value > 0) & (value <= 4096))
        return np.asarray(value, np.uint64)

    def _number(
        self, starts: Integers, ends: Integers, table: Bytes, n_digits: int, bits: int
    ) -> npt.NDArray[np.uint64]:
        """Return the numbers that end before `ends`, a digit of all lines at a time."""
        value = np.zeros(len(ends), np.uint64)
        for place in range(n_digits):
            at = ends - 1 - place
            there = at >= starts
            if not there.any():
                break
            digit = table[self._text[np.maximum(at, 0)]]
            self._check((digit != BAD) | ~there)
            value |= np.where(there, digit, 0).astype(np.uint64) << np.uint64(bits * place)
        return value

    def _check(self, fine: npt.NDArray[np.bool_]) -> None:
        """Raise for the first line that is not fine."""
        if not fine.all():
            number = self._lines_before + int(self._numbers[np.flatnonzero(~fine)[0]]) + 1
            raise TraceError(f"{self._file}: line {number} is not one of lackey's: {HINT}")


def _processes(file: Path, text: bytes) -> set[int]:
    """Return the processes that valgrind's own lines name."""
    found = set(PROCESS.findall(text))
    if any(len(pid) > PID_DIGITS for pid in found):
        raise TraceError(f"{file}: names a process by more than {PID_DIGITS} digits: {HINT}")
    return {int(pid) for pid in found}


def _blocks(file: Path) -> Iterator[bytes]:
    """Yield the file in blocks of whole lines."""
    left = b""
    with file.open("rb") as stream:
        while data := stream.read(BLOCK_BYTES):
            data = left + data
            cut = data.rfind(b"\n") + 1
            if len(data) - cut > MAX_LINE_BYTES:
                raise TraceError(f"{file}: a line of more than {MAX_LINE_BYTES} bytes: {HINT}")
            if cut:
                yield data[:cut]
            left = data[cut:]
    if left:
        yield left + b"\n"


def _changes(vpn: npt.NDArray[np.uint64], kind: Bytes, last: tuple[np.uint64, int]) -> npt.NDArray[np.bool_]:
    """Return which references differ from the one before them."""
    before_vpn, before_kind = np.roll(vpn, 1), np.roll(kind, 1).astype(np.int64)
    if len(vpn):
        before_vpn[0], before_kind[0] = last
    changed: npt.NDArray[np.bool_] = (vpn != before_vpn) | (kind != before_kind)
    return changed


def _append(
    writer: TraceWriter, vpn: npt.NDArray[np.uint64], kind: Bytes, insns: npt.NDArray[np.uint64], pid: int
) -> None:
    n_rows = len(vpn)
    same = np.full(n_rows, pid, np.int32)
    columns = {"pid": same, "tid": same, "vpn": vpn, "ip": np.zeros(n_rows, np.uint64)}
    writer.append("refs", columns | {"kind": kind, "insns": insns})
