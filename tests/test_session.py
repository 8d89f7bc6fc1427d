"""A recording as a whole: several sources, bounds, signals, and a recorder that is killed at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import compiled, faults, gcc

from kdtool.collect import session
from kdtool.collect.base import Progress, Request, Scope
from kdtool.collect.launch import ProcessGroup
from kdtool.collect.limited import describe_failure
from kdtool.errors import ParameterError, TraceError
from kdtool.kernel.cgroup import find_layout
from kdtool.traces import Trace, TraceWriter

KDTOOL = (sys.executable, "-m", "kdtool")


class Ticker:
    """A collector without the kernel: a row each time it is looked after."""

    tables = ("tasks",)
    clock = "monotonic"

    def __init__(self, name: str, *, rows: int = 1, fails: bool = False) -> None:
        self.name, self.rows, self.fails = name, rows, fails
        self.environment: Mapping[str, str] = {f"KDTOOL_TEST_{name}": "1"}
        self.calls: list[str] = []
        self._appended = 0

    def unavailable(self) -> None:
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "Ticker":
        self.calls.append("open")
        self._writer = writer
        return self

    def start(self, pids: Sequence[int]) -> None:
        assert len(pids) == 1 and Path(f"/proc/{pids[0]}").exists()
        self.calls.append("start")

    def check(self) -> None:
        if self.fails:
            raise TraceError("ticker: broken: mend it")
        now = np.full(self.rows, time.monotonic_ns())
        numbers = np.arange(self._appended, self._appended + self.rows)
        self._writer.append("tasks", {"ts_ns": now, "pid": numbers, "tid": numbers, "name_id": numbers})
        self._appended += self.rows

    def progress(self) -> Progress:
        return Progress(self._appended, 0)

    def finish(self) -> None:
        self.calls.append("finish")
        self._writer.lose(self.tables[0], 0)

    def facts(self) -> dict[str, Any]:
        return {"appended": self._appended}

    def close(self) -> None:
        self.calls.append("close")


class Other(Ticker):
    clock = "insns"


def test_sources_are_opened_started_finished_and_closed_together(tmp_path: Path) -> None:
    first, second = Ticker("first"), Ticker("second")
    request = Request(("sh", "-c", "test $KDTOOL_TEST_first$KDTOOL_TEST_second = 11"), tmp_path / "t.kdt")

    trace = session.record(request, [first, second])

    assert first.calls == second.calls == ["open", "start", "finish", "close"]
    manifest = trace.manifest
    assert manifest.workload["exit_code"] == 0 and manifest.workload["ended_by"] == "command"
    assert manifest.collector["name"] == "first,second"
    assert sum(facts["appended"] for facts in manifest.collector["sources"].values()) == trace.rows("tasks")


def test_a_source_that_fails_ends_the_command_and_all_else(tmp_path: Path) -> None:
    good, bad = Ticker("good"), Ticker("bad", fails=True)
    start_s = time.monotonic()

    with pytest.raises(TraceError, match="broken: mend it"):
        session.record(Request(("sleep", "60"), tmp_path / "t.kdt"), [good, bad])

    assert good.calls == bad.calls == ["open", "start", "close"]
    assert time.monotonic() - start_s < 20
    assert list(tmp_path.iterdir()) == []


def test_the_size_bounds_the_recording(tmp_path: Path) -> None:
    ticker = Ticker("ticker", rows=1000)
    request = Request(("sleep", "60"), tmp_path / "t.kdt", max_bytes=100_000)

    trace = session.record(request, [ticker])

    assert trace.manifest.state == "complete" and trace.manifest.workload["ended_by"] == "size"
    assert 100_000 / 20 <= trace.rows("tasks") < 3 * 100_000 / 20


def test_a_process_that_lives_already_is_recorded_until_it_ends(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "0.4"]) as sleeper:
        trace = session.record(Request((), tmp_path / "t.kdt", pid=sleeper.pid), [Ticker("ticker")])

    assert trace.manifest.workload["ended_by"] == "process" and trace.rows("tasks") > 2
    with pytest.raises(ParameterError, match=f"pid {sleeper.pid}: there is no such process"):
        session.record(Request((), tmp_path / "u.kdt", pid=sleeper.pid), [Ticker("ticker")])


def test_clocks_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="a and b have no clock in common"):
        session.record(Request(("true",), tmp_path / "t.kdt"), [Ticker("a"), Other("b")])


@gcc
@faults
@pytest.mark.root
@pytest.mark.parametrize("moment", range(6))
def test_a_recorder_killed_at_any_moment_leaves_a_trace_that_info_reads(tmp_path: Path, moment: int) -> None:
    program, path = compiled(tmp_path, "faults"), tmp_path / "t.kdt"
    command = [*KDTOOL, "collect", "-o", str(path), "--", program, "linger", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as recorder:
        assert recorder.stdout is not None
        recorder.stdout.readline()  # the program runs
        started_s = time.monotonic()
        time.sleep(random.Random(moment).uniform(0, 4))
        recorder.kill()
        lasted_s = time.monotonic() - started_s
        left = [path for root in roots() for path in root.glob(f"kdtool-{recorder.pid}-*")]
        pids = {int(pid) for path in left for pid in (path / "cgroup.procs").read_text().split()}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    info = subprocess.run([*KDTOOL, "info", str(path), "--json"], capture_output=True, text=True, check=False)

    assert info.returncode == 0, info.stderr
    assert "sealed as interrupted" in info.stderr
    assert json.loads(info.stdout)["state"] == "interrupted"
    rows = Trace(path).columns("faults", ["ts_ns"])["ts_ns"] if Trace(path).rows("faults") else np.empty(0)
    assert np.all(np.diff(rows) >= 0)
    if lasted_s > 3:  # rows are held back for a second, and drained and flushed about once in another
        assert len(rows) > 1000
    session.record(Request(("true",), tmp_path / "next.kdt"), [Ticker("next")])
    assert not any(path.exists() for path in left)


INIT = """
import ctypes, os, sys
from kdtool.collect.launch import Launched, ProcessGroup
from kdtool.collect.limited import run_in
from kdtool.collect.terminal import Stop
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to us, as to init
own = ProcessGroup()
with Launched(("sh", "-c", "sleep 0.2 & :"), own) as launched:
    print(run_in(own, launched, Stop()).ended_by)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("all reaped")
