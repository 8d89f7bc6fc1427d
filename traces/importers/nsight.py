"""`nsight`: what the GPU did, from the SQLite export of Nsight Systems (`nsys export --type sqlite`).

    KERNEL, GRAPH_TRACE, MEMCPY, MEMSET, UM_CPU_/UM_GPU_PAGE_FAULT --> accel, in order of start
    RUNTIME (the API call that asked for it, by correlationId)     --> queued_ns, submit_ns

nsys makes tables and columns only as needed, and has added some over the years: what is there is looked up,
never assumed. Times are ns since the session began. `queued_ns` is when the API call was entered, `submit_ns`
when it returned. The file is opened read-only; the calls are indexed in the trace's spool.
Left out: copies from host to host (counted), API calls without work on the device, CPU samples, NVTX ranges.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdtool.errors import TraceError
from kdtool.traces.importers.accel import NameIds, append_sorted, database
from kdtool.traces.importers.base import Imported
from kdtool.traces.schema import AccelKind
from kdtool.traces.writer import TraceWriter

__all__ = ["NsightImporter"]

FIX = "export it again with `nsys export --type sqlite REPORT.nsys-rep`"

COPY_KINDS = {
    1: (AccelKind.H2D, "memcpy HtoD"),
    2: (AccelKind.D2H, "memcpy DtoH"),
    3: (AccelKind.H2D, "memcpy HtoA"),
    4: (AccelKind.D2H, "memcpy AtoH"),
    5: (AccelKind.D2D, "memcpy AtoA"),
    6: (AccelKind.D2D, "memcpy AtoD"),
    7: (AccelKind.D2D, "memcpy DtoA"),
    8: (AccelKind.D2D, "memcpy DtoD"),
    10: (AccelKind.D2D, "memcpy PtoP"),
    11: (AccelKind.MIGRATE, "migrate HtoD"),
    12: (AccelKind.MIGRATE, "migrate DtoH"),
    13: (AccelKind.MIGRATE, "migrate DtoD"),
}
"""CUpti_ActivityMemcpyKind, and nsys' own 11 to 13 for unified memory. 9 is host to host."""
CAUSES = {1: " by user", 2: " by fault", 3: " by prefetch", 4: " by eviction", 5: " by access counters"}
"""CUpti_ActivityUnifiedMemoryMigrationCause; `user` asked by cudaMemPrefetchAsync, `fault` is coherence."""
ACCESSES = {1: " read", 2: " write", 3: " atomic", 4: " prefetch"}
"""CUpti_ActivityUnifiedMemoryAccessType."""
FAULT_BYTES = 4096
"""`bytes` of a fault event, for each of its numberOfPageFaults, which are all at the same page."""
STEPS_A_BYTE = 100
WARNING = 2
"""DIAGNOSTIC_EVENT.severity: 1 is information, 3 an error."""


def _case(column: str, words: Mapping[int, str | int]) -> str:
    """Return the SQL that looks up one of our numbers; '' for any other."""
    whens = " ".join(f"WHEN {number} THEN {word!r}" for number, word in words.items())
    return f"CASE {column} {whens} ELSE '' END"


def _integer(column: str, then: str) -> str:
    """Return the SQL for `then` where the column is an integer, else for what it is, to be refused."""
    return f"CASE typeof({column}) WHEN 'integer' THEN {then} ELSE {column} END"


def _pid(column: str) -> str:
    """Return the SQL for the process in a serialized id: 8 bits hardware, 8 VM, 24 process, 24 thread."""
    return _integer(column, f"({column} >> 24) & 0xffffff")


CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
COPIES = "CUPTI_ACTIVITY_KIND_MEMCPY"
ACTIVITIES = {
    "CUPTI_ACTIVITY_KIND_KERNEL": (
        f"{int(AccelKind.KERNEL)}, 0, 0, coalesce(demangledName, shortName, mangledName, 'kernel')"
    ),
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": f"{int(AccelKind.KERNEL)}, 0, 0, 'CUDA graph'",
    COPIES: ", ".join(
        [
            _case("copyKind", {number: int(kind) for number, (kind, _) in COPY_KINDS.items()}),
            "coalesce(bytes, 0), coalesce(virtualAddress, 0)",
            _case("copyKind", {number: name for number, (_, name) in COPY_KINDS.items()})
            + " || "
            + _case("migrationCause", CAUSES),
        ]
    ),
    "CUPTI_ACTIVITY_KIND_MEMSET": f"{int(AccelKind.MEMSET)}, coalesce(bytes, 0), 0, 'memset'",
    "CUDA_UM_CPU_PAGE_FAULT_EVENTS": (
        f"{int(AccelKind.CPU_FAULT)}, {FAULT_BYTES}, coalesce(address, 0), 'CPU page fault'"
    ),
    "CUDA_UM_GPU_PAGE_FAULT_EVENTS": ", ".join(
        [
            str(int(AccelKind.GPU_FAULT)),
            _integer("coalesce(numberOfPageFaults, 1)", f"coalesce(numberOfPageFaults, 1) * {FAULT_BYTES}"),
            "coalesce(address, 0)",
            f"'GPU page fault' || {_case('faultAccessType', ACCESSES)}",
        ]
    ),
}
"""Table: SQL for kind, bytes, address, and the name or its number in StringIds."""
OPTIONAL = (
    *("end", "deviceId", "streamId", "correlationId", "globalPid"),
    *("demangledName", "shortName", "mangledName"),
    *("bytes", "copyKind", "migrationCause", "virtualAddress"),
    *("address", "numberOfPageFaults", "faultAccessType"),
)
"""Columns that some table, or some generation of nsys, does not have."""


