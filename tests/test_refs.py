"""The reference tracer: every page of real programs under qemu-user."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from needs import compiled, gcc, qemu

from kdtool.collect import session
from kdtool.collect.base import Request
from kdtool.collect.refs import References, told_tunables
from kdtool.errors import CommandError, ParameterError
from kdtool.replay import load_workload
from kdtool.replay.keys import VPN_MASK
from kdtool.traces import RefKind, Trace, VmaFlag

pytestmark = [gcc, qemu]


@pytest.fixture(scope="session")
def touch(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("touch"), "touch", "-pthread")


def record(tmp_path: Path, *command: str, k: int = 64, duration_s: float | None = None) -> Trace:
    return session.record(Request(command, tmp_path / "t.kdt", k=k, duration_s=duration_s), [References()])


def addresses(capfd: pytest.CaptureFixture[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in capfd.readouterr().out.splitlines():
        name, vpn = line.split()
        found.setdefault(name, []).append(int(vpn))
    return found


def touches(trace: Trace, start: int, pages: int) -> dict[str, np.ndarray]:
    refs, since = trace.columns("refs"), _mapped_since(trace, start)
    inside = (refs["vpn"] >= start) & (refs["vpn"] < start + pages) & (np.arange(len(refs["vpn"])) >= since)
    return {name: values[inside] for name, values in refs.items()} | {"row": np.flatnonzero(inside)}


def _mapped_since(trace: Trace, vpn: int) -> int:
    """Return from which row on a page is what it was last: files may have been at its address before."""
    vmas = trace.columns("vmas")
    covers = (vmas["start_vpn"] <= vpn) & (vpn < vmas["end_vpn"]) & (vmas["flags"] != VmaFlag.UNMAPPED)
    files = np.flatnonzero(vmas["flags"][covers][:-1] & VmaFlag.FILE)
    return int(vmas["row"][covers][files[-1] + 1]) if len(files) else 0


def flags_at(trace: Trace, vpn: int) -> VmaFlag:
    vmas = trace.columns("vmas")
    rows = (vmas["start_vpn"] <= vpn) & (vpn < vmas["end_vpn"]) & (vmas["flags"] != VmaFlag.UNMAPPED)
    return VmaFlag(int(vmas["flags"][rows][-1]))


@pytest.mark.parametrize("k", [0, 1, 64])
def test_every_page_is_found_once_and_stores_are_marked(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], k: int
) -> None:
    trace = record(tmp_path, touch, "halves", "997", k=k)

    start = addresses(capfd)["base"][0]
    seen = touches(trace, start, 997)
    stored = np.unique(seen["vpn"][seen["kind"] == RefKind.STORE]) - start
    assert np.array_equal(np.unique(seen["vpn"]), np.arange(start, start + 997))
    assert np.array_equal(stored, np.arange(0, 997, 2))
    assert np.count_nonzero(seen["kind"] == RefKind.LOAD) == 997
    assert np.all(seen["ip"] > 0)
    assert trace.manifest.reduction is not None and trace.manifest.reduction.k == k


def test_an_access_across_two_pages_touches_both(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, touch, "cross")

    start = addresses(capfd)["base"][0]
    seen = touches(trace, start, 2)
    assert seen["vpn"].tolist() == [start, start + 1]
    assert seen["kind"].tolist() == [RefKind.STORE] * 2


def test_pages_that_only_the_kernel_touches_are_seen(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, touch, "read", "211")

    seen = touches(trace, addresses(capfd)["base"][0], 211)
    assert seen["kind"].tolist() == [RefKind.STORE] * 211 + [RefKind.KERNEL] * 211
    assert not seen["ip"].any()


def test_threads_are_told_apart_in_one_order(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, touch, "threads")

    tids = set()
    for start, pages in zip(addresses(capfd)["base"], (101, 211, 307), strict=True):
        seen = touches(trace, start, pages)
        tids |= set(seen["tid"][seen["kind"] == RefKind.STORE].tolist())
        assert len(np.unique(seen["vpn"])) == pages
    assert len(tids) == 3
    for tid in tids:
        clock = trace.columns("refs", ["tid", "insns"])
        assert np.all(np.diff(clock["insns"][clock["tid"] == tid].astype(np.int64)) >= 0)


def test_fork_and_exec_are_followed(touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = record(tmp_path, touch, "fork", "101")

    parents, childs = addresses(capfd)["base"]
    before, after = touches(trace, parents, 101), touches(trace, childs, 13)
    child = int(before["pid"][0])
    vmas = trace.columns("vmas")
    ends = (vmas["pid"] == child) & (vmas["flags"] == VmaFlag.UNMAPPED) & (vmas["start_vpn"] == 0)
    exec_row, exit_row = vmas["row"][ends].tolist()
    forked = before["pid"] == child
    assert len(np.unique(trace.columns("refs", ["pid"])["pid"])) == 2
    assert np.count_nonzero(forked & (before["row"] < exec_row)) >= 101
    assert np.all(after["row"][after["pid"] == child] < exit_row)
    assert len(np.unique(after["vpn"][(after["pid"] == child) & (after["row"] > exec_row)])) == 13
    forks = trace.columns("forks")
    of_child = np.flatnonzero(vmas["pid"] == child)
    parent = int(trace.columns("refs", ["pid"])["pid"][0])
    assert list(zip(forks["pid"].tolist(), forks["parent"].tolist(), strict=True)) == [(child, parent)]
    assert int(forks["row"][0]) <= int(before["row"][forked].min()) < exec_row
    assert of_child[0] < int(forks["vma_row"][0]) <= np.flatnonzero(ends)[0]
    assert np.all(np.diff(of_child[of_child < int(forks["vma_row"][0])]) == 1)
    assert trace.manifest.collector["sources"]["refs"]["processes"] == 2
    assert trace.manifest.collector["sources"]["refs"]["untraced_execs"] == 0


@pytest.mark.parametrize("mode", ["remap", "dontneed"])
def test_a_page_that_was_given_back_is_a_new_page(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str
) -> None:
    trace = record(tmp_path, touch, mode, "53", k=64)

    start = addresses(capfd)["base"][0]
    seen, vmas = touches(trace, start, 53), trace.columns("vmas")
    here = (vmas["start_vpn"] == start) & (vmas["end_vpn"] == start + 53)
    mapped, gone, again = vmas["row"][here].tolist()[:3]
    flags = vmas["flags"][here].tolist()[:3]
    anonymous = VmaFlag.READ | VmaFlag.WRITE
    assert flags == [anonymous, VmaFlag.UNMAPPED, anonymous]
    assert np.all(seen["row"] >= mapped)
    stores = seen["row"] < gone
    assert set(seen["kind"][stores].tolist()) == {RefKind.STORE}
    assert len(np.unique(seen["vpn"][stores])) == 53
    assert seen["kind"][seen["row"] >= again].tolist() == [RefKind.LOAD] * 53


def test_anonymous_and_file_backed_pages_are_told_apart(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, touch, "maps")

    at = {name: vpns[0] for name, vpns in addresses(capfd).items()}
    for name in ("stack", "heap", "anonymous"):
        assert flags_at(trace, at[name]) & (VmaFlag.FILE | VmaFlag.WRITE) == VmaFlag.WRITE, name
    for name in ("main", "file"):
        assert flags_at(trace, at[name]) & (VmaFlag.FILE | VmaFlag.WRITE) == VmaFlag.FILE, name
    assert touch in trace.names().values()


def test_mappings_lie_as_linux_puts_them_and_the_heap_may_grow(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, touch, "layout", "5000")

    found = addresses(capfd)
    assert np.diff(found["mapped"]).tolist() == [-5000, -5000]
    assert found["gap"] == found["mapped"][1:2]
    assert np.diff(found["heap"]).tolist() == [4096, 4096]


@pytest.mark.parametrize("k", [0, 64])
def test_what_modifies_memory_stores_from_the_start_as_on_the_cpu(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], k: int
) -> None:
    program = compiled(tmp_path, "modifies")
    native = subprocess.run([program, "faults"], capture_output=True, text=True, check=True).stdout
    trace = record(tmp_path, program, "touch", k=k)

    writes, names = zip(*(line.split(" ", 1) for line in native.splitlines()), strict=True)
    [start] = addresses(capfd)["base"]
    seen = touches(trace, start, len(names))
    vpns, first = np.unique(seen["vpn"], return_index=True)
    stores = seen["kind"][first] == RefKind.STORE
    assert vpns.tolist() == list(range(start, start + len(names)))
    assert dict(zip(names, stores.tolist(), strict=True)) == {
        name: write == "1" for name, write in zip(names, writes, strict=True)
    }
    assert 0 < stores.sum() < len(names)


def copies_by_strings(least: int) -> bool:
    """Tell whether this host's C library copies so many bytes by string instructions, from front to back."""
    fast = {"erms", "fsrm"} <= set(Path("/proc/cpuinfo").read_text().split())
    told = told_tunables("").partition("rep_movsb_threshold=")[2].partition(":")[0]
    return fast and bool(told) and int(told, 16) <= least


