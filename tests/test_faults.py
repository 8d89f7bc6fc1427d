"""The fault collector, against real page faults of real programs."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import needs
import numpy as np
import pytest

from kdtool.collect import faultstream, limited, session
from kdtool.collect.base import Request
from kdtool.collect.faults import Faults
from kdtool.collect.limited import run_limited
from kdtool.collect.mappings import read_maps
from kdtool.errors import CapabilityError, CommandError, ParameterError, TraceError
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.kernel.fault_events import PerfFaults
from kdtool.traces import Trace, VmaFlag, spool

pytestmark = [pytest.mark.root, needs.faults, needs.gcc]

MIB = 1 << 20
PAGES = 8191
"""A prime, so that no other count is likely to be taken for it."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return needs.compiled(tmp_path_factory.mktemp("faults"), "faults")


@pytest.fixture(params=[BpfFaults, PerfFaults], ids=["bpf", "perf"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have faults come by one of the two ways only; return which."""
    monkeypatch.setattr(Faults.__init__, "__defaults__", ((request.param,),))
    return str(request.param.path)


@pytest.fixture(scope="session")
def swap() -> Iterator[None]:
    with needs.swap_up():
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    yield

    assert own_cgroups() == []
    assert list(tmp_path.glob(".*partial*")) == []


def own_cgroups(pid: int | None = None) -> list[Path]:
    """The cgroups that this process, or kdtool number `pid`, has made and not removed."""
    layout = find_layout()
    roots = [hierarchy.root for hierarchy in (layout.memory, layout.events) if hierarchy is not None]
    return [path for root in roots for path in root.glob(f"kdtool-{pid or os.getpid()}-*")]


def record(tmp_path: Path, *command: str, memory_mib: int | None = None, **more: object) -> Trace:
    memory_bytes = None if memory_mib is None else memory_mib * MIB
    request = Request(command, tmp_path / "t.kdt", memory_bytes=memory_bytes, **more)  # type: ignore[arg-type]
    return session.record(request, [Faults()])


def first_page(capfd: pytest.CaptureFixture[str]) -> int:
    return int(capfd.readouterr().out.split()[0])


def counted_by_the_trace(trace: Trace) -> tuple[int, int]:
    major = trace.columns("faults", ["major"])["major"]
    return int(major.sum()), int((~major).sum())


def counted_by_wait4(trace: Trace) -> tuple[int, int]:
    workload = trace.manifest.workload
    return workload["major_faults"], workload["minor_faults"]


# ------------------------------------------------------------------------------------- what is recorded


@pytest.mark.usefixtures("way")
def test_every_first_touch_is_one_minor_fault(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, program, "touch", str(PAGES))

    start = first_page(capfd)
    faults = trace.columns("faults")
    inside = (faults["vpn"] >= start) & (faults["vpn"] < start + PAGES)
    assert faults["vpn"][inside].tolist() == list(range(start, start + PAGES))
    assert not faults["major"][inside].any()
    assert len(set(faults["ip"][inside].tolist())) == 1


@pytest.mark.usefixtures("way")
def test_rows_are_exactly_what_wait4_counts(program: str, tmp_path: Path) -> None:
    trace = record(tmp_path, program, "touch", str(PAGES))

    assert counted_by_the_trace(trace) == counted_by_wait4(trace)
    info = trace.manifest.tables["faults"]
    assert info.counted == info.rows + info.lost and info.lost == 0


@pytest.mark.usefixtures("swap", "way")
def test_under_a_limit_every_major_fault_is_recorded(program: str, tmp_path: Path) -> None:
    trace = record(tmp_path, program, "again", str(64 * MIB // 4096), memory_mib=32)

    workload, cgroup = trace.manifest.workload, trace.manifest.cgroup
    assert counted_by_the_trace(trace) == counted_by_wait4(trace)
    assert workload["major_faults"] > 1000
    assert workload["pswpin"] >= workload["major_faults"]
    assert cgroup["limit_bytes"] == 32 * MIB >= cgroup["peak_bytes"]
    assert workload["exit_code"] == 0 and workload["oom_kills"] == 0


@pytest.mark.usefixtures("way")
def test_children_are_followed(program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = record(tmp_path, program, "fork", str(PAGES))

    start = first_page(capfd)
    faults = trace.columns("faults")
    inside = (faults["vpn"] >= start) & (faults["vpn"] < start + PAGES)
    assert inside.sum() == PAGES
    assert len(np.unique(faults["pid"])) == 2
    assert len(np.unique(faults["pid"][inside])) == 1
    assert counted_by_the_trace(trace) == counted_by_wait4(trace)


@pytest.mark.usefixtures("way")
def test_rows_are_in_order_of_time_over_all_cpus(program: str, tmp_path: Path) -> None:
    before = time.monotonic_ns()
    both = f"{program} touch {PAGES} & {program} touch {PAGES} & wait"

    trace = record(tmp_path, "sh", "-c", both)

    ts_ns = trace.columns("faults", ["ts_ns"])["ts_ns"]
    assert np.all(np.diff(ts_ns) >= 0)
    assert before < ts_ns[0] < ts_ns[-1] < time.monotonic_ns()
    assert trace.manifest.clock == "monotonic"


def test_many_small_segments_hold_the_same_rows(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "SEGMENT_ROWS", 500)
    monkeypatch.setattr(faultstream, "WRITE_ROWS", 500)
    monkeypatch.setattr(faultstream, "HOLD_NS", 50_000_000)
    script = f"for i in 1 2 3 4 5 6; do {program} touch {PAGES}; sleep 0.1; done"

    trace = record(tmp_path, "sh", "-c", script)

    info = trace.manifest.tables["faults"]
    assert len(info.segments) > 1 and info.lost == 0 and info.rows > 6 * PAGES
    assert np.all(np.diff(trace.columns("faults", ["ts_ns"])["ts_ns"]) >= 0)


@pytest.mark.usefixtures("way")
def test_what_finds_no_room_is_counted_as_lost(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = faultstream.FaultStream._drain_once

    def drain_at_the_end(stream: faultstream.FaultStream) -> None:
        stream._stopping.wait()
        drain(stream)

    monkeypatch.setattr(faultstream.FaultStream, "_drain_once", drain_at_the_end)
    trace = record(tmp_path, program, "touch", str(4 * PAGES), buffer_bytes=16_384)

    info = trace.manifest.tables["faults"]
    assert info.lost > PAGES > info.rows and info.counted == info.rows + info.lost
    assert info.counted == sum(counted_by_wait4(trace))
    with pytest.raises(TraceError, match=f"{info.lost:,} of {info.counted:,} faults"):
        trace.require_whole(allow_loss=False)


def test_the_way_is_said_and_why_it_is_not_the_cheapest(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheapest = record(tmp_path, program, "touch", "7").manifest.collector["sources"]["faults"]

    def refuse(*_: object) -> None:
        raise CapabilityError("BPF program: refused to this user: run as root")

    monkeypatch.setattr("kdtool.kernel.bpf_faults.load_program", refuse)
    second = record(tmp_path / "second", program, "touch", "7").manifest.collector["sources"]["faults"]

    assert (cheapest["path"], second["path"]) == ("bpf", "perf")
    assert "refused" not in cheapest
    assert second["refused"] == {"bpf": "BPF program: refused to this user: run as root"}


def test_threads_have_names(program: str, tmp_path: Path) -> None:
    trace = record(tmp_path, "sh", "-c", f"{program} touch 7; true")

    tasks, names = trace.columns("tasks"), trace.names()
    found = [(int(pid), names[int(name)]) for pid, name in zip(tasks["pid"], tasks["name_id"], strict=True)]
    parent, child = list(dict.fromkeys(pid for pid, _ in found))
    assert found == [(parent, "sh"), (child, "sh"), (child, "faults")]


def test_no_bpf_program_is_left(program: str, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    record(tmp_path, program, "touch", "7")

    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.usefixtures("way")
def test_a_writer_that_is_too_slow_loses_in_the_ring_and_not_in_memory(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faultstream, "BACKLOG_BLOCKS", 1)
    monkeypatch.setattr(faultstream, "FLUSH_NS", 0)
    append = faultstream.FaultStream._append

    def append_slowly(stream: faultstream.FaultStream, faults: np.ndarray) -> None:
        time.sleep(0.3)
        append(stream, faults)

    monkeypatch.setattr(faultstream.FaultStream, "_append", append_slowly)
    script = f"for i in 1 2 3 4 5 6 7 8; do {program} touch {PAGES}; done"
    trace = record(tmp_path, "sh", "-c", script, buffer_bytes=65_536)

    info = trace.manifest.tables["faults"]
    assert info.lost > 0 and info.counted == info.rows + info.lost >= 8 * PAGES


def test_mappings_say_what_a_page_belongs_to(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, program, "touch", str(PAGES))

    start = first_page(capfd)
    vmas, names = trace.columns("vmas"), trace.names()
    holds = (vmas["start_vpn"] <= start) & (vmas["end_vpn"] >= start + PAGES)
    assert (vmas["flags"][holds] & (VmaFlag.READ | VmaFlag.WRITE | VmaFlag.FILE)).tolist() == [3]
    assert np.all(np.diff(vmas["ts_ns"]) >= 0)
    code = [names[int(i)] for i, flags in zip(vmas["name_id"], vmas["flags"], strict=True) if flags & 4]
    assert program in code and any("libc" in name for name in code)
    anonymous = {
        names[int(i)] for i, flags in zip(vmas["name_id"], vmas["flags"], strict=True) if not flags & 16
    }
    # Linux calls the heap so only when it grows again: the first brk is reported before it is the heap.
    assert "[stack]" in anonymous and anonymous <= {"", "[heap]", "[stack]"}


def test_mappings_of_what_lives_already_name_heap_and_stack() -> None:
    names = {row.name for row in read_maps(os.getpid(), 0)}

    assert {"", "[heap]", "[stack]"} <= names
    assert all(name.startswith("/") for name in names - {"", "[heap]", "[stack]"})


def test_a_writer_that_fails_ends_the_command_and_says_so(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faultstream, "FLUSH_NS", 0)

    def full(*_: object) -> None:
        raise TraceError("t.kdt: cannot be written: free some space")

    monkeypatch.setattr(faultstream.FaultStream, "_append", full)
    with pytest.raises(TraceError, match="free some space"):
        record(tmp_path, program, "linger", "10")

    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_where_and_how(program: str, tmp_path: Path) -> None:
    manifest = record(tmp_path, program, "touch", "10").manifest

    assert manifest.state == "complete"
    assert manifest.host["page_cluster"] == int(Path("/proc/sys/vm/page-cluster").read_text())
    assert manifest.host["kernel_release"] == os.uname().release
    assert manifest.collector["name"] == "faults"
    assert manifest.collector["overhead"]["cpu_ns"] > 0
    assert manifest.workload["wall_ns"] > 0


# ------------------------------------------------------------------------------------ how a command ends


def test_the_exit_code_is_sealed(tmp_path: Path) -> None:
    trace = record(tmp_path, "sh", "-c", "exit 7")

    assert trace.manifest.workload["exit_code"] == 7
    assert trace.manifest.state == "complete"


def test_the_signal_is_sealed(tmp_path: Path) -> None:
    trace = record(tmp_path, "sh", "-c", "kill -SEGV $$")

    assert trace.manifest.workload["exit_code"] == -signal.SIGSEGV


def test_a_program_whose_name_is_no_text_is_recorded(tmp_path: Path) -> None:
    program = os.fsdecode(os.fsencode(tmp_path) + b"/w\xff")
    shutil.copy("/bin/true", program)

    trace = record(tmp_path, "sh", "-c", '"$1" && exec "$1"', "sh", program)
    again = session.record(Request((program,), tmp_path / "again.kdt"), [Faults()])

    for each in (trace, again):
        assert each.manifest.workload["exit_code"] == 0
        assert any(name.startswith("w") and not name.isascii() for name in each.names().values())


@pytest.mark.parametrize("command", ["no-such-command", "/etc/passwd", "/"])
def test_what_cannot_be_started_leaves_no_trace(tmp_path: Path, command: str) -> None:
    with pytest.raises(CommandError, match=f"{command}: cannot be started: .*: give a program"):
        record(tmp_path, command)

    assert not (tmp_path / "t.kdt").exists()


def test_the_duration_ends_the_command_and_what_it_left(program: str, tmp_path: Path) -> None:
    start = time.monotonic()

    trace = record(tmp_path, program, "orphan", "10", duration_s=0.5)

    assert 0.5 < time.monotonic() - start < 5 + limited.GRACE_S
    assert trace.manifest.workload["ended_by"] == "duration"
    assert trace.manifest.workload["exit_code"] == 0


def test_a_daemon_is_asked_to_end_and_its_time_counts(tmp_path: Path) -> None:
    start = time.monotonic()

    trace = record(tmp_path, "sh", "-c", "setsid sleep 30 & sleep 0.1", duration_s=0.5)

    assert time.monotonic() - start < limited.GRACE_S
    assert trace.manifest.workload["ended_by"] == "duration"
    assert trace.manifest.workload["wall_ns"] > 0.4e9


def test_the_grace_of_a_daemon_that_goes_on_is_waited_for_in_sleep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "GRACE_S", 2.0)
    shell = "setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & sleep 0.1"
    cpu_s = time.process_time()

    facts = limited.run_limited(("sh", "-c", shell), None, duration_s=0.3)

    assert facts.ended_by == "duration" and facts.wall_ns > 2e9
    assert time.process_time() - cpu_s < 0.5


@pytest.mark.usefixtures("swap")
def test_an_oom_kill_is_told(program: str, tmp_path: Path) -> None:
    trace = record(tmp_path, program, "lock", str(64 * MIB // 4096), memory_mib=16)

    workload = trace.manifest.workload
    assert workload["oom_kills"] == 1 and workload["exit_code"] == -signal.SIGKILL
    line = limited.describe_failure(["prog"], workload, 16 * MIB, "look")
    assert line is not None and "memory limit of 16 MiB (signal SIGKILL): give more --memory" in line


def test_the_environment_is_passed_unchanged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, "env", "-0")

    said = dict(entry.split("=", 1) for entry in capfd.readouterr().out.split("\0") if entry)
    assert said == dict(os.environ)


@pytest.mark.usefixtures("swap")
def test_a_run_without_recording_gives_the_same_figures(program: str, tmp_path: Path) -> None:
    command = (program, "touch", str(PAGES))

    facts = run_limited(command, 64 * MIB)
    trace = record(tmp_path, *command, memory_mib=64)

    assert facts.exit_code == 0 and not facts.oom_killed
    assert facts.memory["limit_bytes"] == 64 * MIB
    assert abs(facts.minor_faults - trace.manifest.workload["minor_faults"]) < 20  # ASLR moves a few


# ------------------------------------------------------------------------------------ a living cgroup


def test_attaches_to_a_living_cgroup(program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with OwnCgroup(find_layout(), with_memory=False) as own, lingering(program, own):
        request = Request((), tmp_path / "t.kdt", cgroup=own.name, duration_s=0.5)
        trace = session.record(request, [Faults()])

    start = first_page(capfd)
    vpn = trace.columns("faults", ["vpn"])["vpn"]
    assert set(range(start, start + 10)) <= set(vpn.tolist())
    vmas = trace.columns("vmas")
    assert np.any((vmas["start_vpn"] <= start) & (vmas["end_vpn"] >= start + 10))
    assert trace.manifest.state == "complete"
    assert trace.manifest.workload["exit_code"] is None


class lingering:
    """A program that touches ten pages over and over in a cgroup, for a block."""

    def __init__(self, program: str, own: OwnCgroup) -> None:
        self._process = subprocess.Popen([program, "linger", "10"])
        for path in own.paths:
            (path / "cgroup.procs").write_text(str(self._process.pid))

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def test_a_missing_cgroup_is_named_with_the_nearest(tmp_path: Path) -> None:
    with OwnCgroup(find_layout(), with_memory=False) as own:
        request = Request((), tmp_path / "t.kdt", cgroup=own.name + "x")

        with pytest.raises(ParameterError, match=f"unknown cgroup .* did you mean '{own.name}'"):
            session.record(request, [Faults()])


def test_a_cgroup_of_the_memory_hierarchy_only_says_how_to_mend_it(tmp_path: Path) -> None:
    layout = find_layout()
    if layout.memory == layout.events:
        pytest.skip("pure v2: memory and events are one hierarchy")
    with OwnCgroup(layout, with_memory=True, with_events=False) as own:
        request = Request((), tmp_path / "t.kdt", cgroup=own.name)

        with pytest.raises(CapabilityError, match=r"exists for memory only.*mkdir -p"):
            session.record(request, [Faults()])


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"command": (), "cgroup": "/"}, "the root would record the whole machine"),
        ({"command": (), "cgroup": "a/../.."}, "the root would record the whole machine"),
        ({"command": ("true",), "cgroup": "x"}, "give one of --cgroup NAME, --pid PID and -- COMMAND"),
        ({"command": ()}, "give one of"),
        ({"command": (), "cgroup": "x", "memory_bytes": 64 * MIB}, "keeps its own"),
        ({"command": ("true",), "memory_bytes": 0}, "allowed: 4M or more"),
        ({"command": ("true",), "memory_bytes": MIB}, "allowed: 4M or more"),
        ({"command": ("true",), "duration_s": 0.0}, "allowed: more than 0"),
        ({"command": ("true",), "duration_s": float("nan")}, "duration nan s, allowed: more than 0"),
        ({"command": ("true",), "duration_s": float("inf")}, "duration inf s, allowed: more than 0"),
        ({"command": ("true",), "max_bytes": 0}, "--max-size 0 bytes, allowed: 1 or more"),
        ({"command": ("true",), "buffer_bytes": 4095}, "--buffer 4095 bytes, allowed: 4K to 1G"),
        ({"command": ("true",), "buffer_bytes": 1 << 40}, "--buffer 1099511627776 bytes, allowed"),
    ],
)
def test_refuses_what_it_cannot_record(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        session.record(Request(output=tmp_path / "t.kdt", **wrong), [Faults()])  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


def test_a_limit_without_swap_names_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "swap_devices", lambda: [])

    with pytest.raises(CapabilityError, match="no swap to page to: scripts/swap up"):
        record(tmp_path, "true", memory_mib=64)


# ------------------------------------------------------------------------------------ the command line


@contextmanager
def kdtool(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "kdtool", *arguments]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        killed(process),
    ):
        yield process


def ran(*arguments: str) -> tuple[int, str, str]:
    with kdtool(*arguments) as process:
        out, err = process.communicate(timeout=60)
        assert own_cgroups(process.pid) == []
        return process.returncode, out, err


def test_collect_prints_one_line(tmp_path: Path) -> None:
    code, out, err = ran("collect", "-o", str(tmp_path / "t.kdt"), "--", "true")

    assert (code, err) == (0, "")
    line = rf"{re.escape(str(tmp_path))}/t\.kdt: \d+ faults, 0 lost, \d+ major, exit code 0\n"
    assert re.fullmatch(line, out), out  # `true` itself may have to be read from disk


def test_collect_prints_json_and_the_commands_words_elsewhere(tmp_path: Path) -> None:
    code, out, err = ran("collect", "--json", "-o", str(tmp_path / "t.kdt"), "--", "echo", "-n", "hello")

    document = json.loads(out)
    assert (code, err) == (0, "hello")
    assert document["state"] == "complete" and document["workload"]["exit_code"] == 0
    assert document["tables"]["faults"]["rows"] == document["tables"]["faults"]["counted"]


def test_a_failed_command_is_one_line_and_exit_1(tmp_path: Path) -> None:
    code, _, err = ran("collect", "-o", str(tmp_path / "t.kdt"), "--", "sh", "-c", "exit 3")

    assert code == 1
    assert err == "kdtool: error: sh: failed with exit code 3: the trace is sealed and says so\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--events", "faults,refs", "--", "true"], 1, "faults and refs have no clock in common"),
        (["--events", "fault", "--", "true"], 1, "did you mean 'faults'"),
        (["--memory", "many", "--", "true"], 1, "size 'many'"),
        ([], 2, "nothing to record"),
    ],
)
def test_wrong_use_says_what_is_allowed(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    found, _, err = ran("collect", "-o", str(tmp_path / "t.kdt"), *arguments)

    assert found == code
    assert said in " ".join(err.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_seals_what_came_before(program: str, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "t.kdt"
    with kdtool("collect", "-o", str(path), "--", program, "linger", "10") as process:
        assert process.stdout is not None
        process.stdout.readline()  # the program runs

        process.send_signal(number)
        process.send_signal(number)  # an impatient user changes nothing
        _, err = process.communicate(timeout=30)

        assert process.returncode == 130
        assert own_cgroups(process.pid) == []
    assert "interrupted" in err
    assert Trace(path).manifest.state == "interrupted"
    assert Trace(path).rows("faults") > 10


def test_the_command_has_the_terminal_and_ctrl_c_ends_it(program: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    path = tmp_path / "t.kdt"
    script = f"read word; echo got $word; exec {program} linger 10"
    shell = f"exec {sys.executable} -m kdtool collect -o {path} -- sh -c '{script}'"
    command = ["setsid", "--ctty", "sh", "-c", shell]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process, killed(process):
        os.close(theirs)
        os.write(ours, b"hello\n")
        read_until(ours, r"got hello\s+\d+\s")  # the program has said where its pages are: it runs
        os.write(ours, b"\x03")

        assert process.wait(timeout=30) == 130
    os.close(ours)
    assert Trace(path).manifest.state == "interrupted"
    assert Trace(path).manifest.workload["exit_code"] == -signal.SIGINT


@contextmanager
def killed(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> Iterator[None]:
    """End a process when its block fails: a test that hangs says nothing."""
    try:
        yield
    except BaseException:
        process.terminate()
        raise


def read_until(fd: int, pattern: str) -> None:
    """Read from a terminal until `pattern` has come, for at most 20 s."""
    said = ""
    while not re.search(pattern, said):
        assert select.select([fd], [], [], 20)[0], f"{pattern!r} did not come, but {said!r}"
        said += os.read(fd, 4096).decode()


def test_what_a_killed_kdtool_left_is_reaped_by_the_next_when_its_program_has_ended(
    program: str, tmp_path: Path
) -> None:
    with kdtool("collect", "-o", str(tmp_path / "a.kdt"), "--", program, "linger", "10") as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = own_cgroups(process.pid)
        pids = {int(pid) for path in left for pid in (path / "cgroup.procs").read_text().split()}

        process.kill()
        process.wait()
    try:
        assert left and pids and own_cgroups(process.pid)
        record(tmp_path, "true")

        assert own_cgroups(process.pid) == left
        still = {int(pid) for path in left for pid in (path / "cgroup.procs").read_text().split()}
        assert still == pids  # the user's program goes on, under its limit
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    while any((path / "cgroup.procs").read_text() for path in left):
        time.sleep(0.01)
    (tmp_path / "later").mkdir()
    record(tmp_path / "later", "true")
    assert own_cgroups(process.pid) == []


AS_NOBODY = """
import ctypes, os, sys
from pathlib import Path
import kdtool.collect.recovery
from kdtool.collect import session
from kdtool.collect.base import Request
from kdtool.collect.faults import Faults
path = Path(sys.argv[1])
session.record(Request(("true",), path.with_name("warm.kdt")), [Faults()])  # imports what nobody may read
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is ours again
session.record(Request(tuple(sys.argv[2:]), path), [Faults()])
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may use: tmp_path is root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_without_privileges_the_faults_of_user_mode_are_recorded(program: str, public: Path) -> None:
    shutil.copy(program, public / "faults")
    command = (sys.executable, "-c", AS_NOBODY, public / "t.kdt", public / "faults", "fork", str(PAGES))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    trace = Trace(public / "t.kdt")
    facts = trace.manifest.collector["sources"]["faults"]
    assert facts["path"] == "perf of tasks"
    assert facts["scope"] == "only the faults of user mode, not those of system calls"
    assert "CAP_PERFMON" in facts["refused"]
    start, faults = int(done.stdout.split()[0]), trace.columns("faults")
    inside = (faults["vpn"] >= start) & (faults["vpn"] < start + PAGES)
    assert inside.sum() == PAGES and trace.manifest.tables["faults"].lost == 0
    assert len(faults["vpn"]) <= sum(counted_by_wait4(trace))
    assert (trace.path.stat().st_uid, len(np.unique(faults["pid"]))) == (65534, 2)


def test_attaches_to_a_living_process_and_what_it_starts(program: str, tmp_path: Path) -> None:
    script = f"read _; {program} touch {PAGES}; {program} touch {PAGES}; read _"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        threading.Timer(1.0, lambda: (process.stdin.write(b"\n"), process.stdin.flush())).start()
        threading.Timer(2.5, process.stdin.close).start()
        trace = session.record(Request((), tmp_path / "t.kdt", pid=process.pid), [Faults()])
        starts = [int(line) for line in process.stdout.read().split()]

    faults = trace.columns("faults")
    inside = [((faults["vpn"] >= start) & (faults["vpn"] < start + PAGES)).sum() for start in starts]
    assert len(inside) == 2 and min(inside) >= PAGES
    assert trace.manifest.workload["ended_by"] == "process"
    assert trace.manifest.tables["faults"].lost == 0
    assert "scope" not in trace.manifest.collector["sources"]["faults"]


def test_the_mappings_of_another_users_process_are_refused_in_one_line() -> None:
    script = (
        "import os\nfrom kdtool.collect.mappings import read_maps\n"
        "os.setuid(65534)\nread_maps(os.getppid(), 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    said = f"CapabilityError: /proc/{os.getpid()}/maps: refused to this user: run as"
    assert said in done.stderr
