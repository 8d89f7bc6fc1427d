"""The accelerator collector, against real commands of real OpenCL programs on PoCL."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import needs
import numpy as np
import pytest

from kdtool.collect import compiled, opencl, session
from kdtool.collect.accel import Accel, Merger
from kdtool.collect.accelclock import CLOCKS, DeviceClock, SystemClocks
from kdtool.collect.accelspool import HEADER, HEADER_BYTES, MAGIC, NAME, SLOT, ProcessSpool, State
from kdtool.collect.base import Request
from kdtool.collect.recovery import recover
from kdtool.errors import CapabilityError
from kdtool.kernel.cgroup import find_layout
from kdtool.traces import AccelKind, Manifest, Trace, TraceWriter

KIND_OF = {
    "Read": AccelKind.D2H,
    "Map": AccelKind.D2H,
    "Write": AccelKind.H2D,
    "Unmap": AccelKind.H2D,
    "Copy": AccelKind.D2D,
    "SVMMemcpy": AccelKind.D2D,
    "Fill": AccelKind.MEMSET,
    "SVMMemFill": AccelKind.MEMSET,
    "SVMMap": AccelKind.D2H,
    "SVMUnmap": AccelKind.H2D,
    "Migrate": AccelKind.MIGRATE,
    "SVMMigrate": AccelKind.MIGRATE,
    "Native": AccelKind.KERNEL,
}

Counts = dict[str, tuple[int, int]]


@pytest.fixture(scope="session")
def clprime(tmp_path_factory: pytest.TempPathFactory) -> str:
    return needs.compiled(tmp_path_factory.mktemp("accel"), "clprime", "-lOpenCL", "-lpthread")


@pytest.fixture(autouse=True)
def _pocl_only_and_nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OCL_ICD_VENDORS", str(needs.POCL))
    yield
    for hierarchy in (find_layout().memory, find_layout().events):
        assert hierarchy is None or not list(hierarchy.root.glob(f"kdtool-{os.getpid()}-*"))


def record(tmp_path: Path, *command: str) -> Trace:
    return session.record(Request(command, tmp_path / "t.kdt"), [Accel()])


def by_name(trace: Trace) -> Counts:
    """Return how many commands of each name there are, and their bytes."""
    rows, names = trace.columns("accel"), trace.columns("names")
    texts = dict(zip(names["name_id"].tolist(), names["name"].tolist(), strict=True))
    counts: Counts = {}
    for name, size in zip(rows["name_id"].tolist(), rows["bytes"].tolist(), strict=True):
        n, total = counts.get(texts[name], (0, 0))
        counts[texts[name]] = n + 1, total + size
    return counts


def said(capfd: pytest.CaptureFixture[str]) -> Counts:
    """Return what the program counted itself."""
    words = [line.split() for line in capfd.readouterr().out.splitlines()]
    return {name: (int(n), int(size)) for name, n, size in words}


def traced_by_pocl(path: Path) -> list[tuple[int, str]]:
    """Return end (CLOCK_MONOTONIC_RAW, ns) and kind of each command in the text that PoCL itself traces."""
    lines = [[field.strip() for field in line.split("|")] for line in path.read_text().splitlines()]
    return [(int(line[0]), line[4]) for line in lines if len(line) > 5 and line[5] == "complete"]


def facts(trace: Trace) -> dict[str, object]:
    found: dict[str, object] = trace.manifest.collector["sources"]["accel"]["opencl"]
    return found


def balance(trace: Trace) -> tuple[int, int, int]:
    table = trace.manifest.tables["accel"]
    return table.counted, table.rows, table.lost


# --------------------------------------------------------------------------------- programs of known counts


@needs.opencl
def test_a_prime_number_of_commands_of_each_kind_is_found_exactly(
    tmp_path: Path, clprime: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCL_TRACING", "text")
    monkeypatch.setenv("POCL_TRACING_OPT", str(tmp_path / "pocl.txt"))
    start_ns = time.monotonic_ns()

    trace = record(tmp_path, clprime, "prime")

    counted = said(capfd)
    assert counted.pop("timed")[0] == 370  # of the program's own events
    assert by_name(trace) == counted
    assert balance(trace) == (1009 + 503 + 251, 1009 + 503 + 251, 0)
    pocl = Counter(name for _, name in traced_by_pocl(tmp_path / "pocl.txt"))
    assert (pocl["ndrange_kernel"], pocl["write_buffer"], pocl["read_buffer"]) == (1009, 503, 251)
    rows = trace.columns("accel")
    assert set(rows["queue"].tolist()) == {0, 1}
    assert set(rows["device"].tolist()) == {0}
    times = [rows[f"{each}_ns"] for each in ("queued", "submit", "start", "end")]
    assert np.all(np.diff(times, axis=0) >= 0)
    assert np.all(np.diff(rows["queued_ns"]) >= 0)
    assert times[0].min() > start_ns
    assert times[3].max() < time.monotonic_ns()


@needs.opencl
def test_the_times_are_those_that_pocl_itself_traces(
    tmp_path: Path, clprime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCL_TRACING", "text")
    monkeypatch.setenv("POCL_TRACING_OPT", str(tmp_path / "pocl.txt"))
    before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)

    trace = record(tmp_path, clprime, "refused")

    ends = [end_ns for end_ns, name in traced_by_pocl(tmp_path / "pocl.txt") if name == "write_buffer"]
    assert len(ends) == 5
    assert np.abs(trace.columns("accel")["end_ns"] - (np.array(ends) + before_ns)).max() < 50_000
    (device,) = facts(trace)["devices"]  # type: ignore[misc]
    assert device["clock"] == ["CLOCK_MONOTONIC_RAW"]
    assert device["uncertainty_ns"] < 20_000
    assert "Portable Computing Language" in device["name"]


@needs.opencl
def test_every_other_kind_of_command_is_a_row_of_its_name_kind_and_bytes(
    tmp_path: Path, clprime: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trace = record(tmp_path, clprime, "kinds")

    counted = said(capfd)
    assert len(counted) >= 20
    n, size = counted["clEnqueueUnmapMemObject"]
    counted["clEnqueueUnmapMemObject"] = (
        n + ("clEnqueueMapImage" in counted),
        size,
    )  # read only: no bytes back
    assert by_name(trace) == counted
    rows, names = trace.columns("accel"), trace.columns("names")["name"].tolist()
    for name, kind in zip(rows["name_id"], rows["kind"], strict=True):
        words = [verb for verb in KIND_OF if names[name].startswith(f"clEnqueue{verb}")]
        assert kind == (KIND_OF[max(words, key=len)] if words else AccelKind.KERNEL), names[name]


@needs.opencl
def test_commands_that_never_complete_are_lost_and_counted(tmp_path: Path, clprime: str) -> None:
    trace = record(tmp_path, clprime, "leave")

    assert balance(trace) == (97 + 13, 97, 13)
    assert facts(trace)["lost"] == {"unfinished": 13}
    assert trace.manifest.workload["exit_code"] == 0


@needs.opencl
def test_a_killed_program_loses_only_what_had_not_completed(tmp_path: Path, clprime: str) -> None:
    trace = record(tmp_path, clprime, "killed")

    assert trace.manifest.workload["exit_code"] == -signal.SIGKILL
    assert balance(trace) == (101 + 7, 101, 7)
    assert by_name(trace) == {"scale": (101, 0)}


@needs.opencl
def test_an_enqueue_that_is_refused_makes_no_row(tmp_path: Path, clprime: str) -> None:
    trace = record(tmp_path, clprime, "refused")

    assert balance(trace) == (5, 5, 0)
    assert by_name(trace) == {"clEnqueueWriteBuffer": (5, 5 * 65536)}


@needs.opencl
def test_parent_and_child_have_rows_of_their_own(tmp_path: Path, clprime: str) -> None:
    trace = record(tmp_path, clprime, "fork")

    assert balance(trace) == (42, 42, 0)
    assert sorted(Counter(trace.columns("accel")["pid"].tolist()).values()) == [19, 23]
    assert facts(trace)["processes"] == 2
    assert len(facts(trace)["devices"]) == 1  # type: ignore[arg-type]


@needs.opencl
def test_a_queue_without_profiling_is_recorded_and_looks_as_asked_for(tmp_path: Path, clprime: str) -> None:
    trace = record(tmp_path, clprime, "profiling")

    assert trace.manifest.workload["exit_code"] == 0
    assert by_name(trace) == {"shift": (17, 0)}


@needs.opencl
def test_a_pyopencl_program_is_recorded(tmp_path: Path) -> None:
    pytest.importorskip("pyopencl", reason="pyopencl is not installed")
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np, pyopencl as cl\n"
        "context = cl.create_some_context(interactive=False)\n"
        "queue, x = cl.CommandQueue(context), np.arange(1000, dtype=np.float32)\n"
        "buffer = cl.Buffer(context, cl.mem_flags.READ_WRITE, x.nbytes)\n"
        "source = '__kernel void twice(__global float *x) { x[get_global_id(0)] *= 2; }'\n"
        "kernel = cl.Kernel(cl.Program(context, source).build(), 'twice')\n"
        "for _ in range(31): cl.enqueue_copy(queue, buffer, x)\n"
        "for _ in range(53): kernel(queue, (1000,), None, buffer)\n"
        "for _ in range(17): cl.enqueue_copy(queue, x, buffer)\n"
        "queue.finish()\n"
    )

    trace = record(tmp_path, sys.executable, str(program))

    assert by_name(trace) == {
        "twice": (53, 0),
        "clEnqueueWriteBuffer": (31, 31 * 4000),
        "clEnqueueReadBuffer": (17, 17 * 4000),
    }


@needs.opencl
def test_a_program_without_opencl_has_no_rows_and_the_trace_says_so(tmp_path: Path) -> None:
    trace = record(tmp_path, "true")

    assert balance(trace) == (0, 0, 0)
    assert facts(trace)["note"] == "no process of the command loaded OpenCL"


@needs.opencl
def test_a_full_disk_is_counted_and_not_the_programs_end(tmp_path: Path, clprime: str) -> None:
    room = HEADER_BYTES + 4 * 8192 * SLOT.itemsize  # PoCL itself writes files of almost a quarter
    environment = dict(os.environ) | {"OPENCL_LAYERS": str(opencl.build_layer())}
    environment["KDTOOL_ACCEL_SPOOL"] = str(tmp_path)
    done = subprocess.run(
        [clprime, "bench", "40000"],
        env=environment,
        check=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert int(done.stdout) > 0

    (path,) = tmp_path.glob("*.cl")
    with closing(ProcessSpool(path)) as spool:
        batch = spool.take(final=True)

    made = int(np.count_nonzero(batch.slots["state"] == State.DONE))
    clocks = int(np.count_nonzero(batch.slots["state"] == State.CLOCK))
    assert made + clocks == 4 * 8192
    assert batch.lost == {"no_room": 40_000 + 100 - made}


@needs.opencl
def test_a_killed_recorder_leaves_what_was_spooled(tmp_path: Path, clprime: str) -> None:
    path = tmp_path / "t.kdt"
    command = [sys.executable, "-m", "kdtool", "collect", "--events", "accel", "-o", str(path), "--"]
    recorder = subprocess.Popen([*command, clprime, "bench", "100000000"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    sizes = [0]
    while sizes[-1] < 50_000 or sizes[-1] != sizes[-2]:  # a batch is on its way as long as the file grows
        assert time.monotonic() < deadline
        time.sleep(0.1)
        sizes.append(sum(each.stat().st_size for each in path.glob("spool/accel-*.arrows")))
    (program,) = {int(each.name.partition("-")[0]) for each in path.glob("spool/accel/*.cl")}
    recorder.kill()
    recorder.wait()
    os.kill(program, signal.SIGKILL)

    assert recover(path)
    trace = Trace(path)

    assert trace.manifest.state == "interrupted"
    assert trace.manifest.tables["accel"].rows > 500
    assert not (path / "spool").exists()
    record(tmp_path / "next", "true")  # takes down the cgroup that the killed one left


# ----------------------------------------------------------------------------------------- what is refused


@needs.opencl
def test_a_living_cgroup_is_refused_since_a_layer_cannot_enter_it(tmp_path: Path) -> None:
    request = Request((), tmp_path / "t.kdt", pid=os.getpid(), duration_s=0.1)

    with pytest.raises(CapabilityError, match="or give -- COMMAND"):
        session.record(request, [Accel()])


def test_a_missing_compiler_or_header_names_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = Accel().unavailable()
    assert problem is not None
    assert (problem.reason, problem.fix) == ("gcc is not installed", f"apt-get install {opencl.PACKAGES}")

    gcc = tmp_path / "gcc"
    gcc.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo 1 && exit\necho 'fatal error: CL/cl.h: gone' >&2\nexit 1"
    )
    gcc.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    problem = Accel().unavailable()
    assert problem is not None
    assert problem.reason == "gcc cannot compile cllayer.c (CL/cl.h: gone)"
    assert "ocl-icd-opencl-dev" in problem.fix


@needs.opencl
def test_a_loader_that_loads_no_layers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl, "LAYERS", "AN_OLD_LOADER_HEEDS_NONE")

    problem = Accel().unavailable()

    assert problem is not None
    assert "2.3 or later" in problem.fix


@needs.opencl
def test_the_users_own_layers_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENCL_LAYERS", "/opt/theirs.so")
    with TraceWriter(tmp_path / "t.kdt") as writer:
        source = opencl.OpenCl(writer.spool / "accel", writer, {})
        assert source.environment["OPENCL_LAYERS"] == f"/opt/theirs.so:{opencl.build_layer()}"


@needs.opencl
def test_a_cache_folder_with_a_colon_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a:b"))
    with pytest.raises(CapabilityError, match="set XDG_CACHE_HOME"):
        opencl.build_layer()


@needs.gcc
def test_a_cache_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    with pytest.raises(CapabilityError, match="set XDG_CACHE_HOME to a folder of yours"):
        compiled.build(("cllayer.c", "clspool.h"), "gcc")


# ----------------------------------------------------------------------------------------------- the spool


@contextmanager
def spool_of(
    tmp_path: Path, slots: "np.ndarray[object, object]", header: dict[str, int] | None = None
) -> Iterator[ProcessSpool]:
    fields = np.zeros(1, HEADER)
    given = {"magic": MAGIC, "slot_bytes": SLOT.itemsize, "pid": 7, "slots": len(slots)} | (header or {})
    for name, value in given.items():
        fields[name] = value
    path = tmp_path / "7-0.cl"
    path.write_bytes(fields.tobytes().ljust(HEADER_BYTES, b"\0") + slots.tobytes())
    record = np.array([(0, 0, 3)], NAME).tobytes() + b"abc"
    path.with_suffix(".names").write_bytes(record + record[:5])
    with closing(ProcessSpool(path)) as spool:
        yield spool


def slots_in(*states: State) -> "np.ndarray[object, object]":
    slots = np.zeros(len(states), SLOT)
    slots["state"] = states
    slots["before_ns"] = np.arange(len(states)) + 100
    return slots


def test_slots_are_taken_up_to_the_first_open_one_and_all_in_the_end(tmp_path: Path) -> None:
    slots = slots_in(State.DONE, State.REFUSED, State.FAILED, State.PENDING, State.DONE, State.EMPTY)
    with spool_of(tmp_path, slots) as spool:
        with (tmp_path / "7-0.cl").open("rb") as living:
            fcntl.flock(living, fcntl.LOCK_EX)
            first = spool.take(final=False)
            again = spool.take(final=False)
        last = spool.take(final=False)  # the process has gone: it holds its lock no more

    assert (len(first.slots), first.before_ns, first.lost) == (1, 103, {"failed": 1})
    assert (len(again.slots), again.before_ns, again.lost) == (0, 103, {})
    assert (len(last.slots), last.lost, spool.ended) == (1, {"unfinished": 1}, True)
    assert spool.names == {(0, 0): "abc"}


@pytest.mark.parametrize(
    "header", [{"magic": 1}, {"slot_bytes": 95}, {"slots": 2**63}], ids=["magic", "slot_bytes", "slots"]
)
def test_a_malformed_header_is_not_believed(tmp_path: Path, header: dict[str, int]) -> None:
    with spool_of(tmp_path, slots_in(State.DONE), header) as spool:
        batch = spool.take(final=True)

    assert len(batch.slots) == (1 if "slots" in header else 0)


def test_a_file_cut_inside_its_header_is_empty(tmp_path: Path) -> None:
    with spool_of(tmp_path, slots_in(State.DONE)) as spool:
        os.truncate(tmp_path / "7-0.cl", 20)

        assert len(spool.take(final=True).slots) == 0


def test_a_file_that_has_just_been_made_is_looked_at_again(tmp_path: Path) -> None:
    """Its process takes the lock only then, and writes the header last."""
    with spool_of(tmp_path, slots_in(State.DONE)) as spool:
        whole = (tmp_path / "7-0.cl").read_bytes()
        (tmp_path / "7-0.cl").write_bytes(b"")
        made = spool.take(final=False)
        ended = spool.ended
        (tmp_path / "7-0.cl").write_bytes(whole)
        last = spool.take(final=False)

    assert (len(made.slots), made.before_ns, ended) == (0, 0, False)
    assert (len(last.slots), spool.ended) == (1, True)


def test_the_declared_length_of_a_name_is_not_believed(tmp_path: Path) -> None:
    with spool_of(tmp_path, slots_in(State.DONE)) as spool:
        (tmp_path / "7-0.names").write_bytes(np.array([(0, 0, 2**32 - 1)], NAME).tobytes() + b"abc")
        spool.take(final=True)

    assert spool.names == {}


# ----------------------------------------------------------------------------------------------- the clock


def commands(
    device_ns: Callable[["np.ndarray[object, object]"], "np.ndarray[object, object]"], n: int
) -> "np.ndarray[object, object]":
    """Return `n` commands over 5 s, a call of 20 us and a run of 300 us each, stamped by a device's clock."""
    system_ns = time.monotonic_ns() + np.linspace(0, 5e9, n).astype(np.int64)
    slots = np.zeros(n, SLOT)
    slots["before_ns"], slots["after_ns"], slots["done_ns"] = (
        system_ns,
        system_ns + 20_000,
        system_ns + 330_000,
    )
    for name, late in (("queued", 5_000), ("submit", 30_000), ("start", 40_000), ("end", 320_000)):
        slots[name] = device_ns(system_ns + late)
    return slots


