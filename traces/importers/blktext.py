"""The text that blkparse prints, in its default format: lines that are events, and lines that are not.

      7,2    1        5     0.000049603    22  C  RS 0 + 8 [0]
    device CPU   number          s.ns    task  action, letters (rwbs), sector + sectors, [command] or [error]

Unit of work: a block of whole lines, taken apart by one regular expression. Counterpart: blkparse.c and
blkparse_fmt.c of blktrace 1.2. Other formats (-f) are not read.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.traces.blockio import EVENT, BlockEvent, Events, op_of

__all__ = ["TextBlock"]

LINE = re.compile(
    rb"^ *(N,N) +(N) +(N) +(N\.\d{9}) +(N) +([A-Z]|UT) +([A-Z]+)"
    rb"(?: (N)(?: ([+/]) (N))?)?(?: <- \((N,N)\) (N))?(?: \( *\d+\))?((?: [\[(].*)?)$".replace(
        b"N", rb"\d{1,20}"
    ),
    re.MULTILINE,
)
DEVICE, CPU, NUMBER, TIME, TASK, ACTION, LETTERS, SECTOR, SIGN, SIZE, OLD_DEVICE, OLD_SECTOR, TAIL = range(13)
"""The groups of LINE."""
LIMITS = {CPU: 1 << 16, NUMBER: 1 << 32, TIME: 1 << 62, TASK: 1 << 31, SECTOR: 1 << 55, SIZE: 1 << 32}
LIMITS |= {DEVICE: 1 << 32, OLD_DEVICE: 1 << 32, OLD_SECTOR: 1 << 55}
"""What is too large for each; 2**55 sectors are 2**64 bytes."""
NOWHERE = b"18446744073709551615"
"""The sector of the kernel's own flush, when it is done."""
NO_EVENT = re.compile(
    rb"\s*$|(?:CPU\d+|Total) \(.*\):| (?:PC )?(?:Reads|Writes|Read|Write|IO) |Throughput |Events \(|Skips: "
    rb"|Input file .* added|=== .* ===|  CPU +\d+:|  Total:|You have .* events|Consider using a larger buffer"
    rb"|\(\d+,\d+\): skipping | *\d+,\d+ +\d+ +0 +\d+\.\d{9} +\d+ +m |discarded traces containing "
)
SKIPS = re.compile(rb"^Skips: \S+ forward \((\S{1,30}) - ", re.MULTILINE)
DROPPED = re.compile(
    rb"^(?:  Total: .*\(dropped (\d{1,20})\)|You have +(\d{1,20}) .*dropped events)", re.MULTILINE
)

ACTIONS = {
    b"Q": BlockEvent.QUEUE,
    b"A": BlockEvent.REMAP,
    b"X": BlockEvent.SPLIT,
    b"G": BlockEvent.GETRQ,
    b"M": BlockEvent.ANY_MERGE,
    b"F": BlockEvent.FRONTMERGE,
    b"D": BlockEvent.ISSUE,
    b"R": BlockEvent.REQUEUE,
    b"C": BlockEvent.COMPLETE,
}
LEFT_OUT = (b"I", b"S", b"B", b"P", b"U", b"UT")
ENDLESS = (b"A", b"U", b"UT")
"""Actions whose lines do not end in a bracket."""
MINOR_BITS = 20
LOW_32 = (1 << 32) - 1
HINT = "give what blkparse prints, without -f"

Ints = npt.NDArray[np.int64]