class NsightImporter:
    """Read device activity and unified-memory faults from an Nsight Systems SQLite export."""

    name = "nsight"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append the events of `file` to `accel`; TraceError names what is wrong with the file."""
        _check_file(file)
        uri = f"{file.resolve().as_uri()}?mode=ro&immutable=1"
        with database(uri, file, FIX) as opened:
            _bound_steps(opened, file.stat().st_size)
            export = _Export(opened, file)
            export.index_calls(writer.spool / "nsight.sqlite")
            append_sorted(writer, file, export.events(), NameIds(writer, file, export.name_of))
            return Imported("nsys", facts=export.facts())


def _check_file(file: Path) -> None:
    with file.open("rb") as opened:
        magic = opened.read(16)
    if magic != b"SQLite format 3\0":
        raise TraceError(f"{file}: not a SQLite file: {FIX}")
    for suffix in ("-wal", "-journal"):
        beside = file.with_name(file.name + suffix)
        if beside.exists() and beside.stat().st_size:
            raise TraceError(f"{file}: was not written to its end ({beside.name} is there): {FIX}")


def _bound_steps(opened: sqlite3.Connection, file_bytes: int) -> None:
    """Interrupt what takes far more steps than a sound file of this size can ask for.

    A page that refers to another many times over makes 10^11 rows of a few kB. A row of nsys takes some 200
    steps of SQLite's machine, and at least 30 bytes.
    """
    left = iter(range(100 + file_bytes * STEPS_A_BYTE // 1_000_000))
    opened.set_progress_handler(lambda: next(left, None) is None, 1_000_000)


class _Export:
    """The tables that are of use to us, as one SELECT."""

    def __init__(self, opened: sqlite3.Connection, file: Path) -> None:
        self._opened, self._file = opened, file
        tables = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        self._columns = {table: self._columns_of(table) for (table,) in tables}
        self._activities = [table for table in ACTIVITIES if table in self._columns]
        if not self._activities:
            raise TraceError(
                f"{file}: has no CUDA events: record with `nsys profile --trace=cuda`, and {FIX}"
            )
        linked = [table for table in self._activities if self._has(table, "correlationId")]
        self._with_calls = bool(linked) and self._has(CALLS, "start", "end", "correlationId")
        # Two processes may use the same correlationId: the call is found by both, where the file tells both.
        self._by_pid = self._has(CALLS, "globalTid") and all(self._has(each, "globalPid") for each in linked)

    def index_calls(self, index: Path) -> None:
        """Write the API calls to a database of their own, by process and correlationId.

        A runtime call and the driver call within it have the same correlationId: the outer one counts.
        """
        if not self._with_calls:
            return
        self._opened.execute("ATTACH ? AS side", (f"{index.resolve().as_uri()}?mode=rwc",))
        self._opened.execute("PRAGMA side.journal_mode = OFF")
        self._opened.execute("PRAGMA side.synchronous = OFF")
        self._opened.execute(
            "CREATE TABLE side.calls (process INTEGER, correlation INTEGER, enter, leave, pid, "
            "PRIMARY KEY (process, correlation)) WITHOUT ROWID"
        )
        pid = _pid("globalTid") if self._has(CALLS, "globalTid") else "NULL"
        process = f"coalesce({pid}, -1)" if self._by_pid else "0"
        self._opened.execute("BEGIN")
        self._opened.execute(
            f'INSERT INTO side.calls SELECT {process}, correlationId, start, "end", {pid} FROM {CALLS} '
            "WHERE correlationId > 0 ON CONFLICT DO UPDATE "
            "SET enter = min(enter, excluded.enter), leave = max(leave, excluded.leave)"
        )
        self._opened.execute("COMMIT")

    def events(self) -> sqlite3.Cursor:
        """Return all events as the columns of ROW, by start, and the longer first."""
        selects = " UNION ALL ".join(self._select(table) for table in self._activities)
        return self._opened.execute(f"{selects} ORDER BY 3, 4 DESC")

    def name_of(self, key: Any) -> str:
        """Return the name for what `events` has: a number of StringIds, or the name itself."""
        if isinstance(key, str):
            return key
        found = None
        if self._has("StringIds", "id", "value"):
            found = self._opened.execute("SELECT value FROM StringIds WHERE id = ?", (key,)).fetchone()
        if found is None or not isinstance(found[0], str):
            raise TraceError(f"{self._file}: StringIds has no name {str(key)[:40]}, of a kernel: {FIX}")
        return found[0]

    def facts(self) -> dict[str, Any]:
        """Return what the file says of itself, and what of it was left out."""
        facts: dict[str, Any] = {"skipped": self._skipped()}
        if self._has("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"):
            began = "SELECT CAST(utcEpochNs AS INTEGER) FROM TARGET_INFO_SESSION_START_TIME LIMIT 1"
            facts["session_start_realtime_ns"] = next(self._opened.execute(began), (None,))[0]
        if self._has("META_DATA_EXPORT", "name", "value"):
            pairs = (
                "SELECT substr(CAST(name AS TEXT), 1, 80), substr(CAST(value AS TEXT), 1, 80) "
                "FROM META_DATA_EXPORT WHERE name LIKE '%VERSION%' LIMIT 16"
            )
            facts["export"] = dict(self._opened.execute(pairs).fetchall())
        if self._has("DIAGNOSTIC_EVENT", "severity", "text"):
            said = (
                "SELECT DISTINCT substr(CAST(text AS TEXT), 1, 200) FROM DIAGNOSTIC_EVENT "
                f"WHERE severity >= {WARNING} LIMIT 20"
            )
            facts["diagnostics"] = [text for (text,) in self._opened.execute(said)]
        return facts

    def _columns_of(self, table: str) -> set[str]:
        return {name for (name,) in self._opened.execute("SELECT name FROM pragma_table_info(?)", (table,))}

    def _has(self, table: str, *columns: str) -> bool:
        return set(columns) <= self._columns.get(table, set())

    def _select(self, table: str) -> str:
        """Return the SELECT of a table as the columns of ROW."""
        linked = self._with_calls and self._has(table, "correlationId")
        pid = _pid("globalPid")
        process = f"coalesce({pid}, -1)" if self._by_pid else "0"
        calls = (
            f"LEFT JOIN side.calls ON correlation = correlationId AND process = {process}" if linked else ""
        )
        return (
            f"SELECT {'coalesce(enter, -1), coalesce(leave, -1)' if linked else '-1, -1'}, start, "
            f'coalesce(nullif("end", 0), -1), coalesce({pid}, {"pid" if linked else "NULL"}, -1), '
            f"coalesce(deviceId, -1), coalesce(streamId, 0), {ACTIVITIES[table]} "
            f"FROM {self._whole(table)} {calls}"
            + (f" WHERE copyKind IN ({_list(COPY_KINDS)})" if table == COPIES else "")
        )

    def _whole(self, table: str) -> str:
        """Return the SQL for a table with NULL in the columns that it does not have."""
        columns = (f'"{name}"' if self._has(table, name) else f'NULL AS "{name}"' for name in OPTIONAL)
        return f"(SELECT start, {', '.join(columns)} FROM {table})"

    def _skipped(self) -> dict[str, int]:
        if COPIES not in self._activities:
            return {}
        rows = self._opened.execute(
            f"SELECT copyKind, count(*) FROM {self._whole(COPIES)} WHERE copyKind IS NULL "
            f"OR copyKind NOT IN ({_list(COPY_KINDS)}) GROUP BY 1 ORDER BY 1 LIMIT 64"
        )
        return {f"memcpy of kind {str(kind)[:20]}": count for kind, count in rows}


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
