"""`kineto`: recordings of the PyTorch profiler (`export_chrome_trace`), JSON, gzipped or not.

    kernel, gpu_memcpy, gpu_memset        --> accel, in order of start
    cuda_runtime, ... (by `correlation`)  --> queued_ns, submit_ns: when the call was entered, returned
    cpu_op, in a recording without a GPU  --> accel, device -1, queue = thread

Times are realtime ns: baseTimeNanoseconds + `ts`, in integers. A recording of the CPU alone gives all its
operators, and those they call: the rows of a thread nest. Beside a GPU, operators only ask for work, and are
left out. What is left out is counted by category in the manifest.
Events are sorted by SQLite in the trace's spool: memory is bounded whatever the size of the file.
"""

import re
import sqlite3
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from kdtool.errors import TraceError
from kdtool.traces.importers.accel import (
    NAMES_BYTES,
    NameIds,
    append_sorted,
    database,
    too_many_names,
)
from kdtool.traces.importers.base import Imported
from kdtool.traces.importers.jsonstream import ObjectReader, open_text
from kdtool.traces.schema import AccelKind
from kdtool.traces.writer import TraceWriter

__all__ = ["KinetoImporter"]

FIX = "export it again with torch.profiler's export_chrome_trace"

DEVICE = {
    "kernel": int(AccelKind.KERNEL),
    "gpu_memset": int(AccelKind.MEMSET),
    "gpu_memcpy": None,
    "Kernel": int(AccelKind.KERNEL),
    "Memset": int(AccelKind.MEMSET),
    "Memcpy": None,
}
"""Category: kind; None where the name says it. Those with capitals are of PyTorch 1.8 to 1.10."""
OPERATORS = ("cpu_op", "Operator")
CALLS = ("cuda_runtime", "cuda_driver", "xpu_runtime", "xpu_driver", "privateuse1_runtime", "Runtime")
COPY = re.compile(r"Memcpy ([HDAPM])(?:to|2)([HDAPM])")
"""Host, device, array, peer; the XPU calls the host M."""
DECIMAL = re.compile(r"(-?\d{1,19})(?:\.(\d{1,40}))?([eE][-+]?\d{1,2})?")
STAGED_ROWS = 1 << 14
CATEGORIES = 64
"""Different categories that are counted apart; further ones together."""

STAGE = """
CREATE TABLE works (start, "end", device, queue, kind, bytes, name, correlation INTEGER);
CREATE TABLE operators (start, "end", pid, tid, name);
CREATE TABLE calls (correlation INTEGER PRIMARY KEY, enter, leave, pid);
"""
PUT_WORK = "INSERT INTO works VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
PUT_OPERATOR = "INSERT INTO operators VALUES (?, ?, ?, ?, ?)"
PUT_CALL = """
INSERT INTO calls VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET enter = min(enter, excluded.enter), leave = max(leave, excluded.leave)
"""
WORKS = """
SELECT coalesce(enter, -1), coalesce(leave, -1), start, "end", coalesce(pid, -1), device, queue, kind,
       bytes, 0, name
FROM works LEFT JOIN calls USING (correlation) ORDER BY 3, 4 DESC
"""
ALL_OPERATORS = f"""
SELECT -1, -1, start, "end", pid, -1, tid, {int(AccelKind.KERNEL)}, 0, 0, name
FROM operators ORDER BY 3, 4 DESC
"""