class TextBlock:
    """Lines of `file`, whole ones, which begin after `lines_before` others.

    n_lines, n_events : lines, and events of any action
    skipped, dropped : events that notices among the lines say are missing

    Raises TraceError with the number of the first line that is neither an event nor blkparse's own.
    """

    def __init__(self, file: Path, text: bytes, lines_before: int) -> None:
        self._file, self._text, self._lines_before = file, text, lines_before
        found = LINE.findall(text)
        self._columns = list(zip(*found, strict=True)) if found else [()] * 13
        self.n_lines, self.n_events = text.count(b"\n"), len(found)
        self.skipped = self.dropped = 0
        if self.n_events != self.n_lines:
            self._check_others()
        self._check_events()
        self.dev, self.tid, self.t_ns = map(self._integers, (DEVICE, TASK, TIME))

    def numbers(self) -> tuple[Ints, Ints]:
        """Return, of each event, a number of its device and CPU, and its own number there; 0: it has none."""
        return self.dev << 16 | self._integers(CPU), self._integers(NUMBER)

    def events(self) -> Events:
        """Return the events that tell of requests."""
        action = self._columns[ACTION]
        told = np.array([each in ACTIONS for each in action], bool)
        events = np.zeros(len(action), EVENT)
        events["event"] = [ACTIONS.get(each, 0) for each in action]
        events["ts_ns"], events["dev"], events["tid"] = self.t_ns, self.dev, self.tid
        sector, size = self._unsigned(SECTOR), self._unsigned(SIZE)
        signs = np.array(self._columns[SIGN], "S1")
        complete, split = events["event"] == BlockEvent.COMPLETE, signs == b"/"
        # A number alone is a sector when it completes, else the bytes of a command that passes through.
        events["sector"] = np.where(complete | (signs != b""), sector, 0)
        events["nr_sectors"] = np.where(signs == b"+", size, 0)
        events["old_dev"], events["other"] = self._integers(OLD_DEVICE), self._integers(OLD_SECTOR)
        events["other"][split] = _above(sector[split], size[split])
        tails = _where(complete, self._columns[TAIL])
        errors = {tail: _error(tail) for tail in set(tails)}
        events["other"][complete] = [errors[tail] for tail in tails]
        events["op"] = self._operations((events["nr_sectors"] == 0) & ~split)
        kept: Events = events[told]
        return kept

    def commands(self) -> Iterator[tuple[int, int, str]]:
        """Yield when each bio was queued, by which thread, and what that is called."""
        queued = np.array([each == b"Q" for each in self._columns[ACTION]], bool)
        tails = _where(queued, self._columns[TAIL])
        for t_ns, tid, tail in zip(self.t_ns[queued].tolist(), self.tid[queued].tolist(), tails, strict=True):
            yield t_ns, tid, tail[2:-1].decode(errors="replace")

    def error(self, row: int, said: str) -> TraceError:
        """Return the error that says something of the line of event number `row`."""
        begin = [match.start() for match in LINE.finditer(self._text)][row]
        number = self._lines_before + self._text.count(b"\n", 0, begin) + 1
        return TraceError(f"{self._file}: line {number} {said}")

    def _check_events(self) -> None:
        shapes = list(zip(*(self._columns[group] for group in (ACTION, SIGN, OLD_SECTOR, TAIL)), strict=True))
        bad = {shape for shape in set(shapes) if not _is_whole(*shape)}
        if bad:
            row = next(row for row, shape in enumerate(shapes) if shape in bad)
            raise self.error(row, f"is not one of blkparse's: {HINT}")

    def _check_others(self) -> None:
        self.skipped = sum(int(re.sub(rb"\D", b"", count) or 0) for count in SKIPS.findall(self._text))
        self.dropped = sum(int(total or notice) for total, notice in DROPPED.findall(self._text))
        for number, line in enumerate(self._text.split(b"\n")[:-1], start=self._lines_before + 1):
            if LINE.match(line) is None and NO_EVENT.match(line) is None:
                raise TraceError(f"{self._file}: line {number} is not one of blkparse's: {HINT}")

    def _operations(self, empty: npt.NDArray[np.bool_]) -> list[int]:
        keys = list(zip(self._columns[LETTERS], empty.tolist(), strict=True))
        ops = {key: op_of(key[0].decode(), empty=key[1]) for key in set(keys)}
        return [ops[key] for key in keys]

    def _integers(self, group: int) -> Ints:
        """Return a group as numbers, 0 where it is not there."""
        return self._unsigned(group).astype(np.int64)

    def _unsigned(self, group: int) -> npt.NDArray[np.uint64]:
        column = self._columns[group]
        if group in (NUMBER, TIME, SECTOR):  # mostly all different
            numbers = [0 if text == NOWHERE else int(text.replace(b".", b"") or 0) for text in column]
        else:
            known = {text: _device(text) if b"," in text else int(text or 0) for text in set(column)}
            numbers = [known[text] for text in column]
        largest = max(numbers, default=0)
        if largest >= LIMITS[group]:
            said = f"has the number {largest}, allowed there: less than {LIMITS[group]}: {HINT}"
            raise self.error(numbers.index(largest), said)
        return np.array(numbers, np.uint64)


def _device(text: bytes) -> int:
    """Return the number of a device, one that is too large if it is none.

    >>> _device(b"8,16") == 8 << 20 | 16
    True
    """
    major, minor = map(int, text.split(b","))
    return major << MINOR_BITS | minor if minor < 1 << MINOR_BITS else 1 << 32


def _is_whole(action: bytes, sign: bytes, old_sector: bytes, tail: bytes) -> bool:
    """Return whether an event is one of blkparse's, and its line was not cut."""
    if action == b"A":
        return bool(old_sector) and not tail
    if action == b"C":
        return _error(tail) is not None
    known = action in ACTIONS or action in LEFT_OUT
    return known and (sign == b"/" or action != b"X") and (tail[-1:] == b"]" or action in ENDLESS)


def _where(chosen: npt.NDArray[np.bool_], texts: tuple[bytes, ...]) -> list[bytes]:
    return [texts[row] for row in np.flatnonzero(chosen).tolist()]


def _error(tail: bytes) -> int | None:
    """Return the errno in brackets at the end, which is printed as an unsigned number of 16 bits."""
    text = tail[tail.rfind(b"[") + 1 : -1]
    if re.fullmatch(rb"-?\d{1,5}", text) is None:
        return None
    number = int(text)
    if not -(1 << 15) <= number < 1 << 16:
        return None
    return number - (1 << 16) if number >= 1 << 15 else number


def _above(sector: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> Ints:
    """Return the first sector after `sector` whose low 32 bits are `low`: a split prints no more of it."""
    begin = sector.astype(np.int64)
    there = begin & ~LOW_32 | low.astype(np.int64)
    return np.where(there < begin, there + LOW_32 + 1, there)
