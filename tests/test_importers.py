"""Other tools' recordings of page references and faults: real ones, hand-made ones, and damaged ones."""

import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import write_refs
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import compiled, gcc, root

from kdtool.errors import KdtoolError, ParameterError, TraceError
from kdtool.replay import load_device, load_workload, run_shadow
from kdtool.traces import RefKind, Trace
from kdtool.traces.exporters import export_trace
from kdtool.traces.importers import import_trace
from kdtool.traces.importers.oracle import RECORD

FAULTS = 8191


def kdtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "kdtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refs(trace: Trace) -> list[tuple[int, str, int]]:
    columns = trace.columns("refs", ["vpn", "kind", "insns"])
    rows = zip(columns["vpn"], columns["kind"], columns["insns"], strict=True)
    return [(int(vpn), RefKind(kind).name.lower(), int(insns)) for vpn, kind, insns in rows]


# ------------------------------------------------------------------------------------ perf.data

perf = pytest.mark.skipif(
    shutil.which("perf") is None, reason="perf is not installed: apt-get install linux-perf"
)


def recorded(folder: Path, events: str, *options: str, pages: int = FAULTS, outrun: bool = False) -> Path:
    """Record a program with perf; where it is to `outrun` perf, both share a CPU and it comes first."""
    program, data = compiled(folder, "faults"), folder / "perf.data"
    pin, first = (["taskset", "-c", "0"], ["chrt", "-f", "1"]) if outrun else ([], [])
    record = [*pin, "perf", "record", "-q", "-e", events, *options, "-o", str(data)]
    subprocess.run([*record, *first, program, "touch", str(pages)], check=True, capture_output=True)
    return data


@perf
@gcc
@root
@pytest.mark.root
@pytest.mark.parametrize(
    ("events", "options", "tells"),
    [
        ("major-faults,minor-faults", ["-c", "1", "-d"], True),
        ("page-faults", ["-c", "1", "-d"], False),
        ("page-faults,context-switches", ["-c", "1", "-d"], False),
        ("exceptions:page_fault_user", ["-c", "1"], False),
        ("major-faults,minor-faults", ["-c", "1", "-d", "-k", "monotonic"], True),
    ],
)
def test_what_perf_recorded_is_imported_to_the_last_fault(
    tmp_path: Path, events: str, options: list[str], tells: bool
) -> None:
    data = recorded(tmp_path, events, *options)

    trace = import_trace("perf", data, tmp_path / "t.kdt")

    said = subprocess.run(
        ["perf", "script", "-i", data, "-F", "event"], capture_output=True, text=True, check=True
    )
    samples = [line for line in said.stdout.split() if "context-switches" not in line]
    faults, info = trace.columns("faults"), trace.manifest.tables["faults"]
    assert (info.rows, info.lost) == (len(samples), 0) and info.rows >= FAULTS
    assert np.all(np.diff(faults["ts_ns"]) >= 0)
    pages = np.unique(faults["vpn"])
    longest = max(len(run) for run in np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1))
    assert longest >= FAULTS
    assert ("majors" in trace.manifest.collector) != tells
    assert trace.manifest.clock == ("monotonic" if "-k" in options else "perf")
    assert "faults" in trace.names().values()


@perf
@gcc
@root
@pytest.mark.root
def test_what_perf_lost_is_counted_once(tmp_path: Path) -> None:
    data = recorded(tmp_path, "page-faults", "-c", "1", "-d", "-m", "1", pages=200_003, outrun=True)

    info = import_trace("perf", data, tmp_path / "t.kdt").manifest.tables["faults"]

    assert info.lost > 0 and 200_003 <= info.counted < 200_003 + 300


def perf_data(*records: bytes, sample_type: int = 0x800F, config: int = 5, period: int = 1) -> bytes:
    """A perf.data file of one event, by hand."""
    attr = struct.pack("<IIQQQQQ", 1, 128, config, period, sample_type, 0, 0).ljust(128, b"\0")
    attrs_at, data = 104, b"".join(records)
    data_at = attrs_at + 144
    header = struct.pack("<8s9Q", b"PERFILE2", 104, 144, attrs_at, 144, data_at, len(data), 0, 0, 0)
    return header.ljust(104, b"\0") + attr + struct.pack("<QQ", 0, 0) + data


def fault(t_ns: int, page: int, tid: int = 7) -> bytes:
    return struct.pack("<IHHQIIQQQ", 9, 2, 48, 0x401000, 5, tid, t_ns, page << 12 | 8, 0)


ROUND = struct.pack("<IHH", 68, 0, 8)


