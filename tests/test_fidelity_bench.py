"""The fidelity bench: how runs of the kernel are made and compared with replay, by hand and once for real."""

import json
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import needs
import pytest
from builders import ssd, strided_trace, workload
from rich.console import Console

from bench.fidelity.cells import predict_program
from bench.fidelity.looks import DRIFTING, of_cell
from kdtool.errors import ParameterError
from kdtool.fidelity import runs
from kdtool.fidelity.footprint import Footprint, limit_bytes, replay_pages
from kdtool.fidelity.predict import (
    CURRENT,
    Prediction,
    at_own_speed,
    current_moments,
    on_swap,
    replay_moments,
    starting_moments,
)
from kdtool.fidelity.runs import KernelRun, wait_for_moment
from kdtool.fidelity.score import (
    MEASURES,
    Cell,
    Pair,
    Summary,
    compare_settings,
    error_of,
    find_modes,
    score_cell,
    summarize,
)
from kdtool.fidelity.settings import find_setting
from kdtool.fidelity.show import print_fidelity, to_document
from kdtool.kernel.cgroup import find_layout
from kdtool.kernel.host import page_cluster, read_page_cluster
from kdtool.kernel.swap import swap_devices
from kdtool.replay import load_policy, replay, run_shadow

ROOT = Path(__file__).parent.parent
MAJOR, SWAP_INS, WALL = MEASURES


def ran(major: int, wall_s: float, swap_ins: int | None = None) -> KernelRun:
    ins = major if swap_ins is None else swap_ins
    return KernelRun(int(wall_s * 1e9), major, ins, ins, ins, ins, "cgroup", 0, 0, 0)


def said(major: int, wall_s: float, swap_ins: int | None = None) -> Prediction:
    return Prediction(int(wall_s * 1e9), major, major if swap_ins is None else swap_ins)


def cell(setting: str, measured, predicted, *, program="sort", percent=50, **more) -> Cell:
    return Cell(program, percent, 1 << 20, 250, setting, tuple(measured), tuple(predicted), **more)


# ------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("values", "modes"),
    [
        ([], ()),
        ([7], ((7,),)),
        # Fewer than four runs have one mode, whatever they are.
        ([100, 200, 200], ((100, 200, 200),)),
        ([100, 200, 101, 201], ((100, 101), (200, 201))),
        # One run apart is a mode of its own; the widest gap, 48, is over 10 % of the median 102.
        ([150, 100, 102, 101, 102], ((100, 101, 102, 102), (150,))),
        # The gap of 9 is below 10 % of the median 100.
        ([91, 91, 100, 100, 100], ((91, 91, 100, 100, 100),)),
        ([90, 90, 100, 100, 100], ((90, 90), (100, 100, 100))),
        # Spread evenly: no gap is wider than what is on its sides.
        ([100, 120, 140, 160, 180], ((100, 120, 140, 160, 180),)),
        ([100, 100, 200, 200, 400, 400], ((100, 100), (200, 200), (400, 400))),
        ([0, 0, 0, 0], ((0, 0, 0, 0),)),
    ],
)
def test_modes_are_runs_between_wide_gaps(values, modes):
    assert find_modes(values) == modes


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("predicted", "measured", "error"),
    [
        (102, [100, 104], 0.0),
        (100, [100, 104], 0.0),
        (112, [100, 104, 105, 95], (112 - 105) / 102),
        (90, [100, 104, 105, 95], (90 - 95) / 102),
        # Two modes: 150 is 49 above the lower and 50 below the upper one; the median is 150.5.
        (150, [100, 101, 200, 201], (150 - 101) / 150.5),
        (160, [100, 101, 200, 201], (160 - 200) / 150.5),
        (200, [100, 101, 200, 201], 0.0),
        (0, [0, 0, 0], 0.0),
        (1, [0, 0, 0], None),
    ],
)
def test_the_error_is_the_distance_to_the_nearest_mode_over_the_median(predicted, measured, error):
    assert error_of(predicted, measured) == error