def test_the_c_library_copies_as_on_the_host(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # A page and parts of two others, and 64 pages that are filled. By its own CPU qemu copies the end first.
    copied, filled = 6000, 64 * 4096
    if not copies_by_strings(copied):
        pytest.skip("this host copies 6,000 bytes otherwise")
    trace = record(tmp_path, compiled(tmp_path, "copies"), str(copied), str(filled), k=0)
    named = addresses(capfd)

    for name, pages in (("from", 3), ("to", 2), ("fill", 64)):
        touched = touches(trace, named[name][0], pages)
        assert list(dict.fromkeys(touched["vpn"].tolist())) == [named[name][0] + i for i in range(pages)]
    insns = touched["insns"]
    assert filled // 64 < insns[-1] - insns[0] <= filled // 8


def test_neighbours_are_one_vma_where_the_kernel_has_them_be_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
        pytest.skip("stacks are VMAs of their own since Linux 6.7, which replay follows")
    program = compiled(tmp_path, "advised")
    native = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split("\n")[1:-1]
    workload = load_workload(record(tmp_path, program, k=0), files="none")
    [first] = addresses(capfd)["region"]

    vma_of = np.zeros(len(workload.keys), np.int64)
    for start, end, vma, *_ in workload.vma_change[workload.vma_row < workload.n_refs]:
        vma_of[start:end] = vma
    pages = np.searchsorted(workload.keys & VPN_MASK, first + np.arange(10, 90))
    begins = [10, *(11 + np.flatnonzero(np.diff(vma_of[pages]))).tolist()]
    assert [f"vma {page}" for page in begins] == native
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert {10, 31, 40, 50, 60, 70, 80} == set(begins)


def test_tunables_that_are_given_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = record(tmp_path, "sh", "-c", "echo $GLIBC_TUNABLES")
    seen = capfd.readouterr().out.strip()
    own = seen.split(":")
    movsb = next(word for word in own if "rep_movsb" in word)
    given = "glibc.malloc.check=0:glibc.cpu.x86_rep_movsb_threshold=0x3000"

    assert trace.manifest.collector["sources"]["refs"]["glibc_tunables"] == seen
    assert len(own) == 5 and movsb.startswith("glibc.cpu.x86_rep_movsb_threshold=0x")
    told = told_tunables(given).split(":")
    assert sorted(told) == sorted([word for word in own if word != movsb] + given.split(":"))
    assert told_tunables("glibc.malloc.check=0,1") == ""


def test_every_reference_lies_in_a_mapping(touch: str, tmp_path: Path) -> None:
    trace = record(tmp_path, touch, "threads", k=0)

    refs, vmas = trace.columns("refs", ["vpn"]), trace.columns("vmas")
    known = vmas["flags"] != VmaFlag.UNMAPPED
    spans = np.stack([vmas["start_vpn"][known], vmas["end_vpn"][known]], axis=1)
    used = np.unique(refs["vpn"])
    outside = [vpn for vpn in used if not np.any((spans[:, 0] <= vpn) & (vpn < spans[:, 1]))]
    assert outside == []


def full_of_zeros(trace: Trace, start: int, pages: int, pid: int = 0) -> np.ndarray:
    """Tell of each page whether it was full of zeros when it last left the window, of one process."""
    refs, rows = trace.columns("refs"), trace.columns("zeros")["row"]
    full, zeros = np.zeros(pages, np.bool_), np.zeros(len(refs["vpn"]), np.bool_)
    zeros[rows] = True
    for row in np.flatnonzero((refs["vpn"] >= start) & (refs["vpn"] < start + pages)).tolist():
        if pid in (0, refs["pid"][row]) and (zeros[row] or refs["kind"][row] == RefKind.STORE):
            full[int(refs["vpn"][row]) - start] = zeros[row]
    return full


@pytest.mark.parametrize("k", [0, 16, 64])
def test_what_pages_hold_is_told_where_they_leave_the_window(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], k: int
) -> None:
    """Stored zeros, 1 and nothing; of the first two the second half is then changed."""
    trace = record(tmp_path, touch, "zeros", "100", k=k)

    start = addresses(capfd)["base"][0]
    stored, ones, loaded = (full_of_zeros(trace, start + 100 * part, 100) for part in range(3))
    assert stored.tolist() == [True] * 50 + [False] * 50
    assert ones.tolist() == [False] * 50 + [True] * 50
    assert not loaded.any()
    assert trace.manifest.collector["sources"]["refs"]["pages_not_looked_at"] == 0