def imported(tmp_path: Path, form: str, data: bytes, name: str = "t") -> Trace:
    (tmp_path / f"{name}.in").write_bytes(data)
    return import_trace(form, tmp_path / f"{name}.in", tmp_path / f"{name}.kdt")


def test_samples_come_out_in_order_of_time_over_rounds(tmp_path: Path) -> None:
    records = [fault(30, 3), fault(10, 1), ROUND, fault(20, 2), fault(50, 5), ROUND, fault(40, 4), ROUND]
    comm = struct.pack("<IHHII8s", 3, 0, 24, 5, 7, b"work")
    lost = struct.pack("<IHHQQ", 2, 0, 24, 1, 11)

    trace = imported(tmp_path, "perf", perf_data(comm, *records, lost))

    faults = trace.columns("faults")
    assert faults["ts_ns"].tolist() == [10, 20, 30, 40, 50]
    assert faults["vpn"].tolist() == [1, 2, 3, 4, 5]
    assert set(faults["pid"]) == {5} and set(faults["tid"]) == {7} and set(faults["cpu"]) == {-1}
    assert not faults["major"].any() and set(faults["ip"]) == {0x401000}
    assert trace.manifest.tables["faults"].lost == 11
    assert trace.names() == {0: "work"}


def record(kind: int, *words: int) -> bytes:
    return struct.pack(f"<IHH{len(words)}Q", kind, 0, 8 + 8 * len(words), *words)


def test_lost_events_are_counted_beyond_64_bits_and_then_not_believed(tmp_path: Path) -> None:
    trace = imported(tmp_path, "perf", perf_data(fault(1, 1), record(2, 0, 1 << 60), record(2, 0, 5)))
    assert trace.manifest.tables["faults"].lost == (1 << 60) + 5

    for kind, words in ((2, (0, 1 << 63)), (13, (1 << 63,))):
        data = perf_data(fault(1, 1), record(kind, *words), record(kind, *words))
        with pytest.raises(TraceError, match="18446744073709551616 events were lost"):
            imported(tmp_path, "perf", data, f"t{kind}")


def test_ids_that_events_share_are_not_held_for_each(tmp_path: Path) -> None:
    one = perf_data(fault(1, 1), sample_type=0x1800F)
    ids = struct.pack("<QQ", 104, 320)  # more than half of the file, for each of three events
    attr = one[104:232] + ids
    at = 104 + 3 * len(attr)
    header = struct.pack("<8s9Q", b"PERFILE2", 104, 144, 104, 3 * 144, at, 48, 0, 0, 0).ljust(104, b"\0")
    with pytest.raises(TraceError, match="its events have"):
        imported(tmp_path, "perf", header + 3 * attr + fault(1, 1))


def test_samples_that_stand_for_several_events_are_losses(tmp_path: Path) -> None:
    trace = imported(tmp_path, "perf", perf_data(fault(1, 1), fault(2, 2), period=100, config=6))

    info = trace.manifest.tables["faults"]
    assert (info.rows, info.lost, info.counted) == (2, 198, 200)
    assert trace.columns("faults")["major"].all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "too short"),
        (b"PERFILE2" + bytes(100), "damaged|killed"),
        (b"2ELIFREP" + bytes(100), "big-endian"),
        (b"not a perf.data file at all, but text", "not a perf.data file"),
        (b"PERFILE2" + struct.pack("<Q", 16) + bytes(100), "into a pipe"),
        (perf_data(fault(1, 1))[:-8], "bytes long and says"),
        (perf_data(struct.pack("<IHH", 9, 0, 0)), "has no length"),
        (perf_data(struct.pack("<IHH", 9, 0, 4000)), "is cut"),
        (perf_data(struct.pack("<IHH", 81, 0, 8)), "compressed"),
        (perf_data(struct.pack("<IHHQ", 9, 0, 16, 1)), "too short"),
        (perf_data(fault(1, 1), sample_type=0x7), "address: record with -d"),
        (perf_data(fault(1, 1), config=3), "no page-fault event"),
        (perf_data(fault(1 << 63, 1)), r"2\*\*63"),
        (perf_data(), "perf was killed before"),
        (perf_data(record(3), fault(1, 1)), "a record of type 3 is too short"),
        (perf_data(record(2, 1), fault(1, 1)), "a record of type 2 is too short"),
    ],
)
def test_damaged_perf_files_are_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(TraceError, match=said) as caught:
        imported(tmp_path, "perf", data)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.in"]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), st.binary(min_size=1, max_size=16))
