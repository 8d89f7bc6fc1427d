"""`kdtool info`: figures worked by hand, the screen as a whole, the same document whatever the batches."""

import io
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hand_traces
import numpy as np
import pytest
from builders import write_refs
from hand_traces import HOST, RW, faults_trace, write_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from test_cli import kdtool, refused
from test_traces import reseal_segment

from kdtool.traces import NO_OFFSET, NO_ROW, NO_TIME, PREEMPTED, Manifest, SchedEvent, TraceWriter, VmaFlag
from kdtool.traces.info import describe
from kdtool.traces.info.describe import FIGURES
from kdtool.traces.info.histogram import Histogram
from kdtool.traces.info.pages import PageSet
from kdtool.traces.info.screen import COLUMNS, print_description
from kdtool.traces.schema import TABLES

GOLDEN = Path(__file__).parent / "golden"
TRACES = ("faults", "refs", "sched", "blockio", "accel")


def hand_trace(table, folder, **about):
    return getattr(hand_traces, f"{table}_trace")(folder / f"{table}.kdt", **about)


def figures_of(table, folder, **about):
    return describe(hand_trace(table, folder, **about).path)["tables"][table]


def screen(description):
    """Return what is printed, with bytes that do not depend on the version of Parquet's writer."""
    for table in description["tables"].values():
        table["bytes"] = 100 * table["rows"]
        if table["rows"]:
            table["bytes_per_row"] = 100.0
    out = io.StringIO()
    print_description(description, Console(width=COLUMNS, file=out))
    return out.getvalue()


