"""Nsight Systems exports, built by hand after NVIDIA's schema, of several generations, and damaged ones.

Expected rows follow from what was put in, by plain Python; the importer gets them by SQL.
"""

import random
import sqlite3
import struct
from collections import Counter
from contextlib import closing

import pytest
from accel_rows import grown_mib, refused, rows_of

from kdtool.errors import TraceError
from kdtool.traces import AccelKind
from kdtool.traces.importers import import_trace

PID, OTHER_PID = 4242, 4243
GLOBAL_PID = 0x0001_0000_0000_0000 | PID << 24

STRINGS = "CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT)"
RUNTIME = (
    "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, "
    "eventClass INTEGER, globalTid INTEGER, correlationId INTEGER, nameId INTEGER, returnValue INTEGER, "
    "callchainId INTEGER)"
)
KERNEL = (
    "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER, deviceId INTEGER, "
    "contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, demangledName INTEGER, "
    "shortName INTEGER, mangledName INTEGER)"
)
MEMCPY = (
    "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER, deviceId INTEGER, "
    "contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, bytes INTEGER, "
    "copyKind INTEGER, migrationCause INTEGER, virtualAddress INTEGER)"
)
MEMSET = (
    "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER, end INTEGER, deviceId INTEGER, "
    "streamId INTEGER, correlationId INTEGER, globalPid INTEGER, value INTEGER, bytes INTEGER)"
)
GRAPH = (
    "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER, end INTEGER, deviceId INTEGER, "
    "streamId INTEGER, correlationId INTEGER, globalPid INTEGER, graphId INTEGER, graphExecId INTEGER)"
)
CPU_FAULTS = (
    "CREATE TABLE CUDA_UM_CPU_PAGE_FAULT_EVENTS (start INTEGER, globalPid INTEGER, address INTEGER, "
    "originalFaultPc INTEGER, CpuInstruction INTEGER)"
)
GPU_FAULTS = (
    "CREATE TABLE CUDA_UM_GPU_PAGE_FAULT_EVENTS (start INTEGER, end INTEGER, globalPid INTEGER, "
    "deviceId INTEGER, address INTEGER, numberOfPageFaults INTEGER, faultAccessType INTEGER)"
)


def build(path, *statements):
    """Write a database; a statement is SQL, or SQL and its rows."""
    with closing(sqlite3.connect(path)) as made:
        for statement in statements:
            if isinstance(statement, str):
                made.execute(statement)
            else:
                sql, rows = statement
                marks = ", ".join("?" * len(rows[0]))
                made.executemany(f"INSERT INTO {sql} VALUES ({marks})", rows)
        made.commit()
    return path