"""


def test_orphans_that_come_to_us_are_reaped_and_do_not_keep_the_recording_from_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INIT], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.splitlines() == ["command", "all reaped"]


def test_who_has_ended_and_was_not_reaped_lives_no_more() -> None:
    script = (
        "import os, time; child = os.fork() or os._exit(0)\n"
        "os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT); print(flush=True); time.sleep(100)"
    )
    own = ProcessGroup()
    with subprocess.Popen([sys.executable, "-c", script], process_group=0, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        own.leader = leader.pid
        before = own.processes()
        leader.kill()
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)  # it has ended; its status is still there
        after = own.processes()

        assert (before, after, leader.wait()) == ([leader.pid], [], -signal.SIGKILL)


@pytest.mark.parametrize(("code", "how"), [(-9, "signal SIGKILL"), (-35, "signal 35"), (3, "exit code 3")])
def test_a_failure_is_told_by_the_name_of_its_signal_if_that_has_one(code: int, how: str) -> None:
    workload = {"exit_code": code, "ended_by": "command"}

    assert describe_failure(["prog"], workload, None, "look") == f"prog: failed with {how}: look"


def roots() -> list[Path]:
    layout = find_layout()
    return [hierarchy.root for hierarchy in (layout.memory, layout.events) if hierarchy is not None]


def test_a_terminal_of_another_session_is_nobodys_to_lend() -> None:
    """As a console's or a container's first process has it on standard input: isatty() says yes to it."""
    ours, theirs = os.openpty()
    lend = "import os; from kdtool.collect import terminal as t\nwith t.lend_terminal(1): print(os.isatty(0))"
    done = subprocess.run(
        [sys.executable, "-c", lend],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    for end in (ours, theirs):
        os.close(end)

    assert (done.stdout, done.stderr) == ("True\n", "")
