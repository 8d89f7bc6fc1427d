"""Sweeps: the same results from any number of processes, and nothing left of these however they end."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from builders import ssd, strided_trace
from rich.console import Console

from kdtool.errors import CapabilityError, ParameterError, ProgramError, TraceError
from kdtool.replay import Flush, load_device, load_policy, load_workload, replay, run_shadow
from kdtool.replay import devices as devices_module
from kdtool.replay import display as display_module
from kdtool.replay import parallel as parallel_module
from kdtool.replay.display import Display
from kdtool.replay.parallel import Batch, LongestFirst, Task, score_traces
from kdtool.replay.sweep import Sweep, replay_sweep, sweep_cells
from kdtool.replay.workers import Workers
from kdtool.traces import Trace

ROOT = Path(__file__).parent.parent
STENCIL = ROOT / "examples" / "stencil.kdt"
NAMES = ("none", "linux-vma", "oracle", str(ROOT / "examples" / "stencil.rmt.json"))


@pytest.fixture(scope="module")
def strided(tmp_path_factory):
    return strided_trace(tmp_path_factory.mktemp("sweep") / "strided.kdt").path


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory, monkeypatch):
    """No worker, no temporary file, no shared memory that has a name."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    assert multiprocessing.active_children() == []
    assert list(folder.iterdir()) == []
    assert "/dev/shm" not in Path("/proc/self/maps").read_text()


def sweep(*policies, memories=("30%", "60%"), devices=("ssd", "zram"), **options):
    loaded = tuple(load_policy(policy) if isinstance(policy, str) else policy for policy in policies)
    return Sweep(loaded, memories, tuple(load_device(name) for name in devices), **options)


def as_bytes(results):
    return json.dumps([replace(result, replay_s=0.0).to_row() for result in results])


def test_any_number_of_processes_gives_the_same_results_in_the_same_order(strided):
    wanted = sweep("none", "oracle", start="20%")
    alone = score_traces([STENCIL, strided], wanted)
    for jobs in (2, 50):
        assert as_bytes(score_traces([STENCIL, strided], wanted, jobs)) == as_bytes(alone)
    order = [(r.trace, r.memory_pages, r.device, r.policy) for r in alone]
    policies = ["none", "oracle"]
    assert order[:4] == [("stencil.kdt", 2844, d, p) for d in ("ssd", "zram") for p in policies]
    assert [trace for trace, *_ in order] == ["stencil.kdt"] * 8 + ["strided.kdt"] * 8


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_gives_what_single_replays_give(jobs):
    results = score_traces([STENCIL], sweep(*NAMES, memories=("50%",), devices=("ssd",), start="59298"), jobs)
    w, device = load_workload(Trace(STENCIL)), ssd()
    shadow = run_shadow(w, 4741, device)
    single = [replay(w, load_policy(name), shadow, device, from_row=59_298) for name in NAMES]
    assert as_bytes(results) == as_bytes(single)


def test_what_is_not_known_starts_first_and_then_the_longest():
    w, wanted = load_workload(Trace(STENCIL)), sweep("leap-paper", "linux-vma", devices=("ssd",))
    batch = Batch(sweep_cells(w, wanted))
    leap, vma = range(2)
    small, large = (partial(Task, batch, 0, at) for at in range(2))
    waiting = LongestFirst()
    for shadow, took_s in ((small(), 4.0), (large(), 3.0)):
        waiting.learn(shadow, took_s)
    for task in (large(vma), small(vma), large(leap), small(leap)):
        waiting.add(task)

    unknown = [waiting.take() for _ in range(2)]
    waiting.learn(small(vma), 8.0)
    waiting.add(small(vma))
    waiting.add(small())
    running = [waiting.take() for _ in range(2)]
    waiting.learn(small(leap), 12.0)
    waiting.add(small(leap))
    known = [waiting.take() for _ in range(3)]

    assert unknown == [small(vma), small(leap)]  # each policy once, where it takes longest
    assert running == [small(), large(leap)]
    assert known == [small(leap), small(vma), large(vma)]
    assert len(waiting) == 0


def test_without_none_the_shadow_is_run_all_the_same():
    one = score_traces([STENCIL], sweep("leap-paper", memories=("50%",), devices=("ssd",)), 2)
    both = score_traces([STENCIL], sweep("none", "leap-paper", memories=("50%",), devices=("ssd",)), 2)
    assert as_bytes(one) == as_bytes(both[1:])
    assert one[0].pollution_faults > 0