def full(path):
    """Write an export that has everything, out of order."""
    return build(
        path,
        *(STRINGS, RUNTIME, KERNEL, MEMCPY, MEMSET, GRAPH, CPU_FAULTS, GPU_FAULTS),
        ("StringIds", [(1, "void gemm<float>(int)"), (2, "gemm"), (3, "cudaLaunchKernel_v7000")]),
        (
            "CUPTI_ACTIVITY_KIND_RUNTIME",
            [
                (902, 948, 1, GLOBAL_PID | 7, 31, 3, 0, None),  # the driver call within
                (900, 950, 0, GLOBAL_PID | 7, 31, 3, 0, None),
                (100, 190, 0, GLOBAL_PID | 7, 30, 3, 0, None),
                (10, 20, 0, GLOBAL_PID | 7, 0, 3, 0, None),  # a call that asked for nothing
            ],
        ),
        ("CUPTI_ACTIVITY_KIND_KERNEL", [(1000, 1500, 0, 1, 7, 31, GLOBAL_PID, 1, 2, None)]),
        (
            "CUPTI_ACTIVITY_KIND_MEMCPY",
            [
                (2000, 2100, 0, 1, 13, None, GLOBAL_PID, 2 << 20, 11, 2, 0x7F00_0020_0000),
                (200, 300, 1, 1, 14, 30, GLOBAL_PID, 4096, 1, None, None),
                (2200, 2300, 0, 1, 13, None, GLOBAL_PID, 65536, 12, 4, 0x7F00_0030_0000),
                (2400, 2500, 0, 1, 13, 99, GLOBAL_PID, 64, 8, 0, 0),
                (2600, 2700, 0, 1, 13, 99, GLOBAL_PID, 64, 10, 0, 0),
                (2800, 2900, 0, 1, 13, 99, GLOBAL_PID, 64, 9, 0, 0),  # host to host
            ],
        ),
        ("CUPTI_ACTIVITY_KIND_MEMSET", [(3000, 3001, 0, 7, 77, GLOBAL_PID, 0, 1 << 33)]),
        ("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", [(3100, 0, 0, 7, 78, GLOBAL_PID, 5, 6)]),
        ("CUDA_UM_CPU_PAGE_FAULT_EVENTS", [(50, GLOBAL_PID, 0x7F00_0000_1000, 0, 0)]),
        (
            "CUDA_UM_GPU_PAGE_FAULT_EVENTS",
            [(1990, 1999, GLOBAL_PID, 0, 0x7F00_0020_0000, 17, 2), (60, 70, GLOBAL_PID, 0, 4096, 1, 1)],
        ),
        "CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT, localTime TEXT)",
        ("TARGET_INFO_SESSION_START_TIME", [(1_790_857_026_123_456_789, "x", "x")]),
        "CREATE TABLE META_DATA_EXPORT (name TEXT NOT NULL, value TEXT)",
        ("META_DATA_EXPORT", [("EXPORT_SCHEMA_VERSION", "3.15.1"), ("OTHER", "x")]),
        "CREATE TABLE DIAGNOSTIC_EVENT (timestamp INTEGER, severity INTEGER, text TEXT)",
        ("DIAGNOSTIC_EVENT", [(1, 1, "hello"), (2, 2, "Not all CUDA events were collected.")]),
    )


def test_every_kind_of_event_is_a_row_in_order_of_start(tmp_path):
    trace = import_trace("nsight", full(tmp_path / "a.sqlite"), tmp_path / "a.kdt")
    assert rows_of(trace, "start_ns", "end_ns", "kind", "name", "bytes", "address", "device", "queue") == [
        (50, -1, AccelKind.CPU_FAULT, "CPU page fault", 4096, 0x7F00_0000_1000, -1, 0),
        (60, 70, AccelKind.GPU_FAULT, "GPU page fault read", 4096, 4096, 0, 0),
        (200, 300, AccelKind.H2D, "memcpy HtoD", 4096, 0, 1, 14),
        (1000, 1500, AccelKind.KERNEL, "void gemm<float>(int)", 0, 0, 0, 7),
        (1990, 1999, AccelKind.GPU_FAULT, "GPU page fault write", 17 * 4096, 0x7F00_0020_0000, 0, 0),
        (2000, 2100, AccelKind.MIGRATE, "migrate HtoD by fault", 2 << 20, 0x7F00_0020_0000, 0, 13),
        (2200, 2300, AccelKind.MIGRATE, "migrate DtoH by eviction", 65536, 0x7F00_0030_0000, 0, 13),
        (2400, 2500, AccelKind.D2D, "memcpy DtoD", 64, 0, 0, 13),
        (2600, 2700, AccelKind.D2D, "memcpy PtoP", 64, 0, 0, 13),
        (3000, 3001, AccelKind.MEMSET, "memset", 1 << 33, 0, 0, 7),
        (3100, -1, AccelKind.KERNEL, "CUDA graph", 0, 0, 0, 7),
    ]
    assert set(trace.columns("accel")["pid"].tolist()) == {PID}


def test_the_outermost_call_with_the_correlation_is_when_work_was_queued(tmp_path):
    trace = import_trace("nsight", full(tmp_path / "a.sqlite"), tmp_path / "a.kdt")
    queued = {row[0]: row[1:] for row in rows_of(trace, "start_ns", "queued_ns", "submit_ns")}
    assert queued.pop(1000) == (900, 950)
    assert queued.pop(200) == (100, 190)
    assert set(queued.values()) == {(-1, -1)}