def test_what_a_forked_childs_pages_hold_is_seen_from_its_parent(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, touch, "zeros-forked", "100", k=16)

    start, pids = addresses(capfd)["base"][0], np.unique(trace.columns("refs", ["pid"])["pid"]).tolist()
    assert len(pids) == 2
    parent, child = (full_of_zeros(trace, start, 100, pid) for pid in pids)
    assert parent.all()
    assert child.tolist() == [False] + [True] * 99


@pytest.mark.parametrize("k", [0, 4, 64])
def test_pages_that_another_thread_takes_away_are_not_read(touch: str, tmp_path: Path, k: int) -> None:
    trace = record(tmp_path, touch, "taken-away", "100", k=k)

    assert trace.manifest.workload["exit_code"] == 0
    assert trace.rows("zeros") > 0


def test_a_killed_child_loses_nothing_and_hangs_nobody(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, touch, "killed", "101", k=16)

    seen = touches(trace, addresses(capfd)["base"][0], 101)
    assert len(np.unique(seen["pid"])) == 2
    assert len(np.unique(seen["vpn"][seen["pid"] == seen["pid"][-1]])) == 101
    assert trace.manifest.workload["exit_code"] == 0


def test_the_duration_ends_the_command(touch: str, tmp_path: Path) -> None:
    trace = record(tmp_path, touch, "forever", "101", duration_s=0.5)

    assert trace.manifest.state == "complete"
    assert trace.manifest.workload["exit_code"] == -signal.SIGTERM
    assert trace.rows("refs") > 101