def test_phases_start_at_moments_spread_over_the_period():
    wanted = sweep("none", "leap-paper", memories=("50%",), devices=("ssd",), phases=4)
    results = score_traces([STENCIL], wanted, 2)
    phases = [250_000_000, 750_000_000, 1_250_000_000, 1_750_000_000]
    assert [(r.flush_phase_ns, r.policy) for r in results] == [
        (phase, policy) for phase in phases for policy in ("none", "leap-paper")
    ]
    shadow = run_shadow(load_workload(Trace(STENCIL)), 4741, ssd(), "linux", Flush(phase_ns=phases[3]))
    assert results[6].major_faults == shadow.missed.sum()
    assert len({result.major_faults for result in results[::2]}) > 1
    assert sweep("none").flushes() == [Flush()]


def test_replay_sweep_is_the_same_for_a_workload_in_memory():
    wanted = sweep("none", "oracle", memories=("50%",), devices=("ssd",))
    assert as_bytes(replay_sweep(load_workload(Trace(STENCIL)), wanted)) == as_bytes(
        score_traces([STENCIL], wanted)
    )


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        ({"memories": ("50%", "0.1%")}, "needs 65 at least"),
        ({"reclaim": "lruu"}, "did you mean 'lru'"),
        ({"start": "100%"}, "rows 0 to 82813"),
        ({"phases": 0}, "--phases 0"),
        ({"phases": 2, "reclaim": "lru"}, "--phases 2 with lru"),
    ],
)
def test_a_sweep_that_cannot_end_is_refused_before_anything_is_replayed(options, saying, monkeypatch):
    monkeypatch.setattr(parallel_module, "replay_cell", None)
    monkeypatch.setattr(parallel_module, "Workers", None)
    with pytest.raises(ParameterError, match=saying):
        score_traces([STENCIL], sweep("none", "linux-vma", **options))


def test_zero_jobs_are_refused():
    with pytest.raises(ParameterError, match="--jobs 0: give"):
        score_traces([STENCIL], sweep("none"), 0)


def test_two_traces_of_one_name_are_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"stencil\.kdt: two traces of this name"):
        score_traces([STENCIL, tmp_path / "stencil.kdt"], sweep("none"))


def test_two_devices_of_one_name_are_refused(tmp_path):
    profile = Path(devices_module.__file__).parent / "devices" / "ssd.json"
    files = [tmp_path / folder / "host.json" for folder in "ab"] + [tmp_path / "ssd.json"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text(profile.read_text())
    first, second, like_shipped = map(str, files)

    for devices, name in (((first, second), "host"), ((like_shipped, "ssd"), "ssd"), (("hdd", "hdd"), "hdd")):
        with pytest.raises(ParameterError, match=rf"^{name}: two devices of this name, .*: rename the file"):
            sweep("none", devices=devices)

    assert [device.name for device in sweep("none", devices=(first, "ssd")).devices] == ["host", "ssd"]


class Odd:
    """A policy that does something else in its worker when a replay is prepared."""

    name, version, degree_pages = "odd", "1", 0

    def __init__(self, act):
        self.act = act
        self.decide = load_policy("none").decide

    def prepare(self, setting):
        self.act()
        return load_policy("none").prepare(setting)


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "kind", "saying"),
    [
        (raising(ProgramError("too deep")), ProgramError, "odd: too deep"),
        (raising(ValueError("bad\nluck")), CapabilityError, "failed: ValueError: bad luck: --jobs 1"),
        (raising(MemoryError("2 GiB")), CapabilityError, "odd: out of memory: 2 GiB: give a smaller --jobs"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            CapabilityError,
            "odd: its process was killed by SIGKILL",
        ),
        (lambda: os._exit(3), CapabilityError, "odd: its process exited with 3"),
    ],
    ids=["refused", "failed", "no memory", "killed", "gone"],
)
def test_a_worker_that_fails_is_one_line(act, kind, saying):
    with pytest.raises(kind) as caught:
        score_traces([STENCIL], sweep("linux-vma", Odd(act), "oracle"), 2)
    assert saying in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_ends_what_else_runs():
    sleeper = Odd(lambda: time.sleep(60))
    failing = Odd(lambda: time.sleep(0.5) or raising(ProgramError("too deep"))())
    began = time.monotonic()
    with pytest.raises(ProgramError):
        score_traces([STENCIL], sweep(sleeper, failing, memories=("50%",), devices=("ssd",)), 3)
    assert time.monotonic() - began < 30