@pytest.mark.parametrize("table", TRACES)
def test_the_screen_is_as_it_was_accepted(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hand_trace(table, Path())

    printed = screen(describe(Path(f"{table}.kdt")))

    golden = GOLDEN / f"info-{table}.txt"
    (tmp_path / golden.name).write_text(printed)
    expected = golden.read_text() if golden.exists() else ""
    assert printed == expected, f"to accept it: cp {tmp_path / golden.name} {golden}"


@pytest.mark.parametrize("table", TRACES)
def test_the_screen_is_80_columns_wide_and_40_lines_long(table, tmp_path):
    made = hand_trace(table, tmp_path, host=HOST, command=["command"] * 50)

    lines = screen(describe(made.path)).splitlines()

    assert max(map(cell_len, lines)) <= COLUMNS
    assert len(lines) <= 40


def test_every_table_but_the_side_table_of_names_has_figures():
    assert {name for name, _ in FIGURES} == set(TABLES) - {"names"}


def test_faults_are_told_apart_by_kind_mapping_process_and_distance(tmp_path):
    figures = figures_of("faults", tmp_path)

    assert (figures["rows"], figures["counted"], figures["lost"]) == (11, 16, 5)
    assert (figures["major"], figures["minor"], figures["footprint_pages"]) == (3, 8, 10)
    assert figures["by_mapping"] == {
        "anonymous": {"rows": 3, "major": 1, "footprint_pages": 3},
        "heap": {"rows": 1, "major": 0, "footprint_pages": 1},
        "stack": {"rows": 1, "major": 0, "footprint_pages": 1},
        "file": {"rows": 5, "major": 2, "footprint_pages": 4},
        "unknown": {"rows": 1, "major": 0, "footprint_pages": 1},
    }
    assert figures["top_processes"] == [{"name": "app", "count": 2, "pid": 100, "faults": 11, "share": 1.0}]
    assert [(each["name"], each["faults"]) for each in figures["top_threads"]] == [("app", 8), ("worker", 3)]
    # Threads 100, 101 and 200 went +240 +1 +1 -2, +253 +1535, and +1 +1263.
    assert (figures["deltas"]["count"], figures["deltas"]["forward"]) == (8, 7)
    assert figures["deltas"]["top"][0] == {"pages": 1, "count": 3}
    assert figures["deltas"]["by_log2"] == [0, 3, 1, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert (figures["span_ns"], figures["rows_per_s"]) == (1_000_000_000, 11.0)
    assert sum(figures["over_time"]["rows"]) == 11
    assert sum(figures["over_time"]["major"]) == 3


def test_references_have_kinds_instructions_and_new_pages(tmp_path):
    figures = figures_of("refs", tmp_path)

    assert figures["kinds"] == {"load": 2, "store": 2, "code": 1, "kernel": 1}
    assert figures["insns"] == 40 + 6
    assert (figures["processes"], figures["threads"], figures["footprint_pages"]) == (1, 2, 4)
    assert figures["by_mapping"] == {
        "anonymous": {"rows": 3, "stores": 2, "footprint_pages": 3},
        "file": {"rows": 3, "stores": 0, "footprint_pages": 1},
    }
    assert figures["new_pages"]["pages"][:6] == [1, 1, 1, 0, 1, 0]
    assert "span_ns" not in figures


def test_scheduling_says_how_long_threads_waited_and_ran(tmp_path):
    figures = figures_of("sched", tmp_path)

    counts = [figures[name] for name in ("switches", "wakings", "wakeups", "migrations", "forks", "exits")]
    assert counts == [9, 3, 1, 1, 1, 1]
    assert figures["runqueue_ns"] == {"count": 2, "p50": 100, "p99": 100, "max": 100}
    assert figures["on_cpu_ns"] == 600 + 500
    assert figures["cpus"] == [{"cpu": 0, "on_cpu_ns": 300}, {"cpu": 1, "on_cpu_ns": 800}]
    assert [(each["tid"], each["on_cpu_ns"]) for each in figures["top_threads"]] == [(10, 600), (11, 500)]
    assert (figures["switched_out"], figures["preempted"]) == (5, 2)


def test_block_requests_have_latencies_where_their_times_are_known(tmp_path):
    figures = figures_of("blockio", tmp_path)

    read, write, flush = (figures["operations"][name] for name in ("read", "write", "flush"))
    assert (read["requests"], read["bytes"]) == (3, 3 * 8 * 512)
    assert read["queue_to_issue_ns"] == {"count": 3, "p50": 10_000, "p99": 20_000, "max": 20_000}
    assert (read["issue_to_complete_ns"]["count"], read["issue_to_complete_ns"]["max"]) == (2, 200_000)
    assert (write["requests"], write["bytes"]) == (2, 2 * 16 * 512)
    assert flush["queue_to_issue_ns"] == {"count": 0, "p50": None, "p99": None, "max": None}
    assert (figures["errors"], figures["in_flight"], figures["sequential"]) == (1, 2, 2)
    assert [(disk["name"], disk["requests"]) for disk in figures["devices"]] == [("7:1", 1), ("254:0", 5)]
    assert (figures["over_time"]["untimed"], figures["span_ns"]) == (1, 1_031_000)


def test_devices_are_busy_once_however_many_commands_run_side_by_side(tmp_path):
    figures = figures_of("accel", tmp_path)

    assert figures["devices"] == [{"device": 0, "busy_ns": 80_000}, {"device": 1, "busy_ns": 5_000}]
    assert figures["kinds"]["kernel"] == {"commands": 3, "time_ns": 70_000, "bytes": 0}
    assert figures["kinds"]["d2h"] == {"commands": 2, "time_ns": 5_000, "bytes": (1 << 20) + 4096}
    assert [(k["name"], k["launches"], k["time_ns"]) for k in figures["top_kernels"]] == [
        ("matmul", 2, 60_000),
        ("relu", 1, 10_000),
    ]
    assert figures["unfinished"] == 1
    assert figures["queued_to_start_ns"]["count"] == 6


def test_keys_that_scripts_read_are_at_the_top(tmp_path):
    of_faults = describe(hand_trace("faults", tmp_path).path)
    of_refs = describe(hand_trace("refs", tmp_path).path)

    assert (of_faults["major_faults"], of_faults["minor_faults"]) == (3, 8)
    assert of_faults["span_ns"] == 1_000_000_000
    assert (of_faults["footprint_pages"], of_faults["processes"], of_faults["threads"]) == (10, 2, 3)
    assert (of_refs["footprint_pages"], of_refs["processes"], of_refs["threads"]) == (4, 1, 2)
    assert of_refs["reduction"] == {"method": "sad", "k": 16}


def test_processes_whose_numbers_are_far_apart_do_not_share_pages(tmp_path):
    pids = [1, 4097, (1 << 22) - 1]  # 4097 << 52 is 1 << 52 in 64 bits

    made = write_refs(tmp_path / "t.kdt", [7, 7, 7], pids=pids, tids=pids)

    assert describe(made.path)["footprint_pages"] == 3


def test_a_process_without_a_name_is_called_by_the_program_that_it_mapped_last(tmp_path):
    code = VmaFlag.READ | VmaFlag.EXEC | VmaFlag.FILE
    vmas = [
        (0, 1, 0x10, 0x20, code, "/bin/sh", 0),
        (0, 1, 0x30, 0x40, code, "/lib/libc.so", 0),
        (0, 1, 0, 1 << 35, VmaFlag.UNMAPPED, "", 1),
        (0, 1, 0x50, 0x60, code, "/bin/app", 1),
        (0, 1, 0x70, 0x80, code, "/lib/libc.so", 1),
    ]
    refs = [(1, 1, 0x10, 0, 0, 1), (1, 1, 0x50, 0, 0, 2)]

    made = write_trace(tmp_path / "t.kdt", {"refs": refs, "vmas": vmas}, clock="insns")

    assert describe(made.path)["tables"]["refs"]["top_processes"][0]["name"] == "app"


def test_mappings_of_several_segments_follow_each_other(tmp_path):
    vma = {
        "pid": [1],
        "start_vpn": [5],
        "end_vpn": [9],
        "name_id": [0],
        "row": [NO_ROW],
        "offset_pages": [NO_OFFSET],
        "advice": [0],
    }
    fault = {
        "pid": [1, 1],
        "tid": [1, 1],
        "cpu": [0, 0],
        "vpn": [7, 7],
        "ip": [0, 0],
        "major": [False, False],
    }
    with TraceWriter(tmp_path / "t.kdt") as writer:
        for t, flags in ((1, RW), (10, VmaFlag.READ | VmaFlag.FILE)):
            writer.append("vmas", vma | {"ts_ns": [t], "flags": [int(flags)]})
            writer._tables["vmas"].seal()  # a segment each
        writer.append("faults", fault | {"ts_ns": [0, 10]})  # 0: before any mapping, so of the first
        path = writer.seal(Manifest("complete", "monotonic", [], {"name": "test"})).path

    kinds = describe(path)["tables"]["faults"]["by_mapping"]

    assert {kind: of["rows"] for kind, of in kinds.items()} == {"anonymous": 1, "file": 1}


# ---- what no recorder writes, or seldom ----------------------------------------------------------------


FAULT = (5, 1, 1, 0, 7, 0, True)


@pytest.mark.parametrize(
    "tables",
    [
        {"faults": []},
        {"faults": [FAULT]},
        {"faults": [FAULT, FAULT]},
        {"faults": [(NO_TIME, 1, 1, 0, 7, 0, False), (-(2**63), 1, 1, 0, 8, 0, False)]},
        {"faults": [(2**63 - 1, -1, -1, -1, 2**64 - 1, 2**64 - 1, False), (0, 1, 1, 0, 0, 0, False)]},
        {"refs": [(1, 1, 7, 0, 0, 0)]},
        {"refs": [(1, 1, 2**64 - 1, 0, 200, 2**64 - 1), (1, 1, 0, 0, 0, 0)]},
        {"sched": [(5, 0, SchedEvent.SWITCH, 1, 2, 120, 0, -1)]},
        {"sched": [(9, 0, 250, -1, -1, -1, 0, -1), (3, 0, SchedEvent.WAKING, -1, -1, -1, 0, -1)]},
        {"blockio": [(0, 2**64 - 1, 2**32 - 1, 255, -1, NO_TIME, NO_TIME, NO_TIME, -5)]},
        {"accel": [(NO_TIME, NO_TIME, NO_TIME, NO_TIME, -1, -1, 0, 77, 2**64 - 1, 0, 4_000_000_000)]},
        {"accel": [(0, 0, 5, 3, 1, 0, 0, 0, 0, 0, 1)]},
        {"tasks": [(NO_TIME, 1, 1, 12345)]},
        {"vmas": [(0, 1, 9, 3, 0, 12345, NO_ROW), (0, 1, 0, 2**64 - 1, 16, 12345, NO_ROW)]},
        {"faults": [FAULT], "vmas": [(0, 1, 0, 2**64 - 1, 16, 12345, NO_ROW)], "tasks": [(0, 1, 1, 777)]},
    ],
    ids=str,
)
def test_strange_rows_are_described_on_one_screen(tables, tmp_path):
    made = write_trace(tmp_path / "t.kdt", tables)

    description = describe(made.path)

    json.dumps(description, allow_nan=False)
    lines = screen(description).splitlines()
    assert max(map(cell_len, lines)) <= COLUMNS
    for table, rows in tables.items():
        assert description["tables"].get(table, {"rows": 0})["rows"] == len(rows)


def test_a_name_that_the_trace_does_not_hold_is_shown_by_its_number(tmp_path):
    made = write_trace(tmp_path / "t.kdt", {"faults": [FAULT], "tasks": [(0, 1, 1, 777)]})

    assert describe(made.path)["tables"]["faults"]["top_processes"][0]["name"] == "name 777"


def test_a_trace_of_losses_only_says_what_was_lost(tmp_path):
    made = write_trace(tmp_path / "t.kdt", {}, lost={"sched": 7}, state="interrupted")

    printed = screen(describe(made.path))

    assert "LOST       7 of 7 sched (100.0%)" in printed
    assert "interrupted" in printed.splitlines()[0]


def test_texts_of_others_cannot_command_the_terminal(tmp_path):
    made = write_trace(
        tmp_path / "t.kdt",
        {"faults": [FAULT], "tasks": [(0, 1, 1, "[red]\x1b[2J\n名前")]},
        command=["a\x1b]0;b", "\udc80", "[bold]"],
        collector={"name": "[blink]\x07"},
    )

    printed = screen(describe(made.path))

    assert not set(printed) & {"\x1b", "\x07", "\udc80"}
    assert "[red]�[2J 名前 (1)" in printed
    assert "[bold]" in printed
    printed.encode()


@pytest.mark.parametrize(
    "about",
    [
        {"host": {"swap": 3, "memory_bytes": "x", "cpus": None}},
        {"host": {"swap": [None, 3]}, "cgroup": {"limit_bytes": "max"}},
        {"collector": {}},
        {"collector": {"name": 3, "sources": [1], "overhead": 4}},
        {"collector": {"name": "x", "sources": {"sched": 1, "refs": {"refs_counted": "x", "opencl": 4}}}},
        {"collector": {"name": "x", "sources": {"sched": {"unpaired": "x"}}}},
        {"collector": {"name": "x", "sources": {"sched": {"unpaired": [1]}}}},
        {"workload": {"exit_code": 2**64 - 1, "wall_ns": 2**64 - 1}, "host": {"memory_bytes": -(2**63)}},
        {"workload": {"ended_by": 3, "exit_code": "x", "wall_ns": "y", "refs_counted": "z"}},
    ],
    ids=str,
)
def test_a_manifest_with_other_facts_than_ours_is_described(about, tmp_path):
    made = hand_trace("refs", tmp_path, **about)

    assert "refs " in screen(describe(made.path))


def test_a_segment_with_damage_inside_is_refused_in_one_line(tmp_path):
    made = write_refs(tmp_path / "t.kdt", np.random.default_rng(0).integers(0, 1 << 40, 5000))
    file = made.path / "refs/000000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + bytes(4000) + whole[4200:])
    reseal_segment(made, "refs")

    refused("info", made.path, saying="cannot be decoded")


PEAK = """
import resource, sys
from pathlib import Path
from kdtool.traces.info import describe
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
describe(Path(sys.argv[1]))
before = peak_mib()
describe(Path(sys.argv[2]))
print(peak_mib() - before)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    for name, n_rows in (("small", 500_000), ("large", 4_000_000)):
        write_refs(tmp_path / f"{name}.kdt", np.arange(n_rows) % 300_000)
    paths = [str(tmp_path / f"{name}.kdt") for name in ("small", "large")]

    run = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)

    assert int(run.stdout) < 40  # the rows of the large one are 148 MB


# ---- against a second way of counting ------------------------------------------------------------------


TIDS = st.integers(0, 4)
PAGES = st.integers(0, 12)


@st.composite
def address_traces(draw):
    """Return rows of faults, in order of time, and of vmas, in order of time."""
    times = sorted(draw(st.lists(st.integers(0, 30), min_size=1, max_size=30)))
    faults = [(t, draw(st.integers(1, 2)), draw(TIDS), 0, draw(PAGES), 0, draw(st.booleans())) for t in times]
    vmas = []
    for t in sorted(draw(st.lists(st.integers(0, 30), max_size=8))):
        start = draw(PAGES)
        flags = draw(st.sampled_from([RW, VmaFlag.READ | VmaFlag.FILE, VmaFlag.UNMAPPED]))
        name = draw(st.sampled_from(["/a", "/b"] if flags & VmaFlag.FILE else ["", "[heap]", "[stack]"]))
        vmas.append((t, draw(st.integers(1, 2)), start, start + draw(st.integers(1, 8)), flags, name, NO_ROW))
    return faults, vmas


def kind_at(vmas, t, pid, page):
    """Return the kind of the mapping made last over a page until t, else of the first one after."""
    over = [
        row for row in vmas if row[1] == pid and row[2] <= page < row[3] and not row[4] & VmaFlag.UNMAPPED
    ]
    if not over:
        return "unknown"
    row = [row for row in over if row[0] <= t][-1:] or over[:1]
    name = row[0][5]
    return (
        "file" if row[0][4] & VmaFlag.FILE else {"[heap]": "heap", "[stack]": "stack"}.get(name, "anonymous")
    )


@settings(max_examples=40, deadline=None)
@given(trace=address_traces(), batch_rows=st.integers(1, 12))
def test_faults_are_counted_as_one_by_one_in_batches_of_any_size(tmp_path_factory, trace, batch_rows):
    faults, vmas = trace
    made = write_trace(tmp_path_factory.mktemp("t") / "t.kdt", {"faults": faults, "vmas": vmas})

    figures = describe(made.path, batch_rows=batch_rows)["tables"]["faults"]

    assert figures["footprint_pages"] == len({(pid, vpn) for _, pid, _, _, vpn, _, _ in faults})
    assert figures["major"] == sum(row[6] for row in faults)
    kinds = [kind_at(vmas, t, pid, vpn) for t, pid, _, _, vpn, _, _ in faults]
    rows = Counter(kinds)
    major = Counter(kind for kind, row in zip(kinds, faults, strict=True) if row[6])
    assert {kind: (of["rows"], of["major"]) for kind, of in figures["by_mapping"].items()} == {
        kind: (rows[kind], major[kind]) for kind in rows
    }
    assert sum(of["footprint_pages"] for of in figures["by_mapping"].values()) == figures["footprint_pages"]
    last, deltas = {}, Counter()
    for _, _, tid, _, vpn, _, _ in faults:
        if tid in last:
            deltas[vpn - last[tid]] += 1
        last[tid] = vpn
    assert figures["deltas"]["count"] == deltas.total()
    assert all(deltas[each["pages"]] == each["count"] for each in figures["deltas"]["top"])
    assert len(figures["deltas"]["top"]) == min(5, len(deltas))
    assert figures["deltas"]["forward"] == sum(n for delta, n in deltas.items() if delta > 0)


@settings(max_examples=30, deadline=None)
@given(
    refs=st.lists(
        st.tuples(st.integers(1, 2), TIDS, PAGES, st.just(0), st.integers(0, 3), st.integers(0, 99)),
        min_size=1,
        max_size=150,
    ),
    batch_rows=st.integers(1, 40),
)
def test_new_pages_add_up_to_the_footprint(tmp_path_factory, refs, batch_rows):
    made = write_trace(tmp_path_factory.mktemp("t") / "t.kdt", {"refs": refs}, clock="insns")

    figures = describe(made.path, batch_rows=batch_rows)["tables"]["refs"]

    part, seen = figures["new_pages"]["part_rows"], set()
    new = [0] * 50
    for i, (pid, _, vpn, *_) in enumerate(refs):
        new[i // part] += (pid, vpn) not in seen
        seen.add((pid, vpn))
    assert figures["new_pages"]["pages"] == new
    assert figures["footprint_pages"] == len(seen)
    assert figures["insns"] == sum(
        max(insns for _, tid, _, _, _, insns in refs if tid == each) for each in {row[1] for row in refs}
    )


@given(
    st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 5000), min_size=1, max_size=60), st.integers(1, 100)
)
def test_quantiles_are_at_most_a_thousandth_below_the_exact_ones(values, percent):
    histogram = Histogram()
    for value in values:
        histogram.add(np.array([value]))

    exact = sorted(values)[-(-len(values) * percent // 100) - 1]
    found = histogram.quantile(percent)

    assert found <= exact
    assert (exact - found) * 1024 <= exact
    assert found == exact or exact >= 2048
    assert (histogram.count, histogram.largest) == (len(values), max(values))


@given(st.lists(st.lists(st.integers(0, 300) | st.integers(2**52 - 70, 2**52), max_size=40), max_size=5))
def test_sets_of_pages_are_sets(additions):
    pages, expected = PageSet(), set()
    for added in additions:
        different = np.array(sorted(set(added)), np.uint64)
        is_new = pages.add(different)
        assert is_new.tolist() == [page not in expected for page in different.tolist()]
        expected |= set(added)

    ranges = pages.ranges().tolist()

    assert pages.count == len(expected)
    assert [page for first, end in ranges for page in range(first, end)] == sorted(expected)
    assert all(end < first for (_, end), (first, _) in itertools.pairwise(ranges))


def run_one_by_one(rows):
    """Return run-queue latencies and on-CPU times by thread, keeping track of every thread and CPU."""
    woken, on_cpu, latencies, ran = {}, {}, [], Counter()
    for t, cpu, event, tid, next_tid, _, state, _ in rows:
        if event == SchedEvent.WAKING:
            woken[next_tid] = t
        if event != SchedEvent.SWITCH:
            continue
        if state in (0, PREEMPTED):
            woken.pop(tid, None)
        if next_tid in woken and next_tid:
            latencies.append(t - woken[next_tid])
        woken.pop(next_tid, None)
        since, who = on_cpu.get(cpu, (0, None))
        if who == tid and tid:
            ran[tid] += t - since
        on_cpu[cpu] = t, next_tid
    return sorted(latencies), ran


@settings(max_examples=40, deadline=None)
@given(data=st.data(), batch_rows=st.integers(1, 12))
def test_scheduling_is_counted_as_one_by_one_in_batches_of_any_size(tmp_path_factory, data, batch_rows):
    times = sorted(data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=40)))
    events = st.sampled_from([SchedEvent.SWITCH, SchedEvent.SWITCH, SchedEvent.WAKING, SchedEvent.WAKEUP])
    rows = [
        (t, data.draw(st.integers(0, 1)), data.draw(events), data.draw(TIDS), data.draw(TIDS), 120,
         data.draw(st.sampled_from([0, 1, PREEMPTED])), -1)
        for t in times
    ]  # fmt: skip
    made = write_trace(tmp_path_factory.mktemp("t") / "t.kdt", {"sched": rows})

    figures = describe(made.path, batch_rows=batch_rows)["tables"]["sched"]

    latencies, ran = run_one_by_one(rows)
    waited = figures["runqueue_ns"]
    assert waited["count"] == len(latencies)
    if latencies:
        exact = (latencies[(len(latencies) - 1) // 2], latencies[-1], latencies[-1])
        assert (waited["p50"], waited["p99"], waited["max"]) == exact
    assert figures["on_cpu_ns"] == ran.total()


@settings(max_examples=25, deadline=None)
@given(
    spans=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=20
    ),
    batch_rows=st.integers(1, 8),
)
def test_devices_are_busy_as_long_as_any_command_runs_in_whatever_order(tmp_path_factory, spans, batch_rows):
    rows = [(0, 0, start, start + n, 1, device, 0, 0, 1, 0, 0) for start, n, device in spans]
    made = write_trace(tmp_path_factory.mktemp("t") / "t.kdt", {"accel": rows})

    figures = describe(made.path, batch_rows=batch_rows)["tables"]["accel"]

    covered = {(device, t) for start, n, device in spans for t in range(start, start + n)}
    assert figures["devices"] == [
        {"device": device, "busy_ns": sum(of == device for of, _ in covered)}
        for device in sorted({device for _, _, device in spans})
    ]


@pytest.mark.parametrize("table", TRACES)
def test_batches_of_any_size_give_the_same_document(table, tmp_path):
    made = hand_trace(table, tmp_path)

    documents = [describe(made.path, batch_rows=rows) for rows in (1, 2, 3, 5, 1000)]

    assert all(document == documents[0] for document in documents)


# ---- the command ---------------------------------------------------------------------------------------


def test_json_is_the_document_and_progress_does_not_disturb_it(tmp_path):
    made = faults_trace(tmp_path / "t.kdt")

    done = kdtool("info", made.path, "--json")

    assert json.loads(done.stdout) == describe(made.path)
    assert done.stderr == ""


def test_progress_counts_every_row_that_is_read(tmp_path):
    made = faults_trace(tmp_path / "t.kdt")
    steps = []

    describe(made.path, lambda rows, total: steps.append((rows, total)))

    assert sum(rows for rows, _ in steps) == steps[0][1] == 2 * (11 + 7 + 4)


def test_a_program_is_named_although_its_loader_and_libraries_are_mapped_below_it(tmp_path):
    loader, libc = "/lib/ld-linux-x86-64.so.2", "/lib/libc.so.6"
    vmas = [
        (0, 1, 0x10, 0x20, hand_traces.DATA, loader, 0),
        (1, 1, 0x30, 0x40, hand_traces.DATA, "/bin/app", 0),
        (2, 1, 0x50, 0x60, hand_traces.DATA, "/data", 1),
        (3, 2, 0x05, 0x08, hand_traces.DATA, "/data", 1),  # a fork has all that its parent has
        (4, 2, 0x08, 0x10, hand_traces.DATA, libc, 1),
        (5, 2, 0x30, 0x40, hand_traces.DATA, "/bin/app", 1),
        (6, 3, 0x30, 0x40, hand_traces.DATA, "/bin/app", 1),
        (7, 3, 0, 1 << 36, hand_traces.GONE, "", 2),  # it execs
        (8, 3, 0x10, 0x20, hand_traces.DATA, loader, 2),
        (9, 3, 0x30, 0x40, hand_traces.DATA, "/bin/other", 2),
    ]
    refs = [(pid, pid, 0x35, 0, 0, n) for n, pid in enumerate([1, 2, 1, 2, 3])]
    made = write_trace(tmp_path / "t.kdt", {"refs": refs, "vmas": vmas}, clock="insns")

    top = describe(made.path)["tables"]["refs"]["top_processes"]

    assert [(each["name"], each["count"]) for each in top] == [("app", 2), ("other", 1)]