def test_an_interrupted_recording_is_sealed_as_such(touch: str, tmp_path: Path) -> None:
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()

    trace = record(tmp_path, touch, "forever", "101")

    timer.join()
    assert trace.manifest.state == "interrupted"
    assert trace.rows("refs") > 101


def test_a_script_runs_by_its_interpreter(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh -e\n{touch} halves "$1"\nexec {touch} halves 13\n')
    script.chmod(0o755)

    trace = record(tmp_path, str(script), "11")

    first, second = addresses(capfd)["base"]
    assert len(np.unique(touches(trace, first, 11)["vpn"])) == 11
    assert len(np.unique(touches(trace, second, 13)["vpn"])) == 13


def test_a_failing_command_is_recorded_with_its_exit_code(touch: str, tmp_path: Path) -> None:
    trace = record(tmp_path, touch, "no-such-mode")

    assert trace.manifest.workload["exit_code"] == 7
    assert trace.manifest.collector["sources"]["refs"]["refs_counted"] > trace.rows("refs") > 0


def test_quiet_stdout_moves_the_commands_output_to_stderr(
    touch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session.record(Request((touch, "cross"), tmp_path / "t.kdt", quiet_stdout=True), [References()])

    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("base ")


def test_refuses_what_it_cannot_record(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)

    with pytest.raises(CommandError, match="command not found"):
        record(tmp_path, "no-such-command")
    with pytest.raises(CommandError, match="not an x86-64 ELF"):
        record(tmp_path, str(text))
    with pytest.raises(ParameterError, match="do not depend on memory"):
        session.record(Request(("true",), tmp_path / "t.kdt", memory_bytes=1 << 30), [References()])
    with pytest.raises(ParameterError, match="k = -1"):
        record(tmp_path, "true", k=-1)
    with pytest.raises(ParameterError, match="no path with a comma"):
        session.record(Request(("true",), tmp_path / "a,b" / "t.kdt"), [References()])
    assert sorted(os.listdir(tmp_path)) == ["a,b", "text"]


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    problem = References().unavailable()

    assert problem is not None
    assert "qemu-x86_64" in problem.reason
    assert "apt-get install qemu-user" in problem.fix