def test_no_damage_to_a_perf_file_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, at: int, garbage: bytes
) -> None:
    data = bytearray(perf_data(*(fault(i, i) for i in range(9)), ROUND))
    data[at : at + len(garbage)] = garbage
    try:
        imported(tmp_path_factory.mktemp("perf"), "perf", bytes(data))
    except KdtoolError as error:
        assert "\n" not in str(error)


# ------------------------------------------------------------------------------------ oracleGeneral


def oracle(objects: list[int]) -> bytes:
    records = np.zeros(len(objects), RECORD)
    records["object"], records["size"] = objects, 4096
    later = {}
    for i in reversed(range(len(objects))):
        records["next"][i] = later.get(objects[i], -1)
        later[objects[i]] = i
    return records.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=300))
def test_oracle_general_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, objects: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("oracle")
    dense = {each: i for i, each in enumerate(dict.fromkeys(objects))}
    data = oracle([dense[each] for each in objects])

    trace = imported(folder, "oracle-general", data)
    written = folder / "out"

    assert [vpn for vpn, _, _ in refs(trace)] == [dense[each] for each in objects]
    assert export_trace("oracle-general", trace.path, written).records == len(objects)
    assert written.read_bytes() == data


def test_objects_too_large_for_pages_are_numbered_in_order(tmp_path: Path) -> None:
    objects = [1 << 60, 7, 1 << 63, 7, 1 << 60]
    compressed = pa.compress(oracle(objects), "zstd", asbytes=True)

    for name, data in (("plain", oracle(objects)), ("zstd", compressed)):
        trace = imported(tmp_path, "oracle-general", data, name)
        assert [vpn for vpn, _, _ in refs(trace)] == [0, 1, 2, 1, 0]
        assert trace.manifest.collector["objects_renumbered"] is True


