"""What the tracer keeps in a trace's spool: written whatever the program does, kept, and not believed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import compiled, gcc, qemu, root

from kdtool.collect import reftrace, session
from kdtool.collect.base import Request
from kdtool.collect.recovery import recover
from kdtool.collect.refs import References
from kdtool.errors import TraceError
from kdtool.traces import Manifest, Trace, TraceWriter

pytestmark = [gcc, qemu]

TOUCHES = 20 * 4096


@pytest.fixture(scope="module")
def spills(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("spills"), "spills")


def record(path: Path, *command: str) -> Trace:
    return session.record(Request(command, path, k=4), [References()])


def stores(trace: Trace, capfd: pytest.CaptureFixture[str]) -> int:
    """Return how many references there are to the pages of which the program has said where they are."""
    base = int(capfd.readouterr().out.split()[-1])
    vpn = trace.columns("refs", ["vpn"])["vpn"]
    return int(np.count_nonzero((vpn >= base) & (vpn < base + 4096)))


def as_root(*habits: str) -> Any:
    return pytest.param(habits, marks=[root, pytest.mark.root], id=" ".join(habits))


@pytest.mark.parametrize(
    "habits",
    [(), ("closes",), ("limits",), ("closes", "limits"), as_root("leaves"), as_root("leaves", "limits")],
    ids=" ".join,
)
def test_programs_may_close_all_files_limit_their_size_and_become_another_user(
    spills: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], habits: tuple[str, ...]
) -> None:
    trace = record(tmp_path / "t.kdt", spills, *habits)

    assert trace.manifest.workload["exit_code"] == 0
    assert stores(trace, capfd) == TOUCHES


@root
@pytest.mark.root
@pytest.mark.parametrize(
    ("habits", "why"),
    [
        (("closes", "leaves"), r"\(Permission denied\): the program became another user"),
        (("bounds", "leaves"), r"\(File too large\): raise the program's limit of file sizes"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_written_is_told_by_its_cause_and_what_came_before_is_kept(
    spills: str, tmp_path: Path, habits: tuple[str, ...], why: str
) -> None:
    path = tmp_path / "t.kdt"
    tmp_path.chmod(0o700)

    with pytest.raises(TraceError, match=rf"cannot be written {why}.*; {path} holds what came before"):
        record(path, spills, *habits)

    assert recover(path)
    trace = Trace(path)
    assert trace.manifest.state == "interrupted" and trace.rows("refs") > 20_000
    trace.require_whole(allow_loss=False)


def left(folder: Path, write: Callable[[reftrace.Spool], None] = lambda spool: None) -> Path:
    """Return a trace whose recorder was killed with nothing recorded but what `write` has in the state."""
    path = folder / "t.kdt"
    with TraceWriter(folder / "w.kdt") as writer:
        spool = reftrace.Spool.make(writer.spool / "refs", 4)
        write(spool)
        writer.draft(Manifest("interrupted", "insns", ["true"], {"name": "refs"}), {})
        shutil.copytree(writer.path, path)
    return path


def set_stream(name: str, value: int) -> Callable[[reftrace.Spool], None]:
    def write(spool: reftrace.Spool) -> None:
        spool._stream[name] = value

    return write


def set_counter(name: str, value: int) -> Callable[[reftrace.Spool], None]:
    def write(spool: reftrace.Spool) -> None:
        spool._counters[name] = value

    return write


def set_undo(node: int, emitted: int) -> Callable[[reftrace.Spool], None]:
    def write(spool: reftrace.Spool) -> None:
        undo = spool._part(reftrace.UNDO_AT, reftrace.UNDO, 1)
        undo["undo_node"], undo["undo_emitted"] = node, emitted

    return write


def nameless(spool: reftrace.Spool) -> None:
    ring = spool._part(spool.count("ring_at"), reftrace.RECORD, 2)
    ring["kind"], ring["tid"] = (reftrace.VMA_KIND, 0), (-5, 0)
    spool._stream["emitted"] = 2


@pytest.mark.parametrize(
    "write",
    [
        set_stream("emitted", 1 << 40),
        set_stream("written", 1 << 40),
        set_stream("n", 6),
        set_counter("k", (1 << 32) - 1),
        set_counter("k", 5),
        set_counter("ring_at", 1 << 60),
        set_counter("magic", 0),
        set_undo(6, 0),
        set_undo(1, 1 << 40),
        nameless,
    ],
)
def test_a_state_that_was_altered_is_one_line(
    tmp_path: Path, write: Callable[[reftrace.Spool], None]
) -> None:
    path = left(tmp_path, write)

    with pytest.raises(TraceError, match=r"t\.kdt/spool/refs.*: record the trace again"):
        recover(path)


@pytest.mark.parametrize("size", [None, 0, 100, 4096, 100_000])
def test_a_state_that_was_cut_is_one_line(tmp_path: Path, size: int | None) -> None:
    state = left(tmp_path) / "spool/refs/state"
    if size is None:
        state.unlink()
    else:
        os.truncate(state, size)

    with pytest.raises(TraceError, match=r"t\.kdt/spool/refs: cannot be read .*: record the trace again"):
        recover(tmp_path / "t.kdt")


def test_records_that_are_gone_are_one_line(tmp_path: Path) -> None:
    (left(tmp_path) / "spool/refs/records").unlink()

    with pytest.raises(TraceError, match=r"t\.kdt/spool/refs: cannot be read .*: record the trace again"):
        recover(tmp_path / "t.kdt")


def test_a_disk_that_is_full_at_the_end_keeps_the_records(tmp_path: Path) -> None:
    with (
        pytest.raises(TraceError, match="free some space") as told,
        TraceWriter(tmp_path / "t.kdt") as writer,
    ):
        spool = reftrace.Spool.make(writer.spool / "refs", 4)
        ring = spool._part(spool.count("ring_at"), reftrace.RECORD, 3)
        ring["seq"], ring["vpn"], ring["pid"] = (1, 2, 3), (7, 8, 9), 1
        spool._stream["emitted"] = writer.spooled = 3
        writer.draft(Manifest("interrupted", "insns", ["true"], {"name": "refs"}), {})
        spool.records_path.rename(tmp_path / "records")
        spool.records_path.symlink_to("/dev/full")
        with writer.keeping_what_is_there():
            reftrace.write_rows(spool, writer)
    assert "holds what came before" in str(told.value)
    (tmp_path / "t.kdt/spool/refs/records").unlink()
    (tmp_path / "records").rename(tmp_path / "t.kdt/spool/refs/records")

    assert recover(tmp_path / "t.kdt")
    assert Trace(tmp_path / "t.kdt").columns("refs", ["vpn"])["vpn"].tolist() == [7, 8, 9]
