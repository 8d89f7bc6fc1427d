"""A recording in a terminal, under a shell: Ctrl-Z and `fg`, Ctrl-C, and a terminal that is closed."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_faults import killed, read_until
from test_session import Ticker

from kdtool.collect import session, summary
from kdtool.collect.base import Progress, Request
from kdtool.collect.launch import Launched, ProcessGroup
from kdtool.collect.limited import run_in
from kdtool.collect.terminal import Stop
from kdtool.errors import CapabilityError
from kdtool.traces import Trace

TESTS = Path(__file__).parent
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    record = "import test_terminal; test_terminal.job()"
    os.execv(sys.executable, [sys.executable, "-c", record, *sys.argv[1:]])
signal.signal(signal.SIGHUP, lambda *_: os.killpg(job, signal.SIGHUP))
_, status = os.waitpid(job, os.WUNTRACED)
while os.WIFSTOPPED(status):
    print("stopped; the terminal is the job's:", os.tcgetpgrp(0) == job)
    os.tcsetpgrp(0, os.getpgrp())
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
    _, status = os.waitpid(job, os.WUNTRACED)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""What a shell with job control does for one job, which records a command (its arguments: trace, command)."""


def job() -> None:
    """Record as `kdtool collect` does, with a live line from the start and without cgroups."""

    def refuse(memory_bytes: int | None, *, with_events: bool) -> None:
        raise CapabilityError("no cgroups in this test")

    session.own_cgroup = refuse  # type: ignore[assignment]
    summary.QUIET_S = summary.REFRESH_S = 0.0
    with summary.live_line() as show:
        session.record(Request(tuple(sys.argv[2:]), Path(sys.argv[1])), [Ticker("ticker")], show)


@contextmanager
def shell(trace: Path, script: str) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Give the user's side of the terminal of a shell that records `script`, and the shell."""
    ours, theirs = os.openpty()
    paths = f"{TESTS.parent}:{TESTS}"
    command = ["setsid", "--ctty", sys.executable, "-c", SHELL, str(trace), "sh", "-c", script]
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    environment = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, env=environment, **ends) as process, killed(process):
        os.close(theirs)
        yield ours, process


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_gives_it_back(tmp_path: Path) -> None:
    trace = tmp_path / "t.kdt"
    with shell(trace, "echo ready; read word; echo got $word; sleep 100") as (terminal, process):
        read_until(terminal, "ready")
        os.write(terminal, b"\x1a")
        read_until(terminal, "stopped; the terminal is the job's: True")
        os.write(terminal, b"fg\n")
        os.write(terminal, b"hello\n")
        read_until(terminal, "got hello")
        os.write(terminal, b"\x03")

        assert process.wait(timeout=60) == 0
        os.close(terminal)
    assert Trace(trace).manifest.state == "interrupted"
    assert Trace(trace).manifest.workload["exit_code"] == -signal.SIGINT


def test_a_terminal_that_is_closed_interrupts_the_recording(tmp_path: Path) -> None:
    trace = tmp_path / "t.kdt"
    with shell(trace, "echo ready; sleep 100") as (terminal, process):
        read_until(terminal, "ready")
        read_until(terminal, "kdtool: ")  # the live line
        os.close(terminal)

        process.wait(timeout=60)
    assert Trace(trace).manifest.state == "interrupted"
    assert Trace(trace).manifest.workload["ended_by"] == "signal"


def test_a_live_line_that_nobody_can_read_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        tries = 0

        def isatty(self) -> bool:
            return True

        def flush(self) -> None:
            self.tries += 1
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", gone := Gone())
    monkeypatch.setattr(summary, "QUIET_S", 0.0)
    monkeypatch.setattr(summary, "REFRESH_S", 0.0)

    with summary.live_line() as show:
        show({"ticker": Progress(1, 0)}, 1)
        show({"ticker": Progress(2, 0)}, 1)

    assert gone.tries == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_the_command_alone_is_an_interruption(number: signal.Signals) -> None:
    own = ProcessGroup()
    with Launched(("sh", "-c", f"kill -{number.value} $$"), own) as launched:
        facts = run_in(own, launched, Stop())

    assert (facts.exit_code, facts.ended_by) == (-number, "signal")


def test_results_for_a_terminal_that_was_closed_are_no_traceback() -> None:
    script = (
        "import os, sys, time; from kdtool import cli\n"
        "def app(arguments):\n"
        "    print('begun', flush=True); sys.stdin.readline(); print('done')\n"
        "cli.app = app; cli.main()"
    )
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        read_until(ours, "begun")
        os.close(ours)
        _, said = process.communicate(b"\n", timeout=60)

    assert (process.returncode, said) == (1, b"")