def test_pages_of_several_processes_are_several_objects(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("vpn,tid\n5,1\n5,2\n6,1\n5,1\n")
    trace = import_trace("csv", tmp_path / "a.csv", tmp_path / "a.kdt")
    export_trace("oracle-general", trace.path, tmp_path / "out")

    records = np.fromfile(tmp_path / "out", RECORD)
    assert records["object"].tolist() == [0, 0, 1, 0]  # one process, two threads
    assert records["next"].tolist() == [1, 3, -1, -1]
    with pytest.raises(ParameterError, match="exists already"):
        export_trace("oracle-general", trace.path, tmp_path / "out")
    with pytest.raises(ParameterError, match="did you mean 'oracle-general'"):
        export_trace("oracle", trace.path, tmp_path / "other")


def test_processes_whose_numbers_are_far_apart_share_no_object(tmp_path: Path) -> None:
    pids = [1, 4097, 1, -1, 1 << 30, 4097]  # 4097 and -1 have the low 12 bits of others
    trace = write_refs(tmp_path / "t.kdt", [5] * 6, pids=pids)

    export_trace("oracle-general", trace.path, tmp_path / "out")

    records = np.fromfile(tmp_path / "out", RECORD)
    assert records["object"].tolist() == [0, 1, 0, 2, 3, 1]
    assert records["next"].tolist() == [2, 5, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("vpns", "pids", "said"),
    [
        ([1, 1 << 52], [1, 1], "page 4503599627370496 is beyond any 64-bit address"),
        (range(4097), range(4097), "has more than 4096 processes"),
    ],
)
def test_what_has_no_key_is_not_exported(
    tmp_path: Path, vpns: Sequence[int], pids: Sequence[int], said: str
) -> None:
    trace = write_refs(tmp_path / "t.kdt", vpns, pids=pids)
    with pytest.raises(TraceError, match=said):
        export_trace("oracle-general", trace.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [trace.path]


@pytest.mark.parametrize("block_records", [1, 7, 64])
def test_blocks_change_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_records: int) -> None:
    objects = (np.random.default_rng(5).zipf(1.4, 200) % 40).tolist()
    dense = {each: i for i, each in enumerate(dict.fromkeys(objects))}
    monkeypatch.setattr("kdtool.traces.importers.oracle.BATCH_ROWS", block_records)

    export_trace("oracle-general", write_refs(tmp_path / "t.kdt", objects).path, tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == oracle([dense[each] for each in objects])


PEAK = """
import sys
from pathlib import Path
from kdtool.traces.exporters import export_trace
export_trace("oracle-general", Path(sys.argv[1]), Path(sys.argv[2]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_of_an_export_does_not_grow_with_its_references(tmp_path: Path) -> None:
    peak_kib = []
    for n in (2_000_000, 6_000_000):
        trace = write_refs(tmp_path / f"{n}.kdt", np.arange(n) % 1000)
        command = [sys.executable, "-c", PEAK, str(trace.path), str(tmp_path / f"{n}.bin")]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        peak_kib.append(int(done.stdout))
    assert (peak_kib[1] - peak_kib[0]) * 1024 < 4_000_000 * 10


def test_an_export_of_a_trace_that_lost_events_is_asked_for(tmp_path: Path) -> None:
    trace = write_refs(tmp_path / "t.kdt", [1, 2, 1], k=2, lost=7)

    with pytest.raises(TraceError, match="7 of 10 refs were lost"):
        export_trace("oracle-general", trace.path, tmp_path / "out")
    done = kdtool("export", "oracle-general", trace.path, "-o", tmp_path / "out", "--allow-loss")
    assert done.stdout == (
        f"{tmp_path}/out: 3 records, reduced (sad, k = 2): exact for an LRU of 2 pages or more\n"
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (oracle([1, 2])[:-1], "23 bytes after record 1"),
        (b"vpn,tid\n1,2\n", "it is cut, or no oracleGeneral"),
        (np.array([(0, 1, 1, -1), (0, 2, 1, 0)], RECORD).tobytes(), "record 1 says that its next access"),
        (b"\x28\xb5\x2f\xfd garbage", "is it whole"),
        (b"", "has no events"),
    ],
)
def test_damaged_oracle_files_are_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        imported(tmp_path, "oracle-general", data)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.in"]


def test_replay_misses_on_an_import_what_an_lru_misses(tmp_path: Path) -> None:
    objects = (np.random.default_rng(3).zipf(1.3, 5000) % 300).tolist()
    trace = imported(tmp_path, "oracle-general", oracle(objects))

    shadow = run_shadow(load_workload(trace), 100, load_device("ssd"), "lru")

    memory: dict[int, None] = {}
    seen, missed = set(), 0
    for each in objects:
        missed += each not in memory and each in seen
        memory.pop(each, None)
        memory[each] = None
        seen.add(each)
        if len(memory) > 100:
            del memory[next(iter(memory))]
    assert int(shadow.missed.sum()) == missed > 100


# ------------------------------------------------------------------------------------ lackey

LACKEY = b"""==7== Lackey, an example Valgrind tool
I  04016b80,3
 L 1ffeffffffc,8
I  04016b83,5
I  04016ffe,4
 M 0421c7cc,4
 S 0421cffc,8
 S 0421dffc,8
==7== done
"""


def test_lackeys_last_byte_is_an_address(tmp_path: Path) -> None:
    assert refs(imported(tmp_path, "lackey", b"I  ffffffffffffffff,1\n")) == [((1 << 52) - 1, "code", 1)]


def test_lackeys_lines_become_references(tmp_path: Path) -> None:
    trace = imported(tmp_path, "lackey", LACKEY)

    assert refs(trace) == [
        (0x4016, "code", 1),
        (0x1FFEFFFF, "load", 1),
        (0x1FFF0000, "load", 1),
        (0x4016, "code", 2),  # its repeat by the next instruction's first page is left out
        (0x4017, "code", 3),
        (0x421C, "load", 3),
        (0x421C, "store", 3),
        (0x421D, "store", 3),
        (0x421E, "store", 3),
    ]
    assert set(trace.columns("refs", ["pid"])["pid"]) == {7}
    assert trace.manifest.reduction is not None and trace.manifest.reduction.k == 1


@pytest.mark.parametrize("block_bytes", [40, 64, 1000])
def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    whole = refs(imported(tmp_path, "lackey", LACKEY * 9, "whole"))
    monkeypatch.setattr("kdtool.traces.importers.lackey.BLOCK_BYTES", block_bytes)

    assert refs(imported(tmp_path, "lackey", LACKEY * 9, "parts")) == whole


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b" L 04222cac", "line 2"),
        (b" X 04222cac,8", "line 2"),
        (b" L 04222caz,8", "line 2"),
        (b" L 04222cac,8x", "line 2"),
        (b" L 04222cac,0", "line 2"),
        (b" L 04222cac,99999", "line 2"),
        (b" L 12345678123456789,8", "line 2"),
        (b"I  ffffffffffffffff,2", "line 2"),
        (b"==99999999999== a process", "more than 9 digits"),
        (b"==" + b"9" * 5000 + b"== a process", "more than 9 digits"),
        (b"L  04222cac,8", "line 2"),
        (b"\xff\xfe\x00", "line 2"),
        (b"==8== another process", "mixed"),
        (b"x" * 100_000, "line"),
    ],
)
def test_what_lackey_does_not_write_is_refused_with_its_line(tmp_path: Path, line: bytes, said: str) -> None:
    with pytest.raises(TraceError, match=said) as caught:
        imported(tmp_path, "lackey", b"==7== x\n" + line + b"\n L 04222cac,8\n")
    assert "\n" not in str(caught.value)


@gcc
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_real_lackey_run_has_the_pages_that_the_program_stored_to(tmp_path: Path) -> None:
    source = tmp_path / "stores.c"
    source.write_text(
        "#include <sys/mman.h>\nint main(void) { volatile char *p = mmap(0, 997 << 12, 3, 34, -1, 0);"
        " for (int i = 0; i < 997; i++) p[i << 12] = 1; return 0; }"
    )
    subprocess.run(["gcc", "-O1", "-static", "-o", tmp_path / "stores", source], check=True)
    log = tmp_path / "log"
    command = ["valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={log}", tmp_path / "stores"]
    subprocess.run(command, check=True, capture_output=True)

    trace = import_trace("lackey", log, tmp_path / "t.kdt")

    columns = trace.columns("refs", ["vpn", "kind", "insns"])
    stored = np.unique(columns["vpn"][columns["kind"] == RefKind.STORE])
    longest = max(len(run) for run in np.split(stored, np.flatnonzero(np.diff(stored) != 1) + 1))
    assert longest == 997
    instructions = sum(line.startswith("I") for line in log.read_text().splitlines())
    assert trace.manifest.collector["insns"] == instructions >= int(columns["insns"].max())


# ------------------------------------------------------------------------------------ csv and the command


@pytest.mark.parametrize(
    "text",
    [
        "vpn\n-1\n",
        "vpn\n1.5\n",
        "vpn\n1\x00\n",
        "vpn\n99999999999999999999\n",
        "vpn\n4503599627370496\n",
        "vpn,kind\n1,jump\n",
        "vpn,vpn\n1,2\n",
        "vpn,colour\n1,red\n",
        "vpn,tid\n1\n",
        "vpn,tid\n1,\n",
        "vpn\n" + "1" * 100_000 + "\n",
        "",
    ],
)
def test_what_is_no_csv_of_references_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError) as caught:
        imported(tmp_path, "csv", text.encode())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.in"]


def test_csv_whose_header_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="not the CSV it should be"):
        imported(tmp_path, "csv", b"vpn\xe9,kind\n1,load\n")


@pytest.mark.parametrize(
    "text", ["vpn\n4503599627370496\n", "vpn,kind\n1,jump\n", "vpn,kind\n1," + "z" * 9000]
)
def test_what_is_wrong_in_a_csv_names_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError, match=r"t\.in: (vpn|kind)") as caught:
        imported(tmp_path, "csv", text.encode())
    assert len(str(caught.value)) < len(str(tmp_path)) + 150


def test_csv_may_have_hexadecimal_numbers(tmp_path: Path) -> None:
    assert refs(imported(tmp_path, "csv", b"vpn,insns\n0x10,5\n10,0xA\n")) == [
        (16, "load", 5),
        (10, "load", 10),
    ]


def test_csv_with_windows_line_ends_is_read(tmp_path: Path) -> None:
    trace = imported(tmp_path, "csv", b"vpn,kind\r\n7,store\r\n8,load\r\n")

    assert refs(trace) == [(7, "store", 1), (8, "load", 2)]


def test_the_commands_import_and_export(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(LACKEY)
    made = kdtool("import", "lackey", tmp_path / "a.txt", "-o", tmp_path / "a.kdt")
    out = kdtool("export", "oracle-general", tmp_path / "a.kdt", "-o", tmp_path / "a.bin")
    wrong = kdtool("import", "lacky", tmp_path / "a.txt", "-o", tmp_path / "b.kdt")
    missing = kdtool("import", "perf", tmp_path / "none", "-o", tmp_path / "b.kdt")

    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == f"{tmp_path}/a.kdt: 9 refs, 0 lost\n"
    assert (out.returncode, out.stdout) == (0, f"{tmp_path}/a.bin: 9 records\n")
    assert wrong.returncode == 1 and "did you mean 'lackey'" in wrong.stderr
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1 and "No such file" in missing.stderr


def test_an_export_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    trace = write_refs(tmp_path / "t.kdt", [1, 2, 3])
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_trace("oracle-general", trace.path, tmp_path / "o.bin")
    assert list(tmp_path.iterdir()) == [trace.path]
