"""PyTorch profiler traces: a real recording, one kept in golden/, GPU events by hand, and damaged files."""

import gzip
import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from accel_rows import grown_mib, refused, rows_of

from kdtool.errors import TraceError
from kdtool.traces import AccelKind
from kdtool.traces.importers import import_trace, kineto

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "kineto-cpu.json"
torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")

BASE_NS = 1_790_857_026_000_000_000


def write(path, events, **members):
    """Write a trace as the profiler does: what it says of itself comes first."""
    head = {"schemaVersion": 1, "baseTimeNanoseconds": BASE_NS} | members
    path.write_text(json.dumps(head | {"traceEvents": events, "traceName": "t"}))
    return path


def span(cat, name, ts, dur, pid=0, tid=7, **args):
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def gpu_events():
    """Return a GPU's events and their calls, in the order of the profiler: the host's first."""
    return [
        {"ph": "M", "name": "process_name", "pid": 0, "ts": 0, "args": {"name": "python"}},
        span("cpu_op", "aten::mm", 1, 90, 4242, 4242),
        span("cuda_runtime", "cudaLaunchKernel", 10, 5, 4242, 4242, cbid=211, correlation=51),
        span("cuda_driver", "cuLaunchKernel", 11, 3, 4242, 4242, cbid=307, correlation=51),
        span("cuda_runtime", "cudaMemcpyAsync", 20, 6, 4242, 4242, correlation=52),
        span("cuda_runtime", "cudaDeviceSynchronize", 40, 60, 4242, 4242, correlation=0),
        {"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "ts": 3, "args": {"Bytes": 512}},
        span("python_function", "x.py(1): f", 0, 99, 4242, 4242),
        span("gpu_memset", "Memset (Device)", 70, 1, device=0, stream=7, correlation=53, bytes=512),
        span("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 60, 1, device=0, stream=9, bytes=64),
        span("gpu_memcpy", "Memcpy HtoD (Host)", 30, 8, device=1, stream=9, correlation=52, bytes=9),
        span("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 50, 1, device=0, stream=7, bytes=65),
        span("gpu_memcpy", "Memcpy HtoH (Pageable -> Pinned)", 55, 1, device=0, stream=7, bytes=66),
        span("kernel", "ampere_sgemm<{\"[}]\\\"}>", 25, 20, device=0, stream=7, correlation=51),
        {"ph": "s", "id": 51, "cat": "ac2g", "name": "ac2g", "ts": 10, "pid": 4242, "tid": 4242},
        {"ph": "f", "id": 51, "cat": "ac2g", "name": "ac2g", "ts": 25, "pid": 0, "tid": 7, "bp": "e"},
        span("gpu_user_annotation", "step", 25, 50),
    ]  # fmt: skip


@torch
def test_a_recording_of_a_prime_number_of_products_has_exactly_those(tmp_path):
    """1,009 matmuls by a real torch.profiler; its own counts are the second source, for every operator."""
    program, file = HERE / "programs" / "torch_matmuls.py", tmp_path / "t.json"
    run = subprocess.run(
        [sys.executable, str(program), "1009", str(file)], capture_output=True, text=True, check=True
    )
    counts = json.loads(run.stdout.splitlines()[-1])
    instants = counts.pop("[memory]", 0)
    trace = import_trace("kineto", file, tmp_path / "t.kdt")
    rows = rows_of(trace, "name", "start_ns", "end_ns", "queue", "pid")
    assert Counter(row[0] for row in rows) == counts
    assert counts["aten::mm"] == counts["aten::matmul"] == 1009
    outer = [row for row in rows if row[0] == "aten::matmul"]
    inner = [row for row in rows if row[0] == "aten::mm"]
    for (_, start, end, *thread), (_, start_in, end_in, *thread_in) in zip(outer, inner, strict=True):
        assert start <= start_in <= end_in <= end
        assert thread == thread_in
    assert instants
    assert trace.manifest.collector["skipped"]["cpu_instant_event"] >= instants


def test_the_kept_recording_gives_its_operators_with_exact_times(tmp_path):
    trace = import_trace("kineto", GOLDEN, tmp_path / "t.kdt")
    rows = rows_of(trace, "name", "kind", "device", "start_ns", "end_ns", "queued_ns", "pid", "queue")
    assert Counter(row[0] for row in rows) == {
        "aten::matmul": 13,
        "aten::mm": 13,
        "aten::resolve_conj": 39,
        "aten::add": 1,
        "aten::relu": 1,
        "aten::clamp_min": 1,
    }
    document = json.loads(GOLDEN.read_text(), parse_float=Decimal)
    expected = [
        (
            event["name"],
            AccelKind.KERNEL,
            -1,
            start,
            start + int(event["dur"] * 1000),
            -1,
            event["pid"],
            event["tid"],
        )
        for event in document["traceEvents"]
        if event.get("cat") == "cpu_op"
        for start in [document["baseTimeNanoseconds"] + int(event["ts"] * 1000)]
    ]
    assert rows == sorted(expected, key=lambda row: (row[3], -row[4]))
    assert trace.manifest.clock == "realtime"
    assert trace.manifest.collector["events"] == "cpu_op"
    assert trace.manifest.collector["skipped"] == {
        "Trace": 1,
        "cpu_instant_event": 30,
        "ph M": 8,
        "ph i": 2,
    }


def test_gpu_work_comes_out_in_order_with_when_it_was_asked_for(tmp_path):
    trace = import_trace("kineto", write(tmp_path / "t.json", gpu_events()), tmp_path / "t.kdt")
    columns = ("start_ns", "end_ns", "queued_ns", "submit_ns", "kind", "bytes", "device", "queue", "pid")
    assert [
        tuple(value - BASE_NS if value > BASE_NS else value for value in row)
        for row in rows_of(trace, *columns)
    ] == [
        (25_000, 45_000, 10_000, 15_000, AccelKind.KERNEL, 0, 0, 7, 4242),
        (30_000, 38_000, 20_000, 26_000, AccelKind.H2D, 9, 1, 9, 4242),
        (50_000, 51_000, -1, -1, AccelKind.D2D, 65, 0, 7, -1),
        (60_000, 61_000, -1, -1, AccelKind.D2H, 64, 0, 9, -1),
        (70_000, 71_000, -1, -1, AccelKind.MEMSET, 512, 0, 7, -1),
    ]
    assert rows_of(trace, "name")[0] == ('ampere_sgemm<{"[}]\\"}>',)


def test_what_is_left_out_is_counted_by_category(tmp_path):
    trace = import_trace("kineto", write(tmp_path / "t.json", gpu_events()), tmp_path / "t.kdt")
    assert trace.manifest.collector["events"] == "device"
    assert trace.manifest.collector["skipped"] == {
        "ac2g": 2,
        "cpu_instant_event": 1,
        "cpu_op": 1,
        "cuda_runtime": 1,  # the synchronization: no work has its correlation
        "gpu_memcpy of no known direction": 1,
        "gpu_user_annotation": 1,
        "ph M": 1,
        "python_function": 1,
    }


def test_operators_are_left_out_wherever_the_gpu_comes_in_the_file(tmp_path):
    cpu, gpu = span("cpu_op", "aten::add", 1, 1, 5, 5), span("kernel", "k", 2, 1, device=0, stream=7)
    for number, events in enumerate([[cpu, gpu], [gpu, cpu], [cpu] * 40_000 + [gpu] + [cpu]]):
        trace = import_trace("kineto", write(tmp_path / "t.json", events), tmp_path / f"{number}.kdt")
        assert rows_of(trace, "name") == [("k",)]
        assert trace.manifest.collector["skipped"] == {"cpu_op": len(events) - 1}


def test_the_words_of_old_versions_and_of_other_devices_are_known(tmp_path):
    """PyTorch 1.8 wrote Kernel, Memcpy, Runtime, with times since 1970 in µs; the XPU copies M2D."""
    events = [
        span("Runtime", "cudaLaunchKernel", 1_650_000_000_000_000, 2, 7, 7, correlation=3),
        span("Kernel", "k", 1_650_000_000_000_010, 2, device=0, stream=7, correlation=3),
        span("Memcpy", "Memcpy DtoH (Device -> Pageable)", 1_650_000_000_000_020, 2, device=0, stream=7),
        span("gpu_memcpy", "Memcpy M2D(Memory->Device)", 1_650_000_000_000_030, 2, device=0, stream=7),
    ]
    path = write(tmp_path / "t.json", events, baseTimeNanoseconds=0)
    trace = import_trace("kineto", path, tmp_path / "t.kdt")
    assert rows_of(trace, "start_ns", "queued_ns", "kind") == [
        (1_650_000_000_000_010_000, 1_650_000_000_000_000_000, AccelKind.KERNEL),
        (1_650_000_000_000_020_000, -1, AccelKind.D2H),
        (1_650_000_000_000_030_000, -1, AccelKind.H2D),
    ]


def test_nanoseconds_are_exact_where_a_float_is_not(tmp_path):
    """A double has 53 bits: baseTimeNanoseconds + ts * 1000 in floats is wrong by up to 128 ns."""
    rng = random.Random(5)
    times = [rng.randrange(10**15, 10**16) for _ in range(1009)]
    text = ",".join(
        f'{{"ph":"X","cat":"kernel","name":"k","ts":{ns // 1000}.{ns % 1000:03d},"dur":0.001,'
        f'"args":{{"device":0,"stream":1}}}}'
        for ns in times
    )
    path = tmp_path / "t.json"
    path.write_text(f'{{"traceEvents":[{text}],"baseTimeNanoseconds":{BASE_NS + 1}}}')
    trace = import_trace("kineto", path, tmp_path / "t.kdt")
    expected = [(BASE_NS + 1 + ns, BASE_NS + 2 + ns) for ns in sorted(times)]
    assert rows_of(trace, "start_ns", "end_ns") == expected
    as_float = [int(float(f"{ns // 1000}.{ns % 1000:03d}") * 1000 + BASE_NS + 1) for ns in sorted(times)]
    assert as_float != [start for start, _ in expected]


def test_gzip_gives_the_same_rows(tmp_path):
    zipped = tmp_path / "t.json.gz"
    zipped.write_bytes(gzip.compress(GOLDEN.read_bytes()))
    plain = import_trace("kineto", GOLDEN, tmp_path / "a.kdt")
    unzipped = import_trace("kineto", zipped, tmp_path / "b.kdt")
    columns = ("start_ns", "end_ns", "name", "queue")
    assert rows_of(plain, *columns) == rows_of(unzipped, *columns)


@pytest.mark.parametrize("indent", [None, 1])
def test_events_that_cross_the_window_are_whole(tmp_path, indent, monkeypatch):
    """Windows of 1 to 97 characters cut every token somewhere; the rows are those of one large window."""
    path = tmp_path / "t.json"
    document = {"baseTimeNanoseconds": BASE_NS, "traceEvents": gpu_events(), "last": 12345}
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=False) + " \n")
    columns = ("start_ns", "end_ns", "name", "queue", "queued_ns")
    whole = rows_of(import_trace("kineto", path, tmp_path / "whole.kdt"), *columns)
    for chars in (1, 2, 3, 7, 97):
        monkeypatch.setattr("kdtool.traces.importers.jsonstream.READ_CHARS", chars)
        trace = import_trace("kineto", path, tmp_path / f"{chars}.kdt")
        assert rows_of(trace, *columns) == whole


def test_memory_is_bounded_by_the_window_and_not_the_file(tmp_path):
    """200,003 events, 60 MB of JSON, which json.load makes 400 MiB of."""
    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write('{"traceEvents": [\n')
        for i in range(200_003):
            event = span("kernel", f"k{i % 7}", i * 7919 % 200_003, 0.5, device=0, stream=7, correlation=i)
            file.write(json.dumps(event | {"pad": "x" * 150}) + (",\n" if i < 200_002 else "\n"))
        file.write("]}")
    rows, grown = grown_mib("kineto", GOLDEN, path, tmp_path)
    assert rows == 200_003
    assert grown < 150


def test_a_gzip_bomb_is_refused_without_unpacking_it(tmp_path):
    """300 MB of blanks in one string, and of nesting, in 300 kB."""
    for number, text in enumerate(
        [b'{"traceEvents": [{"name": "' + b" " * 300_000_000, b'{"a": ' + b"[" * 10**6]
    ):
        path = tmp_path / f"{number}.json.gz"
        path.write_bytes(gzip.compress(text, 1))
        said = refused("kineto", path, tmp_path)
        assert "a value longer than 16 MiB" in said or "nested too deeply" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a JSON object"),
        (b"[1, 2]", "not a JSON object"),
        (b"\x7fELF\x02\x01", "not a JSON object"),
        (b"{", "cut off"),
        (b"{}", "has no traceEvents"),
        (b'{"traceEvents": []}', "has no traceEvents, or none in it"),
        (b'{"traceEvents": {}}', "'{' where one of [ belongs"),
        (b'{"traceEvents": null}', "where one of [ belongs"),
        (b'{"traceEvents": [1]}', "event 1 of traceEvents is not an object"),
        (b'{"traceEvents": [{"ph": "M"}, ]}', "at character"),
        (b'{"traceEvents": [{"ph": "M"} {"ph": "M"}]}', "'{' where one of ,] belongs"),
        (b'{"traceEvents": [{"ph": "M"}]', "cut off"),
        (b'{"traceEvents": [{"ph": "M"}], "traceName": "x', "at character"),
        (b'{"traceEvents": [{"ph": "M"}]} trailing', "something after the end"),
        (b'{"traceEvents" [1]}', "where one of : belongs"),
        (b"{1: 2}", "a member without a name"),
        (b'{"traceEvents": [{"ph": "M"}]}', "no events"),
        (b'{"\xff\xfe": 1}', "not UTF-8"),
        (b'{"baseTimeNanoseconds": 1.5, "traceEvents": []}', "baseTimeNanoseconds has '1.5'"),
        (b'{"baseTimeNanoseconds": ' + b"9" * 5000 + b', "traceEvents": []}', "at character"),
        (b"\x1f\x8b\x08\x00garbage", "gzip is damaged"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_trace_is_refused_with_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "t.json"
    path.write_bytes(text)
    assert said in refused("kineto", path, tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ts": None}, "has no time in µs (ts None"),
        ({"ts": "soon"}, "has no time in µs (ts soon"),
        ({"ts": [1]}, "has no time"),
        ({"dur": "1e999999999"}, "has no time"),
        ({"dur": -3}, "ends at"),
        ({"ts": -2 * 10**15}, "start_ns of event 0 by time is"),
        ({"ts": 10**30}, "beyond 64 bits"),
        ({"ts": 10**15 * 9}, "start_ns of event 0 by time is"),
        ({"name": 7}, "has no name"),
        ({"args": [1]}, "args that are not an object"),
        ({"args": {"device": "gpu", "stream": 7}}, "device of event 0 by time is 'gpu'"),
        ({"args": {"device": 0, "stream": {}}}, "a list where a number belongs"),
        ({"args": {"device": 0, "stream": -1}}, "queue of event 0 by time is -1"),
        ({"args": {"device": 0, "stream": 1, "bytes": 1.5}}, "bytes of event 0 by time is '1.5'"),
        ({"args": {"device": 99999, "stream": 1}}, "device of event 0 by time is 99999"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(tmp_path, changed, said):
    event = span("kernel", "k", 10, 5, device=0, stream=7) | changed
    assert said in refused("kineto", write(tmp_path / "t.json", [event]), tmp_path)


def test_no_damage_gives_more_than_one_line(tmp_path):
    """300 copies with 3 bytes overwritten, or cut at random: read, or refused in one line."""
    data, rng, refusals = GOLDEN.read_bytes(), random.Random(9), 0
    for number in range(300):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        path, output = tmp_path / f"{number}.json", tmp_path / f"{number}.kdt"
        path.write_bytes(damaged if number % 2 else damaged[: rng.randrange(len(data))])
        try:
            import_trace("kineto", path, output)
        except TraceError as error:
            refusals += 1
            assert "\n" not in str(error)
            assert not output.exists()
    assert refusals > 150


def test_a_full_disk_says_where_room_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(kineto, "STAGE", kineto.STAGE + "PRAGMA max_page_count = 8;")
    events = [span("kernel", "k", i, 1, device=0, stream=7) for i in range(10_000)]
    assert "free some space" in refused("kineto", write(tmp_path / "t.json", events), tmp_path)


@pytest.mark.parametrize("where", ["kineto", "accel"])
def test_a_file_of_nothing_but_names_is_refused(tmp_path, monkeypatch, where):
    monkeypatch.setattr(f"kdtool.traces.importers.{where}.NAMES_BYTES", 1000)
    events = [span("kernel", f"kernel {i}", i, 1, device=0, stream=7) for i in range(100)]
    assert "different names" in refused("kineto", write(tmp_path / "t.json", events), tmp_path)
