"""The collector of block I/O, against a program with known numbers of requests, on a loop device of ours."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest

from kdtool.collect import session, tracestream
from kdtool.collect.base import Request, Scope
from kdtool.collect.blockio import BlockIO
from kdtool.collect.faults import Faults
from kdtool.collect.sched import Sched
from kdtool.errors import CapabilityError, KdtoolError, ParameterError, TraceError
from kdtool.kernel.blockdev import find_disks
from kdtool.kernel.tracefs import find_tracefs
from kdtool.traces import NO_TIME, BlockOp, SchedEvent, Trace, TraceWriter

pytestmark = [pytest.mark.root, needs.root, needs.tracefs, needs.gcc, needs.loop]

PRIME, BLOCK, SECTORS = 997, 4096, 8
DISK_BYTES = 16 << 20
PARTITION_SECTOR = 2048
EIO = -5
OPERATION = 15
perf = pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return needs.compiled(tmp_path_factory.mktemp("blockio"), "blocks", "-pthread")


@dataclass
class Disk:
    """A loop device of this test's own, and the file behind it."""

    path: str
    file: Path

    @property
    def name(self) -> str:
        return Path(self.path).name

    def set(self, **settings: object) -> None:
        """Set what is in queue/ of the device."""
        for name, value in settings.items():
            Path(f"/sys/block/{self.name}/queue/{name}").write_text(str(value))

    def stat(self) -> dict[str, int]:
        """The kernel's own count (Documentation/block/stat.rst)."""
        words = ("reads", "reads_merged", "sectors_read", "_", "writes", "writes_merged", "sectors_written")
        return dict(
            zip(words, map(int, Path(f"/sys/block/{self.name}/stat").read_text().split()), strict=False)
        )

    def since(self, before: dict[str, int]) -> dict[str, int]:
        return {name: count - before[name] for name, count in self.stat().items() if name != "_"}


@pytest.fixture
def disk() -> Iterator[Disk]:
    with needs.loop_disk(DISK_BYTES) as (path, file):
        yield Disk(path, file)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield

    assert list((find_tracefs() / "instances").glob(f"kdtool-{os.getpid()}-*")) == []


@dataclass
class Said:
    """What the program printed: its thread, the times before and after its work, transfers that failed."""

    tid: int
    t0_ns: int
    t1_ns: int
    failed: int


Rows = dict[str, np.ndarray]


def record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk, *command: str, **more: Any
) -> tuple[Trace, Rows, Said]:
    """Record a command on a disk; return its trace, the rows between its two times, and what it said."""
    request = Request(command, tmp_path / "t.kdt", devices=(disk.path,), **more)
    trace = session.record(request, [BlockIO()])
    said = Said(*(int(word) for word in capfd.readouterr().out.split()))
    assert trace.manifest.workload["exit_code"] == 0
    return trace, during(trace.columns("blockio"), said), said


def during(rows: Rows, said: Said) -> Rows:
    inside = (rows["queue_ns"] >= said.t0_ns) & (rows["queue_ns"] <= said.t1_ns)
    return {name: column[inside] for name, column in rows.items()}


def facts_of(trace: Trace) -> dict[str, Any]:
    facts: dict[str, Any] = trace.manifest.collector["sources"]["blockio"]
    return facts


def loses_nothing(trace: Trace) -> bool:
    info = trace.manifest.tables["blockio"]
    return info.counted == info.rows and info.lost == 0