def test_the_manifest_says_the_clock_what_was_skipped_and_what_nsys_warned_of(tmp_path):
    manifest = import_trace("nsight", full(tmp_path / "a.sqlite"), tmp_path / "a.kdt").manifest
    assert manifest.clock == "nsys"
    assert manifest.collector["skipped"] == {"memcpy of kind 9": 1}
    assert manifest.collector["session_start_realtime_ns"] == 1_790_857_026_123_456_789
    assert manifest.collector["export"] == {"EXPORT_SCHEMA_VERSION": "3.15.1"}
    assert manifest.collector["diagnostics"] == ["Not all CUDA events were collected."]


def test_an_old_export_without_newer_columns_is_read(tmp_path):
    """2019: no globalPid, no mangledName, no virtualAddress; the process is that of the call."""
    path = build(
        tmp_path / "old.sqlite",
        STRINGS,
        ("StringIds", [(5, "axpy")]),
        "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INT, end INT, globalTid INT, correlationId INT, "
        "nameId INT, returnValue INT)",
        ("CUPTI_ACTIVITY_KIND_RUNTIME", [(1, 4, GLOBAL_PID | 9, 8, 5, 0)]),
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, contextId INT, "
        "streamId INT, correlationId INT, shortName INT)",
        ("CUPTI_ACTIVITY_KIND_KERNEL", [(5, 6, 2, 1, 3, 8, 5)]),
        "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INT, end INT, deviceId INT, streamId INT, bytes INT, "
        "copyKind INT)",
        ("CUPTI_ACTIVITY_KIND_MEMCPY", [(7, 9, 2, 3, 100, 2)]),
    )
    trace = import_trace("nsight", path, tmp_path / "old.kdt")
    assert rows_of(trace, "queued_ns", "submit_ns", "start_ns", "pid", "device", "kind", "bytes", "name") == [
        (1, 4, 5, PID, 2, AccelKind.KERNEL, 0, "axpy"),
        (-1, -1, 7, -1, 2, AccelKind.D2H, 100, "memcpy DtoH"),
    ]
    assert trace.manifest.collector["skipped"] == {}


def test_two_processes_with_one_correlation_are_told_apart(tmp_path):
    other = OTHER_PID << 24
    path = build(
        tmp_path / "two.sqlite",
        *(STRINGS, RUNTIME, KERNEL),
        ("StringIds", [(1, "k")]),
        (
            "CUPTI_ACTIVITY_KIND_RUNTIME",
            [(10, 11, 0, GLOBAL_PID | 1, 5, 1, 0, 0), (20, 21, 0, other | 1, 5, 1, 0, 0)],
        ),
        (
            "CUPTI_ACTIVITY_KIND_KERNEL",
            [(30, 31, 0, 1, 7, 5, other, 1, 1, 1), (40, 41, 0, 1, 7, 5, GLOBAL_PID, 1, 1, 1)],
        ),
    )
    trace = import_trace("nsight", path, tmp_path / "two.kdt")
    assert rows_of(trace, "pid", "queued_ns") == [(OTHER_PID, 20), (PID, 10)]


def test_a_prime_number_of_random_events_comes_out_sorted_and_whole(tmp_path):
    """100,003 kernels and 10,007 faults in random order, in more than one block, against plain Python."""
    rng = random.Random(7)
    calls = [(at := rng.randrange(10**12), at + 5, 0, GLOBAL_PID | 1, i, 1, 0, 0) for i in range(1, 100_004)]
    kernels = [
        (enter + rng.randrange(1, 10**6), 1 << 50, 0, 1, i % 5, i, GLOBAL_PID, i % 11, None, None)
        for i, (enter, *_) in enumerate(calls, 1)
    ]
    faults = [(rng.randrange(10**12), GLOBAL_PID, rng.randrange(1 << 47), 0, 0) for _ in range(10_007)]
    rng.shuffle(kernels)
    path = build(
        tmp_path / "many.sqlite",
        *(STRINGS, RUNTIME, KERNEL, CPU_FAULTS),
        ("StringIds", [(i, f"kernel {i}") for i in range(11)]),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", calls),
        ("CUPTI_ACTIVITY_KIND_KERNEL", kernels),
        ("CUDA_UM_CPU_PAGE_FAULT_EVENTS", faults),
    )
    trace = import_trace("nsight", path, tmp_path / "many.kdt")
    assert trace.rows("accel") == trace.manifest.tables["accel"].counted == 110_010
    columns = trace.columns("accel")
    assert (columns["start_ns"][1:] >= columns["start_ns"][:-1]).all()
    entered = {call[4]: call[0] for call in calls}
    expected = Counter((k[0], entered[k[5]], k[4], f"kernel {k[7]}") for k in kernels)
    expected.update((f[0], -1, 0, "CPU page fault") for f in faults)
    assert Counter(rows_of(trace, "start_ns", "queued_ns", "queue", "name")) == expected