def test_a_trace_that_cannot_be_read_is_one_line_among_workers(tmp_path):
    with pytest.raises(TraceError, match=r"missing\.kdt"):
        score_traces([STENCIL, tmp_path / "missing.kdt"], sweep("none"), 9)


def test_a_worker_stays_for_the_replays_of_its_trace():
    ours, theirs = os.pipe()
    noting = Odd(lambda: os.write(theirs, os.getpid().to_bytes(8)))
    wanted = sweep(noting, noting, noting, memories=("30%", "50%"), devices=("ssd",))
    score_traces([STENCIL], wanted, 2)
    seen = [int.from_bytes(os.read(ours, 8)) for _ in range(2 * 3)]
    os.close(ours)
    os.close(theirs)
    assert len(set(seen)) <= 2
    assert os.getpid() not in seen


def test_a_worker_that_was_killed_while_it_waited_is_one_line():
    def serve(call, report):
        return {"pid": os.getpid()}

    rows = []
    with Workers(1) as workers:
        workers.start("first", serve, (0, 0), rows.append, Display().line("first"))
        workers.wait()
        os.kill(rows[0]["pid"], signal.SIGKILL)
        assert gone([rows[0]["pid"]], within_s=10)
        with pytest.raises(CapabilityError, match="second: its process was killed by SIGKILL"):
            workers.start("second", serve, (0, 0), rows.append, Display().line("second"))


def test_a_worker_tells_of_all_rows_now_and_then(monkeypatch):
    def serve(call, report):
        for _ in range(100):
            report(3)
        return {}

    told = []
    line = Display().line("work")
    monkeypatch.setattr(line, "advance", told.append)
    with Workers(1) as workers:
        workers.start("work", serve, (0, 0), lambda row: None, line)
        while workers.n_running:
            workers.wait()
    assert sum(told) == 300
    assert len(told) < 10


SWEEP = """
import os
import time
from unittest import mock
from test_sweep import STENCIL, Odd, sweep
from kdtool import cli
from kdtool.replay.parallel import score_traces

def wait():
    os.write(1, b"at work\\n")  # in one piece: two processes write to the pipe
    time.sleep(60)

with mock.patch.object(cli, "app", lambda arguments: score_traces([STENCIL], sweep(Odd(wait), Odd(wait)), 2)):
    cli.main()
"""

WORKERS = """
import os
import time
from kdtool.replay.display import Display
from kdtool.replay.workers import Workers

def talkative(call, report):
    os.write(1, b"at work\\n")  # in one piece: two processes write to the pipe
    for _ in range(1000):
        time.sleep(0.05)
        report(1)

def silent(call, report):
    os.write(1, b"at work\\n")  # in one piece: two processes write to the pipe
    time.sleep(60)

with Workers(2) as workers:
    for serve in (talkative, silent):
        workers.start("work", serve, (0, 0), print, Display().line("work"))
    while True:
        workers.wait()
"""


def started(script):
    """Run a script until its two workers are at work; return it and their process ids, eldest first."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    return process, sorted(map(int, workers))


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(workers, within_s):
    deadline = time.monotonic() + within_s
    while any(map(runs, workers)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_ctrl_c_ends_the_workers_at_once_and_says_one_line():
    process, workers = started(SWEEP)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "kdtool: interrupted\n")
    assert gone(workers, within_s=0.1)


def test_workers_of_a_killed_process_end_at_their_next_report():
    process, (talkative, silent) = started(WORKERS)
    try:
        process.kill()
        process.wait(timeout=10)
        assert gone([talkative], within_s=10)
        assert runs(silent)
    finally:
        os.kill(silent, signal.SIGKILL)
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_person_sees_what_is_replayed_and_how_fast(monkeypatch, jobs):
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=True, width=120)
    monkeypatch.setattr(display_module, "SHOW_AFTER_S", 0)
    monkeypatch.setattr(parallel_module, "Display", lambda: Display(console))
    slow = Odd(lambda: time.sleep(0.5))
    score_traces([STENCIL], sweep("none", slow, "oracle", memories=("50%",), devices=("ssd",)), jobs)
    for text in ("stencil.kdt · 4741 pages · ssd · odd", "M rows/s", "all"):
        assert text in seen.getvalue()


def test_short_work_and_pipes_show_nothing(capfd):
    quick = io.StringIO()
    for console in (Console(file=quick, force_terminal=True), None):
        with Display(console) as display:
            display.expect(10)
            line = display.line("work", 10)
            line.advance(10)
            line.end()
    assert quick.getvalue() == ""
    assert capfd.readouterr().err == ""