@pytest.mark.parametrize("name", ["CLOCK_MONOTONIC_RAW", "CLOCK_REALTIME"])
def test_a_device_on_a_clock_of_the_system_is_recognised(name: str) -> None:
    system = SystemClocks()
    system.sample()
    offset = max(time.monotonic_ns() - time.clock_gettime_ns(CLOCKS[name]) for _ in range(100))
    clock = DeviceClock(system)

    offsets = clock.offsets(commands(lambda t: t - offset, 1000))

    assert clock.method == name
    assert np.abs(offsets - offset).max() <= clock.uncertainty_ns + 1_000
    assert clock.uncertainty_ns < 20_000


def test_a_clock_of_its_own_that_drifts_is_bounded_by_the_commands() -> None:
    system = SystemClocks()
    system.sample()
    clock = DeviceClock(system)
    began = time.monotonic_ns()
    slots = commands(lambda t: (t - began) + (t - began) // 1_000_000 + 777, 5000)  # 1 ppm fast

    offsets = clock.offsets(slots)

    true = slots["before_ns"] + 5_000 - slots["queued"].astype(np.int64)
    assert clock.method == "bounds"
    assert 5_000 <= clock.uncertainty_ns <= 20_000
    assert np.abs(offsets - true).max() <= clock.uncertainty_ns


def test_a_sample_of_the_devices_timer_tightens_the_bounds() -> None:
    system = SystemClocks()
    system.sample()
    wide = commands(lambda t: t - 10**15, 100)
    wide["after_ns"] += 40_000_000
    timer = np.array(wide[50:51])
    timer["state"] = State.CLOCK
    timer["queued"] = timer["end"] = timer["before_ns"] + 100 - 10**15
    timer["after_ns"] = timer["done_ns"] = timer["before_ns"] + 200
    with_timer, without = DeviceClock(system), DeviceClock(system)

    without.offsets(wide)
    with_timer.offsets(np.concatenate([wide[:51], timer, wide[51:]]))

    assert with_timer.uncertainty_ns <= without.uncertainty_ns
    assert without.uncertainty_ns <= 10_000


# ------------------------------------------------------------------------------------------------ the order


def test_rows_wait_for_earlier_ones_of_other_processes(tmp_path: Path) -> None:
    def rows(*queued_ns: int) -> dict[str, "np.ndarray[object, object]"]:
        names = (
            "submit_ns",
            "start_ns",
            "end_ns",
            "pid",
            "device",
            "queue",
            "kind",
            "bytes",
            "address",
            "name_id",
        )
        return {"queued_ns": np.array(queued_ns)} | {
            name: np.zeros(len(queued_ns), np.int16) for name in names
        }

    with TraceWriter(tmp_path / "t.kdt") as writer:
        merger = Merger(writer)
        merger.add(rows(10, 30, 50))
        merger.flush(40)
        assert writer.rows == 2
        merger.add(rows(45, 60))
        merger.flush()
        trace = writer.seal(Manifest("complete", "monotonic", ["test"], {"name": "test"}))

    assert trace.columns("accel")["queued_ns"].tolist() == [10, 30, 45, 50, 60]
