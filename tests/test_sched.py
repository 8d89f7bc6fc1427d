"""The collector of scheduling, against programs with known numbers of switches, wakings, moves and forks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
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
from kdtool.collect.faults import Faults
from kdtool.collect.sched import Sched
from kdtool.collect.seenswitches import unreported_cpus
from kdtool.collect.threads import Lifetimes, check_pid_namespace
from kdtool.errors import CapabilityError, TraceError
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.kernel.tracefs import find_tracefs, reap_stale
from kdtool.traces import PREEMPTED, SchedEvent, Trace, TraceWriter

pytestmark = [pytest.mark.root, needs.tracefs, needs.gcc]

SWITCH, WAKING, WAKEUP, MIGRATE, FORK, EXIT = SchedEvent
PRIME = 4999
two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
perf = pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return needs.compiled(tmp_path_factory.mktemp("sched"), "switches")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield

    assert own_instances() == []


def own_instances(pid: int | None = None) -> list[Path]:
    """The instances that this process, or kdtool number `pid`, has made and not removed."""
    return list((find_tracefs() / "instances").glob(f"kdtool-{pid or os.getpid()}-*"))


@dataclass
class Said:
    """What the program printed: its thread, the times before and after its work, its switches between."""

    tid: int
    t0_ns: int
    t1_ns: int
    voluntary: int
    involuntary: int
    other: int


def record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], *command: str, **more: Any
) -> tuple[Trace, dict[str, np.ndarray], Said]:
    """Record a command; return its trace, the rows of `sched`, and what the program said."""
    trace = session.record(Request(command, tmp_path / "t.kdt", **more), [Sched()])
    said = Said(*(int(word) for word in capfd.readouterr().out.split()[:6]))
    assert trace.manifest.workload["exit_code"] == 0
    return trace, trace.columns("sched"), said


def during(rows: dict[str, np.ndarray], said: Said) -> np.ndarray:
    return (rows["ts_ns"] >= said.t0_ns) & (rows["ts_ns"] <= said.t1_ns)


def loses_nothing(trace: Trace) -> bool:
    info = trace.manifest.tables["sched"]
    return info.counted == info.rows and info.lost == 0


# ------------------------------------------------------------------------------------- what is recorded


@pytest.mark.parametrize("cpu", sorted(os.sched_getaffinity(0))[:4])
def test_every_sleep_is_a_switch_away_a_waking_by_an_interrupt_and_a_switch_back(
    program: str,
    cpu: int,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SWITCHES_CPU", str(cpu))
    trace, rows, said = record(tmp_path, capfd, program, "sleep", str(PRIME))

    event, inside = rows["event"], during(rows, said)
    away = inside & (event == SWITCH) & (rows["tid"] == said.tid)
    back = inside & (event == SWITCH) & (rows["next_tid"] == said.tid)
    waking = inside & (event == WAKING) & (rows["next_tid"] == said.tid)
    assert PRIME // 2 < said.voluntary <= PRIME, "a timer may be faster than the switch away"
    assert int((away & (rows["state"] == 1)).sum()) == said.voluntary, "the kernel's own count"
    assert int((away & np.isin(rows["state"], (0, PREEMPTED))).sum()) == said.involuntary
    assert int(back.sum()) == said.voluntary + said.involuntary
    assert set(rows["prio"][back]) == {120}
    assert (
        int(waking.sum()) == int((inside & (event == WAKEUP) & (rows["next_tid"] == said.tid)).sum()) == PRIME
    )
    assert rows["state"][waking].all(), "timers wake from an interrupt"
    assert set(rows["cpu"][away]) == {cpu} == set(rows["target_cpu"][waking]) == set(rows["cpu"][back])
    assert set(rows["prio"][waking]) == {120}
    assert loses_nothing(trace)


def test_every_round_trip_over_a_pipe_is_a_switch_of_each_thread(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, rows, said = record(tmp_path, capfd, program, "pipe", str(PRIME))

    inside = during(rows, said)
    switched = inside & (rows["event"] == SWITCH)
    hand_over = switched & (rows["tid"] == said.tid) & (rows["next_tid"] == said.other)
    waking = inside & (rows["event"] == WAKING) & (rows["tid"] == said.tid) & (rows["next_tid"] == said.other)
    assert said.voluntary == PRIME
    assert int((switched & (rows["tid"] == said.tid) & (rows["state"] == 1)).sum()) == PRIME
    assert int(hand_over.sum()) == int(waking.sum()) == PRIME
    assert not rows["state"][waking].any(), "a thread woke it, no interrupt"
    assert loses_nothing(trace)


@needs.tracefs
@perf
def test_perf_counts_the_same_switches(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    counts = tmp_path / "perf.csv"
    stat = ("perf", "stat", "-x,", "-o", str(counts), "-e", "sched:sched_switch", "--")
    trace, rows, said = record(tmp_path, capfd, *stat, program, "sleep", str(PRIME))

    names, tasks = trace.names(), trace.columns("tasks")
    called = np.array([names[number] == "switches" for number in tasks["name_id"].tolist()])
    mine = (tasks["tid"] == said.tid) & called
    began_ns = int(tasks["ts_ns"][mine][0])
    ended_ns = int(rows["ts_ns"][(rows["event"] == EXIT) & (rows["tid"] == said.tid)][0])
    from_exec = (rows["ts_ns"] > began_ns) & (rows["ts_ns"] < ended_ns)
    counted = int(re.search(r"^(\d+),", counts.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    assert (
        int((from_exec & (rows["event"] == SWITCH) & (rows["tid"] == said.tid)).sum())
        == counted
        >= said.voluntary
    )


def test_wakings_by_a_task_outside_are_recorded_with_its_id(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    there, back = tmp_path / "in", tmp_path / "out"
    os.mkfifo(there)
    os.mkfifo(back)
    script = (
        "import os, sys, time\n"
        f"out, back = os.open({str(there)!r}, os.O_WRONLY), os.open({str(back)!r}, os.O_RDONLY)\n"
        "for _ in range(499):\n"
        "    time.sleep(0.0002); os.write(out, b'x'); os.read(back, 1)\n"
    )
    feeder = subprocess.Popen([sys.executable, "-c", script])
    _, rows, said = record(tmp_path, capfd, program, "wait", "499", str(there), str(back))
    feeder.wait()

    inside = during(rows, said)
    woken = inside & (rows["event"] == WAKING) & (rows["next_tid"] == said.tid)
    by_feeder = woken & (rows["tid"] == feeder.pid) & (rows["state"] == 0)
    blocked = inside & (rows["event"] == SWITCH) & (rows["tid"] == said.tid) & (rows["state"] == 1)
    assert int(by_feeder.sum()) >= 490
    assert int(woken.sum()) == int(blocked.sum()) == said.voluntary
    wakes_feeder = inside & (rows["event"] == WAKING) & (rows["next_tid"] == feeder.pid)
    assert set(rows["tid"][wakes_feeder]) == {said.tid}, "what else wakes it is none of our business"


@two_cpus
def test_every_move_to_another_cpu_is_one_migration(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, rows, said = record(tmp_path, capfd, program, "move", "997")

    moved = during(rows, said) & (rows["event"] == MIGRATE)
    assert set(rows["next_tid"][moved]) == {said.tid}
    assert rows["target_cpu"][moved].tolist() == [(i + 1) & 1 for i in range(997)]
    assert said.tid not in set(rows["tid"][moved]), "the CPU's own stopper thread moves it"


@pytest.mark.parametrize("kind", ["fork", "thread"])
def test_every_child_is_a_fork_an_exit_and_a_last_switch(
    program: str, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, rows, said = record(tmp_path, capfd, program, kind, "997")

    event, inside = rows["event"], during(rows, said)
    children = rows["next_tid"][inside & (event == FORK)]
    assert len(set(children)) == len(children) == 997
    assert set(rows["tid"][inside & (event == FORK)]) == {said.tid}
    exits = rows["tid"][(event == EXIT) & (rows["tid"] != said.tid)]
    assert sorted(exits) == sorted(children)
    last = rows["tid"][(event == SWITCH) & np.isin(rows["state"], (0x10, 0x20))]
    assert set(children) <= set(last)
    tasks = trace.columns("tasks")
    made = np.isin(tasks["tid"], children)
    assert int(made.sum()) == 997, "one name each"
    processes = set(tasks["pid"][made])
    assert processes == ({said.tid} if kind == "thread" else set(children))


def test_a_process_that_a_second_thread_turned_into_another_stays_in_the_scope(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, rows, said = record(tmp_path, capfd, program, "exec", "101")

    event, inside = rows["event"], during(rows, said)
    assert int((inside & (event == FORK) & (rows["tid"] == said.tid)).sum()) == 101
    assert int((inside & (event == EXIT)).sum()) == 101
    assert loses_nothing(trace)


def test_threads_that_wait_for_swap_come_and_go_in_turn(program: str, tmp_path: Path) -> None:
    """The program that found out that, where some tasks are switched from, the tracepoint is passed by."""
    with needs.swap_up():
        request = Request((program, "swap", "30011"), tmp_path / "t.kdt", memory_bytes=30 << 20)
        trace = session.record(request, [Sched()])  # the kernel may kill it: so far everything is there

    rows = trace.columns("sched")
    switches = {name: column[rows["event"] == SWITCH] for name, column in rows.items()}
    ours = np.unique(trace.columns("tasks")["tid"])
    assert len(ours) == 4 and len(switches["tid"]) > 2000
    for tid in ours:
        at = (switches["tid"] == tid) | (switches["next_tid"] == tid)
        came = switches["next_tid"][at] == tid
        assert (came[1:] != came[:-1]).all()
    assert loses_nothing(trace)


def test_wakeups_are_wakings_and_forks(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, rows, said = record(tmp_path, capfd, program, "fork", "499")

    ours = {said.tid, *rows["next_tid"][rows["event"] == FORK].tolist()}
    count = {
        kind: int(
            (during(rows, said) & (rows["event"] == kind) & np.isin(rows["next_tid"], list(ours))).sum()
        )
        for kind in (WAKING, WAKEUP, FORK)
    }
    assert count[FORK] == 499
    assert count[WAKEUP] == count[WAKING] + count[FORK]


def test_threads_that_name_themselves_have_both_names(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, _, said = record(tmp_path, capfd, program, "name", "101")

    names, tasks = trace.names(), trace.columns("tasks")
    said_names = [names[number] for number in tasks["name_id"].tolist()]
    assert [name for name in said_names if name.startswith("kdt-")] == [f"kdt-{i}" for i in range(101)]
    assert set(tasks["pid"]) == {said.tid}
    assert said_names.count("switches") == 102


def test_rows_are_in_order_and_of_the_scope_only(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, rows, said = record(tmp_path, capfd, "sh", "-c", f"{program} sleep 499 & {program} pipe 499; wait")

    forks = rows["event"] == FORK
    ours = {int(trace.columns("tasks")["tid"][0]), *rows["next_tid"][forks].tolist()}
    assert said.tid in ours and len(ours) == 4
    assert (np.diff(rows["ts_ns"]) >= 0).all()
    sides = np.isin(rows["tid"], list(ours)) | np.isin(rows["next_tid"], list(ours))
    assert sides.all()
    waking = np.isin(rows["event"], (WAKING, WAKEUP))
    recorder = [int(name) for name in os.listdir("/proc/self/task")]
    assert not np.isin(rows["next_tid"][waking], recorder).any(), "the recorder's own wakings are not in"


@needs.faults
def test_scheduling_and_faults_are_recorded_at_once_on_one_clock(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = Request((program, "sleep", "101"), tmp_path / "t.kdt")
    trace = session.record(request, [Faults(), Sched()])

    said = Said(*(int(word) for word in capfd.readouterr().out.split()[:6]))
    rows, faults = trace.columns("sched"), trace.columns("faults")
    ended_ns = int(rows["ts_ns"][rows["event"] == EXIT][-1])
    assert said.tid in faults["tid"] and loses_nothing(trace)
    assert int(faults["ts_ns"].min()) < said.t0_ns < said.t1_ns < ended_ns
    assert int(faults["ts_ns"].max()) < ended_ns
    slept = during(rows, said) & (rows["event"] == SWITCH) & (rows["tid"] == said.tid) & (rows["state"] == 1)
    assert int(slept.sum()) == said.voluntary > 90


# ------------------------------------------------------------------------------------- what lives already


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with OwnCgroup(find_layout(), with_memory=False) as own:
        assert own.events is not None
        yield own.events


def start_in(cgroup: Path | None, *command: str) -> "subprocess.Popen[str]":
    def join() -> None:
        if cgroup is not None:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.Popen(command, preexec_fn=join, stdout=subprocess.PIPE, text=True)  # noqa: PLW1509


def said_by(process: "subprocess.Popen[str]") -> Said:
    out, _ = process.communicate()
    return Said(*(int(word) for word in out.split()))


def test_a_living_cgroup_is_recorded_with_what_joins_it(program: str, tmp_path: Path, cgroup: Path) -> None:
    first = start_in(cgroup, program, "sleep", "20011")
    late: list[subprocess.Popen[str]] = []
    joins = threading.Timer(0.5, lambda: late.append(start_in(cgroup, program, "sleep", "7001")))
    joins.start()

    request = Request((), tmp_path / "t.kdt", cgroup=cgroup.name, duration_s=1.4)
    trace = session.record(request, [Sched()])

    joins.join()
    rows = trace.columns("sched")
    for process in (first, late[0]):
        process.kill()
        process.communicate()
        away = (rows["event"] == SWITCH) & (rows["tid"] == process.pid)
        assert int(away.sum()) > 500, "the one that joined was found"
    assert trace.manifest.collector["sources"]["sched"]["joined_later"] == 1
    tasks = trace.columns("tasks")
    assert set(tasks["tid"]) == {first.pid, late[0].pid}


def test_a_living_process_is_recorded_with_its_threads(program: str, tmp_path: Path) -> None:
    process = start_in(None, program, "pipe", "1000003")
    time.sleep(0.2)
    threads = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")}  # it may end before us
    request = Request((), tmp_path / "t.kdt", pid=process.pid, duration_s=0.5)

    trace = session.record(request, [Sched()])

    process.kill()
    process.communicate()
    rows = trace.columns("sched")
    tasks = trace.columns("tasks")
    assert len(threads) == 2 and set(tasks["tid"]) == threads and set(tasks["pid"]) == {process.pid}
    switches = rows["event"] == SWITCH
    for tid in threads:
        assert int((switches & (rows["tid"] == tid)).sum()) > 1000


def test_an_empty_cgroup_has_no_events(tmp_path: Path, cgroup: Path) -> None:
    trace = session.record(Request((), tmp_path / "t.kdt", cgroup=cgroup.name, duration_s=0.3), [Sched()])

    assert trace.manifest.tables["sched"].rows == 0 and loses_nothing(trace)


# ------------------------------------------------------------------------------------- losses and ends


def test_losses_of_too_small_a_buffer_are_counted_to_the_last_event(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracestream, "MIN_POLL_S", 0.2)
    trips = 50021
    trace, rows, said = record(tmp_path, capfd, program, "pipe", str(trips), buffer_bytes=8192)

    info, facts = trace.manifest.tables["sched"], trace.manifest.collector["sources"]["sched"]
    assert said.voluntary == trips
    assert info.lost == facts["overrun"] + facts["commit_overrun"] > 2 * trips
    assert info.counted == info.rows + info.lost and info.rows == len(rows["tid"])
    # Two switches, wakings and wakeups a round trip; the rest is the program's start and end.
    assert 6 * trips <= info.counted + facts["foreign"] < 6 * trips + 1000 + 2 * said.involuntary


def test_a_fast_ring_of_processes_loses_nothing(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trips = 100003
    trace, rows, said = record(tmp_path, capfd, program, "pipe", str(trips))

    assert loses_nothing(trace)
    switches = during(rows, said) & (rows["event"] == SWITCH) & (rows["state"] == 1)
    assert int((switches & (rows["tid"] == said.tid)).sum()) == said.voluntary == trips


@two_cpus
def test_rows_that_come_too_late_to_be_in_order_are_counted_as_lost(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracestream, "HOLD_NS", -1_000_000_000)
    monkeypatch.setattr(tracestream, "FLUSH_NS", 0)
    trace, rows, _ = record(tmp_path, capfd, program, "move", "20011")

    info, facts = trace.manifest.tables["sched"], trace.manifest.collector["sources"]["sched"]
    assert info.lost == facts["late"] > 0
    assert info.counted == info.rows + info.lost
    assert (np.diff(rows["ts_ns"]) >= 0).all()


def test_the_instances_of_a_killed_recorder_go_with_the_next_recording(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdtool", "collect", "--events", "sched"]
    command += ["-o", str(tmp_path / "killed.kdt"), "--", program, "sleep", "30011"]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(own_instances(recorder.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(own_instances(recorder.pid)) == 2
    time.sleep(2)
    recorder.send_signal(signal.SIGKILL)
    recorder.wait()

    session.record(Request(("true",), tmp_path / "next.kdt"), [Sched()])

    assert own_instances(recorder.pid) == []
    info = [sys.executable, "-m", "kdtool", "info", "--json", str(tmp_path / "killed.kdt")]
    found = json.loads(subprocess.run(info, check=True, capture_output=True, text=True).stdout)
    assert found["state"] == "interrupted"
    assert found["tables"]["sched"]["rows"] > 2000 and found["tables"]["tasks"]["rows"] >= 1


def test_what_does_not_balance_is_refused(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(tracestream.TraceStream):
        def finish(self) -> None:
            self.decoded[0] += 1
            super().finish()

    monkeypatch.setattr("kdtool.collect.sched.TraceStream", Forgetful)
    with pytest.raises(TraceError, match="events vanished unseen: record it again"):
        session.record(Request((program, "sleep", "101"), tmp_path / "t.kdt"), [Sched()])
    assert not (tmp_path / "t.kdt").exists()


def test_a_failing_writer_ends_the_recording_with_its_error(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TraceError("the disk is full: free some")

    monkeypatch.setattr("kdtool.collect.schedrows.SchedRows.write", fail)
    with pytest.raises(TraceError, match="the disk is full"):
        session.record(Request((program, "sleep", "60013"), tmp_path / "t.kdt"), [Sched()])


def test_a_missing_tracepoint_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool.collect.sched.ALL_EVENTS", ("sched:sched_teleport",))

    problem = Sched().unavailable()

    assert problem is not None and "sched:sched_teleport" in problem.reason and problem.fix
    with TraceWriter(tmp_path / "t.kdt") as writer, pytest.raises(CapabilityError, match="sched_teleport"):
        Sched().open(Scope(None, Request(("true",), tmp_path / "t.kdt")), writer)
    assert reap_stale(find_tracefs()) == []


@needs.tracefs
def test_the_probe_leaves_nothing_and_where_it_ran() -> None:
    allowed = os.sched_getaffinity(0)

    assert set(unreported_cpus()) <= set(range(os.cpu_count() or 1))
    assert os.sched_getaffinity(0) == allowed


# ------------------------------------------------------------------------------------- which threads


def test_an_id_belongs_to_the_scope_from_a_birth_in_it_to_one_elsewhere() -> None:
    lifetimes = Lifetimes()
    lifetimes.born(7, 100)
    lifetimes.born(9, 200)
    lifetimes.gone(7, 300)
    lifetimes.gone(8, 300)

    tids = np.array([7, 7, 7, 9, 8, 0], np.int32)
    assert lifetimes.owns(tids, np.array([99, 100, 300, 400, 200, 200])).tolist() == [
        False, True, False, True, False, False,
    ]  # fmt: skip

    lifetimes.born(7, 500)
    assert lifetimes.owns(np.array([7, 7], np.int32), np.array([400, 600])).tolist() == [False, True]


def test_a_container_with_pids_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool.collect.threads.os.readlink", lambda path: "pid:[4026532999]")

    with pytest.raises(CapabilityError, match="--pid=host"):
        check_pid_namespace()