def test_the_export_is_not_written_to(tmp_path):
    path = full(tmp_path / "a.sqlite")
    before, mode = path.read_bytes(), path.stat().st_mtime_ns
    import_trace("nsight", path, tmp_path / "a.kdt")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, mode)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.kdt", "a.sqlite"]
    assert not list((tmp_path / "a.kdt").rglob("*.sqlite"))


def test_memory_is_bounded_by_the_block_and_not_the_file(tmp_path):
    """500,009 events in less memory than their Python tuples take (250 MiB); Parquet takes 100."""
    path = build(tmp_path / "big.sqlite", STRINGS, KERNEL, ("StringIds", [(1, "k")]))
    with closing(sqlite3.connect(path)) as made:
        made.execute(
            "WITH RECURSIVE n(i) AS (VALUES(0) UNION ALL SELECT i + 1 FROM n WHERE i < 500008) "
            "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL "
            f"SELECT (i * 7919) % 500009, 500010, 0, 1, 7, i, {GLOBAL_PID}, 1, 1, 1 FROM n"
        )
        made.commit()
    small = full(tmp_path / "small.sqlite")
    rows, grown = grown_mib("nsight", small, path, tmp_path)
    assert rows == 500_009
    assert grown < 200


def test_what_is_not_sqlite_is_refused_with_the_command_that_makes_it(tmp_path):
    report = tmp_path / "a.nsys-rep"
    report.write_bytes(b"\x1f\x8b not sqlite at all")
    assert "nsys export --type sqlite" in refused("nsight", report, tmp_path)
    report.write_bytes(b"")
    assert "not a SQLite file" in refused("nsight", report, tmp_path)
    assert "cannot be read" in refused("nsight", tmp_path / "absent", tmp_path)
    assert "cannot be read" in refused("nsight", tmp_path, tmp_path)


def test_a_database_without_cuda_events_is_refused(tmp_path):
    path = build(
        tmp_path / "a.sqlite", STRINGS, "CREATE VIEW CUPTI_ACTIVITY_KIND_KERNEL AS SELECT 1 AS start"
    )
    assert "--trace=cuda" in refused("nsight", path, tmp_path)