class KinetoImporter:
    """Read what a GPU did, or the operators of a CPU, from a PyTorch profiler trace."""

    name = "kineto"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append the events of `file` to `accel`; TraceError names what is wrong with the file."""
        stage = writer.spool / "kineto.sqlite"
        with open_text(file) as text, database(f"{stage.resolve().as_uri()}?mode=rwc", file, FIX) as opened:
            opened.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {STAGE}")
            staging = _Staging(opened, file)
            staging.read(ObjectReader(text, file, FIX))
            rows = opened.execute(WORKS if staging.has_device else ALL_OPERATORS)
            names = list(staging.names)
            append_sorted(writer, file, rows, NameIds(writer, file, names.__getitem__), staging.begin_ns)
            return Imported("realtime", facts=staging.facts())


class _Staging:
    """Puts the events of use into SQLite, in the order of the file; times are before `begin_ns` is added."""

    def __init__(self, opened: sqlite3.Connection, file: Path) -> None:
        self._opened, self._file = opened, file
        self.has_device = False
        self.begin_ns = 0
        self.names: dict[str, int] = {}
        self._names_bytes = 0
        self._schema_version: int | None = None
        self._events, self._operators = 0, 0
        self._skipped: Counter[str] = Counter()
        self._pending: dict[str, list[tuple[Any, ...]]] = {PUT_WORK: [], PUT_OPERATOR: [], PUT_CALL: []}

    def read(self, reader: ObjectReader) -> None:
        """Stage all events; TraceError when there is no list of them, or one is not what it should be."""
        listed = False
        self._opened.execute("BEGIN")
        for key, value in reader.members("traceEvents"):
            if key == "traceEvents":
                listed = True
                self._event(value)
            elif key == "baseTimeNanoseconds":
                self.begin_ns = self._whole(value, key)
            elif key == "schemaVersion":
                self._schema_version = self._whole(value, key)
        for statement in self._pending:
            self._flush(statement)
        self._opened.execute("COMMIT")
        if not listed:
            raise TraceError(f"{self._file}: has no traceEvents, or none in it: {FIX}")

    def facts(self) -> dict[str, Any]:
        """Return what the file says of itself, and how many events of which category were left out."""
        if self.has_device:
            self._skipped["cpu_op"] += self._operators
        return {
            "schema_version": self._schema_version,
            "events": "device" if self.has_device else "cpu_op",
            "skipped": dict(sorted((+self._skipped).items())),
        }

    def _event(self, event: Any) -> None:
        self._events += 1
        if not isinstance(event, dict):
            raise self._error("is not an object")
        category = event.get("cat")
        if event.get("ph") != "X" or not isinstance(category, str):
            self._skip(str(category or f"ph {event.get('ph')}"))
        elif category in DEVICE:
            self._work(event, category)
        elif category in OPERATORS:
            self._operators += 1
            if not self.has_device:
                start, end = self._span(event)
                self._put(PUT_OPERATOR, (start, end, event.get("pid"), event.get("tid"), self._name(event)))
        elif category in CALLS:
            self._call(event)
        else:
            self._skip(category)

    def _work(self, event: dict[str, Any], category: str) -> None:
        kind = DEVICE[category]
        if kind is None:
            kind = _direction(str(event.get("name")))
        if kind is None:
            self._skip(f"{category} of no known direction")
            return
        if not self.has_device:
            self.has_device = True
            self._pending[PUT_OPERATOR].clear()
            self._opened.execute("DELETE FROM operators")
        args = self._args(event)
        start, end = self._span(event)
        device, queue = args.get("device", event.get("pid")), args.get("stream", event.get("tid"))
        correlation = args.get("correlation") or None
        row = (start, end, device, queue, kind, args.get("bytes", 0), self._name(event), correlation)
        self._put(PUT_WORK, row)

    def _call(self, event: dict[str, Any]) -> None:
        correlation = self._args(event).get("correlation")
        if not correlation:
            self._skip(event["cat"])
            return
        start, end = self._span(event)
        pid = event.get("pid")
        self._put(PUT_CALL, (self._whole(correlation, "correlation"), start, end, pid))

    def _put(self, statement: str, row: tuple[Any, ...]) -> None:
        pending = self._pending[statement]
        pending.append(row)
        if len(pending) >= STAGED_ROWS:
            self._flush(statement)

    def _flush(self, statement: str) -> None:
        try:
            self._opened.executemany(statement, self._pending[statement])
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):  # a list or an object
            raise self._error("or one shortly before has a list where a number belongs") from None
        self._pending[statement].clear()

    def _span(self, event: dict[str, Any]) -> tuple[int, int]:
        """Return start and end in ns."""
        try:
            start, length = _ns(event["ts"]), _ns(event.get("dur", 0))
        except (KeyError, TypeError, ValueError):
            given = f"ts {str(event.get('ts'))[:40]}, dur {str(event.get('dur'))[:40]}"
            raise self._error(f"has no time in µs ({given})") from None
        return start, start + length

    def _args(self, event: dict[str, Any]) -> dict[str, Any]:
        args = event.get("args", {})
        if not isinstance(args, dict):
            raise self._error("has args that are not an object")
        return args

    def _name(self, event: dict[str, Any]) -> int:
        name = event.get("name")
        if not isinstance(name, str):
            raise self._error("has no name")
        number = self.names.setdefault(name, len(self.names))
        if number == len(self.names) - 1:
            self._names_bytes += len(name) + 64
            if self._names_bytes > NAMES_BYTES:
                raise too_many_names(self._file)
        return number

    def _whole(self, value: Any, what: str) -> int:
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise self._error(f"or the member {what} has {str(value)[:40]!r}, not a whole number")
        return value

    def _skip(self, category: str) -> None:
        known = category in self._skipped or len(self._skipped) < CATEGORIES
        self._skipped[category[:40] if known else "others"] += 1

    def _error(self, what: str) -> TraceError:
        return TraceError(f"{self._file}: event {self._events} of traceEvents {what}: {FIX}")


def _direction(name: str) -> int | None:
    """Return the kind of a copy, None for one from host to host and for what is none."""
    found = COPY.match(name)
    if found is None:
        return None
    source, target = (letter.replace("M", "H") for letter in found.groups())
    if source == target == "H":
        return None
    return int(AccelKind.H2D if source == "H" else AccelKind.D2H if target == "H" else AccelKind.D2D)


def _ns(us: Any) -> int:
    """Return whole ns of decimal µs, an integer or text. Finer digits, of tools that compute in float, round.

    >>> _ns("4623648906071.668"), _ns("0.090"), _ns(7), _ns("-1.5"), _ns("0.06999999999999999"), _ns("1e-3")
    (4623648906071668, 90, 7000, -1500, 70, 1)
    """
    if type(us) is int:
        return us * 1000
    found = DECIMAL.fullmatch(us)
    if found is None:
        raise ValueError(us)
    whole, fraction, exponent = found.groups("")
    if exponent or len(fraction) > 3:
        return int((Decimal(us) * 1000).to_integral_value())
    return int(f"{whole}{fraction:0<3}")