def test_a_cell_is_scored_by_the_median_of_the_starting_moments():
    scored = score_cell(
        cell("none", [ran(10, 1.0), ran(14, 2.0)], [said(12, 1.0), said(20, 9.0), said(18, 3.0)]), MAJOR
    )

    assert (scored.measured, scored.low, scored.high) == (12, 10, 14)
    assert (scored.predicted, scored.predicted_low, scored.predicted_high) == (18, 12, 20)
    assert scored.error == (18 - 14) / 12
    assert scored.modes == ((10, 14),)


def test_a_summary_counts_what_is_within_the_tolerance():
    cells = [
        cell("none", [ran(100, 1.0)], [said(104, 1.0)]),
        cell("vma", [ran(100, 1.0)], [said(95, 1.0)]),
        cell("cluster", [ran(100, 1.0)], [said(120, 1.0)]),
        cell("none-current", [ran(0, 1.0)], [said(1, 1.0)]),
        cell("none", [], [said(1, 1.0)]),
        cell("none", [ran(1, 1.0)], []),
    ]

    assert summarize(cells, MAJOR, 0.05) == Summary(4, 2, 0.05, 0.2)
    assert summarize(cells[-1:], MAJOR, 0.05) == Summary(0, 0, None, None)


# ------------------------------------------------------------------------------------------- order


def test_settings_are_compared_where_their_runs_do_not_overlap():
    none = cell("none", [ran(1, 3.0), ran(1, 4.0)], [said(1, 5.0)])
    cluster = cell("cluster", [ran(1, 1.0), ran(1, 2.0)], [said(1, 6.0)])
    vma = cell("vma", [ran(1, 1.5), ran(1, 3.5)], [said(1, 1.0)])
    elsewhere = cell("vma", [ran(1, 0.1)], [said(1, 9.0)], percent=35)
    other = cell("vma", [ran(1, 0.1)], [said(1, 9.0)], program="fft")
    missing = cell("none-current", [ran(1, 0.1)], [])

    pairs = compare_settings([none, cluster, vma, elsewhere, other, missing])

    assert pairs == [Pair("sort", 50, "cluster", "none", right=False)]


def test_the_order_is_right_when_replay_has_the_same_one_faster():
    slow = cell("none", [ran(1, 3.0)], [said(1, 5.0), said(1, 1.0), said(1, 4.0)])
    fast = cell("vma", [ran(1, 1.0)], [said(1, 3.9)])

    assert compare_settings([slow, fast]) == [Pair("sort", 50, "vma", "none", right=True)]
    same = cell("vma", [ran(1, 1.0)], [said(1, 4.0)])
    assert compare_settings([slow, same]) == [Pair("sort", 50, "vma", "none", right=False)]


# ----------------------------------------------------------------------------------------- showing

CELLS = [
    cell("none", [ran(1000, 2.0), ran(1010, 2.2), ran(1500, 3.0), ran(1510, 3.1)], [said(1020, 2.1)]),
    cell("vma", [ran(500, 1.0, 900), ran(520, 1.1, 920)], [said(612, 1.05, 910), said(610, 1.05, 911)],
         oom_kills=2, disturbed=1),
    cell("cluster", [], [said(1, 1.0)], trouble="0 of 2 runs"),
]  # fmt: skip