def test_a_database_with_empty_tables_is_refused(tmp_path):
    assert "no events" in refused("nsight", build(tmp_path / "a.sqlite", STRINGS, KERNEL, MEMCPY), tmp_path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    path = full(tmp_path / "a.sqlite")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert "nsys export" in refused("nsight", path, tmp_path)


def test_no_damage_gives_more_than_one_line(tmp_path):
    """200 copies with 40 bytes overwritten at random: read, or refused in one line."""
    data, rng = full(tmp_path / "a.sqlite").read_bytes(), random.Random(3)
    refusals = 0
    for number in range(200):
        damaged = bytearray(data)
        for _ in range(40):
            damaged[rng.randrange(16, len(data))] = rng.randrange(256)
        path, output = tmp_path / f"{number}.sqlite", tmp_path / f"{number}.kdt"
        path.write_bytes(damaged)
        try:
            import_trace("nsight", path, output)
        except TraceError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert not output.exists()
    assert refusals > 50


def kernel_with(tmp_path, **changed):
    """Write an export of one kernel with some of its columns as given."""
    row = {
        "start": 10, "end": 20, "deviceId": 0, "contextId": 1, "streamId": 7, "correlationId": 1,
        "globalPid": GLOBAL_PID, "demangledName": 1, "shortName": 1, "mangledName": 1,
    } | changed  # fmt: skip
    path = tmp_path / "one.sqlite"
    path.unlink(missing_ok=True)
    return build(
        path,
        STRINGS,
        ("StringIds", [(1, "k")]),
        KERNEL,
        ("CUPTI_ACTIVITY_KIND_KERNEL", [tuple(row.values())]),
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start": "soon"}, "start_ns of event 0 by time is 'soon', not an integer"),
        ({"start": 10.5}, "not an integer"),
        ({"start": b"\xff"}, "not an integer"),
        ({"start": -5}, "start_ns of event 0 by time is -5"),
        ({"start": 2**63 - 1, "end": 2**63 - 1}, "allowed are 0 to"),
        ({"end": 9}, "ends at 9 ns, before it starts at 10 ns"),
        ({"end": -7}, "end_ns of event 0 by time is -7"),
        ({"deviceId": 40_000}, "device of event 0 by time is 40000"),
        ({"streamId": 2**32}, "queue of event 0 by time is 4294967296"),
        ({"streamId": -2}, "queue of event 0 by time is -2"),
        ({"globalPid": "me"}, "pid of event 0 by time is 'me'"),
        ({"demangledName": 404}, "StringIds has no name 404"),
        ({"demangledName": b"\x00"}, "StringIds has no name"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(tmp_path, changed, said):
    assert said in refused("nsight", kernel_with(tmp_path, **changed), tmp_path)


def test_values_that_are_absent_are_unknown_and_not_refused(tmp_path):
    path = kernel_with(tmp_path, end=None, deviceId=None, streamId=None, correlationId=None, globalPid=None)
    trace = import_trace("nsight", path, tmp_path / "a.kdt")
    assert rows_of(trace, "end_ns", "device", "queue", "pid", "queued_ns") == [(-1, -1, 0, -1, -1)]


@pytest.mark.parametrize("faults", ["many", -1, 2**62, 2**63 - 1])
def test_absurd_fault_counts_are_refused(tmp_path, faults):
    path = build(
        tmp_path / "a.sqlite",
        GPU_FAULTS,
        ("CUDA_UM_GPU_PAGE_FAULT_EVENTS", [(1, 2, GLOBAL_PID, 0, 0, faults, 1)]),
    )
    assert "bytes of event 0" in refused("nsight", path, tmp_path)


def test_a_column_that_must_be_there_is_named(tmp_path):
    path = build(tmp_path / "a.sqlite", "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (end INT)")
    assert "start" in refused("nsight", path, tmp_path)


def test_a_text_of_gigabytes_is_not_read(tmp_path):
    path = kernel_with(tmp_path)
    with closing(sqlite3.connect(path)) as made:
        made.execute("UPDATE StringIds SET value = zeroblob(100000000)")
        made.commit()
    assert "too big" in refused("nsight", path, tmp_path)


def test_an_export_that_is_still_being_written_is_refused(tmp_path):
    path = full(tmp_path / "a.sqlite")
    (tmp_path / "a.sqlite-journal").write_bytes(b"x")
    assert "not written to its end" in refused("nsight", path, tmp_path)


def test_a_file_whose_pages_refer_to_one_another_over_and_over_is_refused(tmp_path):
    """Six levels of 50 references to the level below: 10^11 rows out of 5 kB."""
    path = tmp_path / "bomb.sqlite"
    row = (10, 20, 0, 1, 7, 1, GLOBAL_PID, 1, 1, 1)
    build(path, "PRAGMA page_size = 512", KERNEL, ("CUPTI_ACTIVITY_KIND_KERNEL", [row] * 8))
    with closing(sqlite3.connect(path)) as made:
        (root,) = made.execute("SELECT rootpage FROM sqlite_master").fetchone()
    data = bytearray(path.read_bytes())
    data += data[(root - 1) * 512 : root * 512]
    for _ in range(5):
        data += page_of_references(len(data) // 512)
    data[(root - 1) * 512 : root * 512] = page_of_references(len(data) // 512)
    data[28:32] = struct.pack(">I", len(data) // 512)
    path.write_bytes(data)
    assert "interrupted" in refused("nsight", path, tmp_path)


def page_of_references(child):
    """Return an interior page of a table b-tree whose 50 cells, and its right-most pointer, are one child."""
    cells = b"".join(struct.pack(">IB", child, key) for key in range(50))
    head = struct.pack(">BHHHBI", 5, 0, 50, 512 - len(cells), 0, child)
    pointers = b"".join(struct.pack(">H", 512 - len(cells) + 5 * cell) for cell in range(50))
    return (head + pointers).ljust(512 - len(cells), b"\0") + cells
