"""What a trace is while it is written, and what is left of it when its writer ends before its time."""

import errno
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from needs import root

from kdtool.collect.recovery import recover
from kdtool.errors import TraceError
from kdtool.traces import TABLES, Manifest, ResumedWriter, Trace, TraceWriter, canonical_json, spool
from kdtool.traces.spool import TableSpool, whole_batches

APPEND = Path(__file__).parent / "programs" / "append_rows.py"
DONE = Manifest("complete", "monotonic", ["test"], {"name": "test"})


def faults(first: int, n: int) -> dict[str, np.ndarray]:
    rows = np.arange(first, first + n)
    return {
        "ts_ns": rows * 1700,
        "pid": rows % 3 + 1,
        "tid": rows % 5,
        "cpu": rows % 2,
        "vpn": rows * 7 % 1000,
        "ip": rows % 11,
        "major": rows % 13 == 0,
    }


def killed_after(path: Path, seconds: float, batch_rows: int, segment_rows: int) -> int:
    """Kill a writer some time after its first batch; return the rows that it had said were appended."""
    command = [sys.executable, str(APPEND), str(path), str(batch_rows), str(segment_rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline()]
        time.sleep(seconds)
        writer.kill()
        said += writer.stdout.readlines()
    return int([line for line in said if line.endswith("\n")][-1])


@pytest.mark.parametrize("moment", range(20))
def test_a_killed_writer_leaves_all_that_it_appended(tmp_path: Path, moment: int) -> None:
    chance = random.Random(moment)
    path = tmp_path / "t.kdt"
    appended = killed_after(path, chance.uniform(0, 0.3), chance.choice([1, 97, 5000]), 20_011)

    with pytest.raises(TraceError, match="kdtool info"):
        Trace(path)
    assert recover(path)
    trace = Trace(path)

    assert trace.manifest.state == "interrupted"
    info = trace.manifest.tables["sched"]
    assert info.rows >= appended and info.lost == 7 and info.counted == info.rows + 7
    assert np.array_equal(trace.columns("sched")["ts_ns"], np.arange(info.rows))
    assert trace.rows("names") * max(info.rows, 1) >= info.rows
    assert not recover(path)
    assert sorted(entry.name for entry in path.iterdir()) == ["manifest.json", "names", "sched"]


@pytest.mark.parametrize(
    "lost",
    [
        '{"refs": 1e999}',
        '{"refs": 1e30}',
        '{"refs": 1.5}',
        '{"refs": -5}',
        '{"refs": true}',
        '{"refs": 18446744073709551615}',
        '{"nope": 3}',
        "[]",
        "3",
    ],
)
def test_a_draft_that_would_make_no_manifest_is_not_sealed(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "t.kdt"
    path.mkdir()
    manifest = canonical_json(DONE.to_document()).decode()
    (path / "recording.json").write_text(f'{{"manifest": {manifest}, "lost": {lost}}}')

    with pytest.raises(TraceError, match=r"recording\.json: cannot be read"):
        recover(path)
    assert [entry.name for entry in path.iterdir()] == ["recording.json"]


def test_sealing_that_is_cut_anywhere_can_be_begun_again(tmp_path: Path) -> None:
    """After each step of a sealing the folder is copied; every copy recovers to the same rows."""
    copies: list[Path] = []
    rename, unlink = Path.rename, Path.unlink

    def copy_first(path: Path) -> None:
        target = tmp_path / f"copy-{len(copies)}.kdt"
        subprocess.run(["cp", "-r", tmp_path / "t.kdt", target], check=True)
        copies.append(target)

    with pytest.MonkeyPatch.context() as patch, TraceWriter(tmp_path / "t.kdt") as writer:
        writer.draft(DONE, {})
        patch.setattr(spool, "SEGMENT_ROWS", 1000)
        patch.setattr(Path, "rename", lambda self, to: (copy_first(self), rename(self, to))[1])
        patch.setattr(
            Path, "unlink", lambda self, missing_ok=False: (copy_first(self), unlink(self, missing_ok))[1]
        )
        for first in range(0, 2500, 500):
            writer.append("faults", faults(first, 500))
        writer.seal(DONE)

    assert len(copies) == 8
    for copy in copies:
        recover(copy)
        rows = Trace(copy).columns("faults", ["ts_ns"])["ts_ns"] // 1700
        assert np.array_equal(rows, np.arange(len(rows))), copy
    assert len(rows) == 2500


def test_a_stream_cut_anywhere_gives_its_whole_batches(tmp_path: Path) -> None:
    table = TableSpool(tmp_path, "faults")
    (tmp_path / "spool").mkdir()
    for first in range(0, 100, 10):
        table.append(faults(first, 10))
    table.close()
    stream = next((tmp_path / "spool").iterdir())
    whole = stream.read_bytes()

    counts = []
    for size in range(0, len(whole) + 1, 13):
        stream.write_bytes(whole[:size])
        rows = pa.Table.from_batches(whole_batches(stream), table.schema)["ts_ns"].to_numpy() // 1700
        assert np.array_equal(rows, np.arange(len(rows)))
        counts.append(len(rows))
    assert counts == sorted(counts) and counts[0] == 0 and set(counts) == set(range(0, 101, 10))


def test_a_trace_being_recorded_is_not_taken_from_its_writer(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("faults", faults(0, 10))
        with pytest.raises(TraceError, match="is being recorded now: wait"), ResumedWriter(writer.path):
            pass
        with pytest.raises(TraceError, match="exists already and is never overwritten"):
            TraceWriter(writer.path)
        assert writer.seal(DONE).rows("faults") == 10


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("faults", faults(0, 10))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_tables_may_be_written_by_several_threads(tmp_path: Path) -> None:
    tables = ("faults", "sched")

    def write(writer: TraceWriter, table: str) -> None:
        for first in range(0, 20_000, 100):
            rows = np.arange(first, first + 100)
            other = dict.fromkeys(TABLES["sched"].names, rows % 5)
            writer.name_id(f"{table} {first % 1000}")
            writer.append(table, faults(first, 100) if table == "faults" else other | {"ts_ns": rows})

    with pytest.MonkeyPatch.context() as patch, TraceWriter(tmp_path / "t.kdt") as writer:
        patch.setattr(spool, "SEGMENT_ROWS", 3000)
        threads = [threading.Thread(target=write, args=(writer, table)) for table in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        trace = writer.seal(DONE)

    assert np.array_equal(trace.columns("faults", ["ts_ns"])["ts_ns"], np.arange(20_000) * 1700)
    assert np.array_equal(trace.columns("sched", ["ts_ns"])["ts_ns"], np.arange(20_000))
    names = trace.names()
    assert sorted(names) == list(range(20)) and len(set(names.values())) == 20


def test_each_column_is_kept_as_it_is_smallest(tmp_path: Path) -> None:
    """Times as differences, pages in no order as a dictionary: 3 bytes a fault where both are random."""
    rows = faults(0, 200_000)
    chance = np.random.default_rng(1)
    rows["ts_ns"] = np.cumsum(chance.integers(1500, 1900, 200_000))
    rows["vpn"] = np.uint64(0x7F0000000) + chance.integers(0, 2**12, 200_000).astype(np.uint64)
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("faults", rows)
        trace = writer.seal(DONE)

    assert trace.manifest.tables["faults"].bytes < 3 * 200_000
    assert np.array_equal(trace.columns("faults")["vpn"], rows["vpn"])


def test_losses_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("faults", faults(0, 10))
        writer.lose("faults", 3)
        trace = writer.seal(DONE)

    with pytest.raises(TraceError, match=r"3 of 13 faults were lost.*--allow-loss"):
        trace.require_whole(allow_loss=False)
    trace.require_whole(allow_loss=True)


def test_a_small_file_with_absurdly_many_rows_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("faults", faults(0, 10))
        trace = writer.seal(DONE)
    info = trace.manifest.tables["faults"]
    trace.manifest.tables["faults"] = type(info)(10**13, 10**13, 0, info.segments)

    with pytest.raises(TraceError, match="GiB of memory"):
        trace.columns("faults")


class Vanishing(type(Path())):  # type: ignore[misc]
    """A file that another thread removes right after it was found."""

    def exists(self) -> bool:
        found = super().exists()
        self.unlink(missing_ok=True)
        return bool(found)


def test_a_stream_that_is_sealed_while_its_size_is_read_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TableSpool(tmp_path, "faults")
    (tmp_path / "spool").mkdir()
    table.append(faults(0, 10))
    stream = Vanishing(table._stream_path())
    monkeypatch.setattr(table, "_stream_path", lambda: stream)

    assert table.bytes in (0, stream.stat().st_size if stream.is_file() else 0)
    stream.unlink(missing_ok=True)
    assert table.bytes == 0


@pytest.mark.parametrize(("rows", "spooled"), [(10, 0), (0, 10), (0, 0)])
def test_a_full_disk_that_the_draft_meets_first_leaves_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, spooled: int
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "t.kdt"
    with pytest.raises(TraceError) as told, TraceWriter(path) as writer:
        if rows:
            writer.append("faults", faults(0, rows))
        writer.spooled = spooled
        monkeypatch.setattr(Path, "write_bytes", refuse)
        writer.draft(DONE, {})
    monkeypatch.undo()

    assert ("holds what came before" in str(told.value)) == path.exists() == (rows + spooled > 0)
    if rows:
        assert recover(path) and Trace(path).rows("faults") == rows


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "kdtool-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@root
@pytest.mark.root
def test_a_full_disk_is_an_error_and_what_came_before_is_kept(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2M") as disk:
        full = pytest.raises(TraceError, match=r"No space left.*holds what came before")
        with full, TraceWriter(disk / "t.kdt") as writer:
            writer.draft(DONE, {})
            for first in range(0, 10**6, 1000):
                writer.append("faults", faults(first, 1000))
        (disk / "t.kdt").rename(disk / "moved.kdt")
        subprocess.run(["cp", "-r", disk / "moved.kdt", tmp_path / "t.kdt"], check=True)

    recover(tmp_path / "t.kdt")
    trace = Trace(tmp_path / "t.kdt")
    rows = trace.columns("faults", ["ts_ns"])["ts_ns"] // 1700
    assert trace.manifest.state == "interrupted"
    assert len(rows) > 10_000 and np.array_equal(rows, np.arange(len(rows)))


def test_what_a_writer_killed_at_its_start_left_goes_with_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".t.kdt.new-{gone.pid}" / "spool").mkdir(parents=True)
    mine = tmp_path / f".t.kdt.new-{os.getppid()}"
    mine.mkdir()

    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("faults", faults(0, 1))
        writer.seal(DONE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [mine.name, "t.kdt"]