def shown(cells) -> list[str]:
    console = Console(file=StringIO(), width=220)
    print_fidelity(cells, 0.05, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_person_sees_each_cell_the_summary_and_every_miss():
    lines = shown(CELLS)

    def words(start: str) -> list[list[str]]:
        return [line.split() for line in lines if line.strip().startswith(start)]

    assert [" ".join(line) for line in words("sort")] == [
        "sort 50% none 1,255 (1,000–1,010 | 1,500–1,510) 1,020 +0.8% "
        "1,255 (1,000–1,010 | 1,500–1,510) 1,020 +0.8% 2.60 (2.00–2.20 | 3.00–3.10) 2.10 +0.0%",
        "sort 50% vma 510 (500–520) 611 +17.8% 910 (900–920) 910 +0.0% 1.05 (1.00–1.10) 1.05 +0.0%",
        "sort 50% cluster – – – – – – – – –",
    ]
    assert [" ".join(line) for line in words("all")] == [
        "all 9.3% 17.8% 1 of 2 0.4% 0.8% 2 of 2 0.0% 0.0% 2 of 2"
    ]
    assert "order of settings by run time: right in 1 of 1 pairs whose runs do not overlap" in lines
    assert [line for line in lines if line.startswith("miss")] == [
        "miss: sort 50% vma: major faults: 510 (500–520), replay 611 (610–612), off +17.8%"
    ]
    assert "made again: sort 50% vma: 2 killed for the limit, 1 disturbed" in lines
    assert "not whole: sort 50% cluster: 0 of 2 runs" in lines


def test_a_wrong_order_is_printed():
    lines = shown([cell("none", [ran(1, 3.0)], [said(1, 1.0)]), cell("vma", [ran(1, 1.0)], [said(1, 2.0)])])

    assert "wrong order: sort 50%: vma is faster than none, replay has it the other way" in lines


def test_the_document_holds_runs_predictions_and_scores():
    document = json.loads(json.dumps(to_document(CELLS, 0.05)))

    first, second, third = document["rows"]
    assert [run["major_faults"] for run in first["measured"]] == [1000, 1010, 1500, 1510]
    assert first["scores"]["major_faults"]["modes"] == [[1000, 1010], [1500, 1510]]
    assert second["predicted"][1] == {
        "wall_ns": 1_050_000_000,
        "major_faults": 610,
        "swap_ins": 911,
        "state": 0,
        "oom_kills": 0,
    }
    assert third["scores"] == {} and third["trouble"] == "0 of 2 runs"
    assert {row["setting"] for row in document["summary"]} == {"none", "vma", "cluster", "all"}
    assert document["order"] == [
        {"program": "sort", "limit_percent": 50, "faster": "vma", "slower": "none", "right": True}
    ]


# -------------------------------------------------------------------------------- memory, moments


def test_limits_are_whole_pages_and_replay_gets_what_is_left_for_anonymous_memory():
    footprint = Footprint(10_000_000, 9_000_000, 81_920, 0, 0)

    limit = limit_bytes(footprint, 35)

    assert limit == 854 * 4096
    assert replay_pages(limit, footprint.kernel_bytes, 4096) == 854 - 20 - 1
    with pytest.raises(ParameterError, match="leaves no anonymous page"):
        replay_pages(81_920, 81_920, 0)


def test_runs_start_at_moments_spread_over_the_kernels_two_seconds(monkeypatch):
    now_ns, slept = 10_300_000_000, []
    monkeypatch.setattr(runs.time, "monotonic_ns", lambda: now_ns)
    monkeypatch.setattr(runs.time, "sleep", slept.append)

    for run in range(4):
        wait_for_moment(run, 4)

    assert slept == [1.95, 0.45, 0.95, 1.45]  # until 0.25, 0.75, 1.25 and 1.75 s into the next 2 s
    assert [moment.phase_ns for moment in starting_moments(4)] == [
        250_000_000, 750_000_000, 1_250_000_000, 1_750_000_000,
    ]  # fmt: skip


def test_each_policy_is_replayed_once_a_moment():
    strided = workload([*range(600), *range(0, 600, 3), *range(600)], step_insns=3_000_000)
    policies = [load_policy(name) for name in ("none", "linux-vma")]
    moments = starting_moments(3)

    results = replay_moments(strided, policies, 300, ssd(), moments)

    for policy, found in zip(policies, results, strict=True):
        alone = [
            replay(strided.moved(place), policy, run_shadow(strided, 300, ssd(), "linux", moment), ssd())
            for place, moment in zip((0, 317, 2 * 317 - 512), moments, strict=True)
        ]
        assert [r.major_faults for r in found] == [r.major_faults for r in alone]
    vma = Prediction.of(results[1][0])
    assert vma.swap_ins == vma.major_faults + results[1][0].prefetch_issued > vma.major_faults


def test_where_the_mappings_lie_is_chance_and_matters_to_readahead_by_vma_alone():
    strided = workload([*range(2000), *range(0, 2000, 2), *range(1, 2000, 2)])
    policies = [load_policy(name) for name in ("none", "linux-cluster", "linux-vma")]

    results = replay_moments(strided, policies, 1000, ssd(), [*CURRENT] * 9)

    none, cluster, vma = ({result.major_faults for result in found} for found in results)
    assert (len(none), len(cluster)) == (1, 1)
    assert max(vma) > 1.3 * min(vma)


def test_a_program_at_its_own_speed_takes_what_it_took_without_a_limit():
    strided = workload([*range(600), *range(0, 600, 3)], step_insns=20_000)

    own = at_own_speed(strided, ssd(), 10**9)

    [[unlimited]] = replay_moments(strided, [load_policy("none")], 600, own, starting_moments(1))
    assert 10**9 - unlimited.runtime_ns in range(int(strided.insns[-1]) // 1000 + 1)


def test_behind_a_loop_device_it_matters_when_between_ticks_a_program_begins():
    walked = workload(
        [*range(2000), *[page for at in range(0, 2000, 40) for page in (*range(at, at + 40), at // 2)] * 3],
        kinds=[1] * (2000 + 2050 * 3),
        step_insns=50_000,  # 10 ms without reclaim: statistics are up to date by then
    )
    none, moments = [load_policy("none")], current_moments()

    behind = on_swap(ssd(), loop=True)
    [of_file] = replay_moments(walked, none, 1000, on_swap(behind, loop=False), moments)
    [of_loop] = replay_moments(walked, none, 1000, behind, moments)

    assert len({result.major_faults for result in of_file}) == 1
    assert len({result.major_faults for result in of_loop}) > 1


def test_a_cell_is_held_to_the_state_of_the_machine_that_its_runs_were_in():
    both = [said(25, 0.1), said(27, 0.1), Prediction(10**9, 98, 98, 1), Prediction(10**9, 100, 100, 1)]

    stuck, ahead = cell("cluster", [ran(101, 1.2)], both), cell("cluster", [ran(24, 0.2)], both)

    assert (score_cell(stuck, MAJOR).predicted, score_cell(stuck, MAJOR).state) == (99, 1)
    assert score_cell(stuck, MAJOR).other_states == (26,)
    assert (score_cell(stuck, WALL).predicted, score_cell(ahead, WALL).predicted) == (1e9, 1e8)
    assert score_cell(ahead, MAJOR).error == 2 / 24


def test_readahead_by_cluster_stays_off_where_none_was_of_use_before():
    strided = workload([*range(600), *range(0, 600, 2), *range(1, 600, 2)], step_insns=3_000_000)
    moments = starting_moments(1)

    booted, after = replay_moments(strided, find_setting("cluster").policies, 300, ssd(), moments)

    assert after[0].prefetch_issued == 0 and after[0].major_faults > 550
    assert booted[0].major_faults < after[0].major_faults / 2


def test_an_unknown_setting_names_the_nearest():
    assert [policy.name for policy in find_setting("cluster").policies] == ["linux-cluster"] * 2
    with pytest.raises(ParameterError, match="did you mean 'cluster'"):
        find_setting("clusters")


def test_what_writes_take_is_a_mean_and_what_reads_take_a_median():
    looks = [{"latency_ns": ns, "writeout_ns": ns} for ns in (2500, 2500, 2500, 14_500)]
    assert of_cell([*looks, {}]) == {"latency_ns": 2500, "writeout_ns": 5500}


def test_a_cell_is_replayed_for_the_disk_that_its_runs_had(tmp_path):
    trace, footprint = strided_trace(tmp_path / "t.kdt"), Footprint(12 << 20, 12 << 20, 0, 0, 50_000_000)
    slow = of_cell([{"latency_ns": 90_000}, {"latency_ns": 100_000}, {}, {"latency_ns": 900_000}])
    disks = {(1500, "none"): {}, (1500, "vma"): {}, (1600, "none"): slow, (1600, "vma"): {}}

    known = predict_program(trace.path, disks, "ssd", False, footprint)
    same = predict_program(trace.path, {key: {} for key in disks}, "ssd", False, footprint)

    assert slow == {"latency_ns": 100_000}
    assert {key for key in disks if known[key] != same[key]} == {(1600, "none")}
    for on_slow, on_ssd in zip(known[1600, "none"], same[1600, "none"], strict=True):
        longer_ns = (100_000 - ssd().number("latency_ns")) * on_ssd.major_faults
        assert on_ssd.major_faults > 1000  # not the same number on both: statistics go by the clock
        assert on_slow.wall_ns - on_ssd.wall_ns == pytest.approx(longer_ns, rel=0.2)


# ----------------------------------------------------------------------------------------- for real


def bench(*arguments: str, **more) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.fidelity", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def left_of(process) -> list[str]:
    """Return what of a bench is still there: its swap file, its swap, its cgroups."""
    file = Path(f"/var/tmp/kdtool-fidelity-{process.pid}.img")
    swap = [device.path for device in swap_devices() if device.backing == str(file)]
    memory = find_layout().memory
    assert memory is not None
    cgroups = [str(path) for path in memory.root.glob(f"kdtool-{process.pid}-*")]
    return [*([str(file)] if file.exists() else []), *swap, *cgroups]


@pytest.mark.root
@needs.root
@needs.tracefs
@needs.qemu
def test_a_small_program_is_measured_replayed_and_scored_again_without_the_kernel(tmp_path):
    program = f"tiny={needs.compiled(tmp_path, 'strides')} 6000 7 6000"
    arguments = ("--work", str(tmp_path / "work"), "--programs", "--command", program, "--limits", "60",
                 "--settings", "none-current", "--runs", "1", "--swap-size", "256M", "--json")  # fmt: skip

    measured = bench(*arguments)
    out, err = measured.communicate()
    again = bench(*arguments, "--score-only")
    out_again, _ = again.communicate()

    assert (measured.returncode, again.returncode) == (0, 0), err
    (row,) = json.loads(out)["rows"]
    assert row["measured"][0]["major_faults"] > 4000
    # One run beside whatever else runs; how near the kernel is over many is the bench's own table.
    assert abs(row["scores"]["major_faults"]["error"]) < 0.2
    assert row["memory_pages"] < row["limit_bytes"] // 4096
    assert set(row["disk"]) == set(DRIFTING) and row["disk"]["latency_ns"] > 0
    assert json.loads(out_again)["rows"] == [row]
    assert not left_of(measured)


@pytest.mark.root
@needs.root
def test_a_guard_that_starts_late_puts_back_what_was_before(tmp_path):
    no_pid, no_swap = "999999999", str(tmp_path / "none.img")
    guard = [sys.executable, "-m", "bench.fidelity.guard", no_pid, no_swap, "2"]

    with page_cluster(0):  # as if the bench had gone on before its guard had begun
        subprocess.run(guard, input=b"", cwd=ROOT, check=False)
        assert read_page_cluster() == 2


@pytest.mark.root
@needs.root
@needs.tracefs
@needs.qemu
def test_nothing_is_left_even_when_the_bench_is_killed(tmp_path):
    program = f"long={needs.compiled(tmp_path, 'strides')} 6000 7 6000"
    killed = bench("--work", str(tmp_path / "work"), "--programs", "--command", program, "--limits", "60",
                   "--settings", "none-current", "--runs", "50", "--swap-size", "256M")  # fmt: skip
    before = read_page_cluster()
    assert killed.stderr is not None
    while "run 1:" not in killed.stderr.readline():
        assert killed.poll() is None

    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    deadline = time.monotonic() + 20
    while left_of(killed) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left_of(killed)
    assert read_page_cluster() == before