# ------------------------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize(("mode", "op"), [("read", BlockOp.READ), ("write", BlockOp.WRITE | BlockOp.SYNC)])
def test_every_request_is_a_row_with_its_place_task_and_times(
    program: str, mode: str, op: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    before = disk.stat()
    trace, rows, said = record(tmp_path, capfd, disk, program, disk.path, mode, str(PRIME), str(BLOCK))

    assert len(rows["dev"]) == PRIME == disk.since(before)[f"{mode}s"]
    assert rows["sector"].tolist() == [2 * SECTORS * i for i in range(PRIME)]
    assert set(rows["nr_sectors"]) == {SECTORS} and set(rows["tid"]) == {said.tid}
    assert set(rows["op"] & ~np.uint8(BlockOp.SYNC)) == {op & ~BlockOp.SYNC}
    assert set(rows["dev"]) == {find_disks([disk.path])[disk.name]} and not rows["error"].any()
    times = [said.t0_ns]
    for each in zip(*(rows[name].tolist() for name in ("queue_ns", "issue_ns", "complete_ns")), strict=True):
        times += each
    assert times == sorted(times), "one request after another"
    assert times[-1] <= said.t1_ns and loses_nothing(trace)
    assert facts_of(trace)["unfinished_requests"] == 0


@perf
def test_perf_counts_the_same_requests(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    counts = tmp_path / "perf.csv"
    number = find_disks([disk.path])[disk.name]
    stat = ("perf", "stat", "-x,", "-o", str(counts), "-e", "block:block_rq_issue")
    command = (
        *stat,
        "--filter",
        f"dev == {number}",
        "--",
        program,
        disk.path,
        "read",
        str(PRIME),
        str(BLOCK),
    )
    _, rows, _ = record(tmp_path, capfd, disk, *command)

    counted = int(re.search(r"^(\d+),", counts.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    assert len(rows["dev"]) == counted == PRIME


def test_merged_writes_are_one_request_of_all_their_sectors(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    before = disk.stat()
    _, rows, said = record(tmp_path, capfd, disk, program, disk.path, "batch", str(PRIME), str(BLOCK))

    counted = disk.since(before)
    assert len(rows["dev"]) == counted["writes"] < PRIME // 10
    assert counted["writes_merged"] == PRIME - counted["writes"]
    assert int(rows["nr_sectors"].sum()) == PRIME * SECTORS == counted["sectors_written"]
    ends = np.sort(rows["sector"] + rows["nr_sectors"])
    assert np.sort(rows["sector"]).tolist() == [0, *ends[:-1].tolist()], "without gap or overlap"
    assert set(rows["tid"]) == {said.tid}


@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
def test_requests_that_a_third_joins_are_one(
    program: str, scheduler: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    disk.set(scheduler=scheduler)
    before = disk.stat()
    trace, rows, _ = record(tmp_path, capfd, disk, program, disk.path, "holes", "39", str(BLOCK))

    counted = disk.since(before)
    assert len(rows["dev"]) == counted["writes"] < 39
    assert int(rows["nr_sectors"].sum()) == 39 * SECTORS == counted["sectors_written"]
    assert (rows["queue_ns"] < rows["issue_ns"]).all() and (rows["issue_ns"] < rows["complete_ns"]).all()
    assert facts_of(trace)["stray_events"] == 0 and loses_nothing(trace)


def test_what_fsync_writes_back_is_the_tasks_own_and_then_a_flush(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    before = disk.stat()
    trace, rows, said = record(tmp_path, capfd, disk, program, disk.path, "buffered", str(PRIME), str(BLOCK))

    writes = rows["op"] & OPERATION == BlockOp.WRITE
    assert int(rows["nr_sectors"][writes].sum()) == PRIME * SECTORS == disk.since(before)["sectors_written"]
    assert len(rows["dev"]) == disk.since(before)["writes"], "where a flush counts as a write of nothing"
    flush = np.flatnonzero(rows["op"] & OPERATION == BlockOp.FLUSH)
    assert len(flush) == 1 and rows["nr_sectors"][flush] == rows["sector"][flush] == 0
    assert rows["complete_ns"][writes].max() <= rows["queue_ns"][flush]
    assert rows["queue_ns"][flush] < rows["issue_ns"][flush] < rows["complete_ns"][flush]
    assert set(rows["tid"]) == {said.tid} and facts_of(trace)["device_flush_events"] >= 2


def test_a_read_larger_than_the_device_takes_is_several_that_arrived_at_once(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    disk.set(max_sectors_kb=128)
    before = disk.stat()
    trace, rows, _ = record(tmp_path, capfd, disk, program, disk.path, "read", "3", str(1 << 20))

    assert len(rows["dev"]) == disk.since(before)["reads"] >= 3 * 8
    assert int(rows["nr_sectors"].max()) == 256
    assert int(rows["nr_sectors"].sum()) == 3 * 2048 == disk.since(before)["sectors_read"]
    assert len(set(rows["queue_ns"].tolist())) < len(rows["dev"]) // 2, "the parts of a bio arrived together"
    assert facts_of(trace)["stray_events"] == 0


def test_errors_and_parts_are_told(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    os.truncate(disk.file, 5 * BLOCK)  # the loop device reads up to there, asks again for the rest, and fails
    try:
        trace, rows, said = record(tmp_path, capfd, disk, program, disk.path, "read", "3", str(4 * BLOCK))
    finally:
        os.truncate(disk.file, DISK_BYTES)

    assert said.failed == 2
    assert rows["sector"].tolist() == [0, 64, 128] and set(rows["nr_sectors"]) == {32}
    assert rows["error"].tolist() == [0, EIO, EIO] and facts_of(trace)["stray_events"] == 0


def test_a_request_done_in_part_and_requeued_is_one_row(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    os.truncate(disk.file, 3 * BLOCK)
    try:
        trace, rows, said = record(tmp_path, capfd, disk, program, disk.path, "read", "1", str(8 * BLOCK))
    finally:
        os.truncate(disk.file, DISK_BYTES)

    assert said.failed == 1
    assert [rows[name].tolist() for name in ("sector", "nr_sectors", "error")] == [[0], [64], [EIO]]
    assert rows["queue_ns"] <= rows["issue_ns"] < rows["complete_ns"]
    # Arrival, request, issue, the first part done, requeued, issued again, the rest done.
    assert facts_of(trace)["block_events"] == 7 and facts_of(trace)["stray_events"] == 0


@pytest.mark.skipif(shutil.which("addpart") is None, reason="addpart is not installed")
def test_a_partition_is_told_as_its_disk(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    subprocess.run(["addpart", disk.path, "1", str(PARTITION_SECTOR), "8192"], check=True)
    part = f"{disk.path}p1"

    trace, rows, said = record(tmp_path, capfd, disk, program, part, "read", "11", str(BLOCK))

    assert rows["sector"].tolist() == [PARTITION_SECTOR + 2 * SECTORS * i for i in range(11)]
    assert set(rows["dev"]) == {find_disks([disk.path])[disk.name]} and set(rows["tid"]) == {said.tid}
    assert facts_of(trace)["stray_events"] == 11, "of each bio that it came from the partition"
    with pytest.raises(ParameterError, match=f"is a partition, .* give {disk.name}"):
        find_disks([part])


# ------------------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize("mode", ["child", "thread"])
def test_what_a_child_and_a_thread_read_is_recorded_as_theirs(
    program: str, mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    trace, rows, said = record(tmp_path, capfd, disk, program, disk.path, mode, str(PRIME), str(BLOCK))

    assert len(rows["dev"]) == PRIME and set(rows["tid"]) == {said.tid}
    names, tasks = trace.names(), trace.columns("tasks")
    called = [names[number] for number in tasks["name_id"][tasks["tid"] == said.tid].tolist()]
    assert "blocks" in called
    processes = set(tasks["pid"][tasks["tid"] == said.tid])
    assert (processes == {said.tid}) == (mode == "child")


def test_what_others_do_on_the_same_device_is_not_recorded(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    other = subprocess.Popen([program, disk.path, "write", "2000003", str(BLOCK)], stdout=subprocess.DEVNULL)
    try:
        trace, rows, said = record(tmp_path, capfd, disk, program, disk.path, "read", str(PRIME), str(BLOCK))
    finally:
        other.kill()
        other.wait()

    assert len(rows["dev"]) == PRIME and set(rows["tid"]) == {said.tid}
    whole = trace.columns("blockio")
    assert other.pid not in whole["tid"] and not (whole["op"] & OPERATION == BlockOp.WRITE).any()
    assert facts_of(trace)["foreign_requests"] > 10 and loses_nothing(trace)


def test_the_device_below_a_loop_device_is_not_the_tasks_own(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    request = Request((program, disk.path, "write", "101", str(BLOCK)), tmp_path / "t.kdt")
    trace = session.record(request, [BlockIO()])

    said = Said(*(int(word) for word in capfd.readouterr().out.split()))
    rows = during(trace.columns("blockio"), said)
    number = find_disks([disk.path])[disk.name]
    assert int((rows["dev"] == number).sum()) == 101
    assert facts_of(trace)["devices"] == {} and facts_of(trace)["foreign_requests"] >= 101


def test_pages_that_a_task_swaps_in_are_read_by_it(tmp_path: Path) -> None:
    faults = needs.compiled(tmp_path, "faults")
    with needs.swap_up():
        request = Request((faults, "again", "6000"), tmp_path / "t.kdt", memory_bytes=12 << 20)
        trace = session.record(request, [BlockIO()])

    rows, memory = trace.columns("blockio"), trace.manifest.workload["memory_stat"]
    swaps = [swap["path"] for swap in trace.manifest.host["swap"] if swap["kind"] != "file"]
    on_swap = np.isin(rows["dev"], list(find_disks(swaps).values()))
    reads, writes = (on_swap & (rows["op"] & OPERATION == op) for op in (BlockOp.READ, BlockOp.WRITE))
    assert (
        int(rows["nr_sectors"][reads].sum()) == memory["workingset_refault_anon"] * SECTORS > 3000 * SECTORS
    )
    assert int(rows["nr_sectors"][writes].sum()) > 3000 * SECTORS, "reclaimed by the task itself"
    assert loses_nothing(trace)


def test_a_living_process_is_recorded(program: str, tmp_path: Path, disk: Disk) -> None:
    process = subprocess.Popen([program, disk.path, "depth", "2000003", str(BLOCK), "2"])
    try:
        time.sleep(0.2)
        threads = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")} - {process.pid}
        request = Request((), tmp_path / "t.kdt", pid=process.pid, duration_s=0.5, devices=(disk.name,))
        trace = session.record(request, [BlockIO()])
    finally:
        process.kill()
        process.wait()

    rows = trace.columns("blockio")
    assert len(threads) == 2 and set(rows["tid"]) == threads and len(rows["tid"]) > 100
    assert int((rows["complete_ns"] == NO_TIME).sum()) == facts_of(trace)["unfinished_requests"] <= 4
    assert (rows["queue_ns"] <= rows["issue_ns"])[rows["complete_ns"] != NO_TIME].all()
    assert loses_nothing(trace)


@needs.faults
def test_block_io_faults_and_scheduling_are_recorded_on_one_clock(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], disk: Disk
) -> None:
    request = Request(
        (program, disk.path, "read", "101", str(BLOCK)), tmp_path / "t.kdt", devices=(disk.path,)
    )
    trace = session.record(request, [Faults(), Sched(), BlockIO()])

    said = Said(*(int(word) for word in capfd.readouterr().out.split()))
    rows, sched = during(trace.columns("blockio"), said), trace.columns("sched")
    assert len(rows["dev"]) == 101 and said.tid in trace.columns("faults")["tid"]
    away = (sched["event"] == SchedEvent.SWITCH) & (sched["tid"] == said.tid) & (sched["state"] == 2)
    waits = sched["ts_ns"][away & (sched["ts_ns"] >= said.t0_ns) & (sched["ts_ns"] <= said.t1_ns)]
    at = np.searchsorted(rows["queue_ns"], waits, "right") - 1
    assert len(waits) > 50, "a direct read waits"
    waited = (at >= 0) & (waits < rows["complete_ns"][at])
    assert waited.mean() > 0.9, "between a request's arrival and its completion"


# ------------------------------------------------------------------------------------- losses and ends


def test_losses_of_too_small_a_buffer_are_counted_to_the_last_event(
    program: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracestream, "MIN_POLL_S", 0.25)
    before = disk.stat()
    trace, rows, _ = record(
        tmp_path, capfd, disk, program, disk.path, "read", "4999", str(BLOCK), buffer_bytes=8192
    )

    info, facts = trace.manifest.tables["blockio"], facts_of(trace)
    reads = disk.since(before)["reads"]
    assert info.lost == facts["overrun"] + facts["commit_overrun"] + facts["dropped"] + facts["late"] > 1000
    assert info.counted == info.rows + info.lost >= reads >= 4999 > len(rows["dev"])
    assert facts["block_events"] + info.lost >= 4 * 4999
    with pytest.raises(TraceError, match=r"of [\d,]+ blockio were lost"):
        trace.require_whole(allow_loss=False)


def test_events_that_come_too_late_to_be_in_order_are_counted_as_lost(
    program: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is loaded at the first write takes longer than all the requests.
    (tmp_path / "first").mkdir()
    record(tmp_path / "first", capfd, disk, program, disk.path, "depth", "97", str(BLOCK), "3")
    flush = tracestream.TraceStream._flush

    def hasty(stream: tracestream.TraceStream, until_ns: int | None) -> None:
        """Take it that a millisecond more was written than was, whenever something was."""
        before = stream._written_ns
        flush(stream, until_ns)
        if stream._written_ns != before:
            stream._written_ns += 1_000_000

    monkeypatch.setattr(tracestream.TraceStream, "_flush", hasty)
    monkeypatch.setattr(tracestream, "HOLD_NS", 0)
    monkeypatch.setattr(tracestream, "FLUSH_NS", 0)
    monkeypatch.setattr(tracestream, "MAX_POLL_S", 0.0005)
    monkeypatch.setattr(tracestream, "MIN_POLL_S", 0.0005)
    trace, _, _ = record(tmp_path, capfd, disk, program, disk.path, "depth", "4999", str(BLOCK), "3")

    info = trace.manifest.tables["blockio"]
    assert info.lost == facts_of(trace)["late"] > 0 and info.counted == info.rows + info.lost


def test_a_killed_recorder_leaves_the_requests_so_far(program: str, tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "killed.kdt"
    command = [sys.executable, "-m", "kdtool", "collect", "--events", "blockio", "--device", disk.path]
    command += ["-o", str(path), "--", program, disk.path, "read", "300007", str(BLOCK)]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(path.glob("spool/blockio-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.7)
    recorder.send_signal(signal.SIGKILL)
    recorder.wait()

    session.record(Request(("true",), tmp_path / "next.kdt"), [BlockIO()])

    assert list((find_tracefs() / "instances").glob(f"kdtool-{recorder.pid}-*")) == []
    info = [sys.executable, "-m", "kdtool", "info", "--json", str(path)]
    found = json.loads(subprocess.run(info, check=True, capture_output=True, text=True).stdout)
    assert found["state"] == "interrupted" and found["tables"]["blockio"]["rows"] > 500
    rows = Trace(path).columns("blockio")
    assert (rows["queue_ns"] <= rows["issue_ns"]).all() and (rows["issue_ns"] <= rows["complete_ns"]).all()


def test_what_does_not_balance_is_refused(
    program: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool.traces.blockio.matcher.RequestMatcher._requeue", lambda *_: None)
    os.truncate(disk.file, 3 * BLOCK)
    try:
        with pytest.raises(TraceError, match="events vanished: record it again"):
            command = (program, disk.path, "read", "1", str(8 * BLOCK))
            session.record(Request(command, tmp_path / "t.kdt", devices=(disk.path,)), [BlockIO()])
    finally:
        os.truncate(disk.file, DISK_BYTES)
    assert not (tmp_path / "t.kdt").exists()


def test_an_unknown_device_is_named_with_the_nearest(tmp_path: Path, disk: Disk) -> None:
    for given, said in (
        ("loop", f"unknown device 'loop'.*known: .*{disk.name}"),
        ("/dev/vdq", "unknown device 'vdq'"),
        ("999:1", "unknown device '999:1'"),
        ("../../etc", "unknown device"),
        ("/dev/null", "/dev/null: is no block device: give one of .*" + disk.name),
    ):
        with pytest.raises(ParameterError, match=said) as caught:
            session.record(Request(("true",), tmp_path / "t.kdt", devices=(given,)), [BlockIO()])
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "t.kdt").exists()


def test_a_device_is_known_by_its_name_path_and_number(disk: Disk) -> None:
    status = os.stat(disk.path)
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)

    for given in (disk.name, disk.path, f"{major}:{minor}"):
        assert find_disks([given]) == {disk.name: major << 20 | minor}


def test_a_device_without_block_io_is_refused(tmp_path: Path, disk: Disk) -> None:
    with pytest.raises(ParameterError, match="add --events blockio"):
        session.record(Request(("true",), tmp_path / "t.kdt", devices=(disk.path,)), [Sched()])


def test_a_missing_tracepoint_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool.collect.blockio.BLOCK_EVENTS", ("block:block_rq_vanish",))

    problem = BlockIO().unavailable()

    assert problem is not None and "block:block_rq_vanish" in problem.reason and problem.fix
    with TraceWriter(tmp_path / "t.kdt") as writer, pytest.raises(CapabilityError, match="rq_vanish"):
        BlockIO().open(Scope(None, Request(("true",), tmp_path / "t.kdt")), writer)


def test_a_failing_writer_ends_the_recording_with_its_error(
    program: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TraceError("the disk is full: free some")

    monkeypatch.setattr("kdtool.collect.blockrows.BlockRows.write", fail)
    command = (program, disk.path, "read", "100003", str(BLOCK))
    with pytest.raises(KdtoolError, match="the disk is full"):
        session.record(Request(command, tmp_path / "t.kdt", devices=(disk.path,)), [BlockIO()])
