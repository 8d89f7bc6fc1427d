"""calibrate: numbers from repeats, what is refused, and that what is counted is counted right."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import needs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import refused

from kdtool.calibrate import plan, rounds
from kdtool.calibrate.limited import Calls, Limited, Pass
from kdtool.calibrate.model import numbers_of
from kdtool.calibrate.numbers import summarize
from kdtool.calibrate.plan import LAYOUT, Plan, choose_swap, make_plan
from kdtool.calibrate.reads import ReadRound, come_together, device_ns, queue_ns
from kdtool.calibrate.rounds import Round
from kdtool.collect import pageprobe
from kdtool.collect.base import Request
from kdtool.collect.blockreads import Reads, pair_reads
from kdtool.collect.pageprobe import Spent, Touches, run_instructions
from kdtool.collect.refs import References
from kdtool.collect.session import record
from kdtool.errors import CapabilityError
from kdtool.kernel.host import base_slice_ns, real_time, tick_ns
from kdtool.kernel.swap import Disk, SwapDevice, WriteQueue
from kdtool.replay import DEVICE_FIELDS
from kdtool.replay.blockqueue import submit_io
from kdtool.replay.memory import N_DEVICE, N_SCALARS
from kdtool.rmt import Vm, worst_case
from kdtool.rmt.codec import from_document, to_document
from kdtool.rmt.packed import pack
from kdtool.rmt.steptime import DEGREE_PAGES, step_program, time_steps

ROOT = [pytest.mark.root, needs.root, needs.tracefs, needs.gcc]
INSTANCES = Path("/sys/kernel/tracing/instances")
MIB = 1 << 20
READS = ReadRound(
    latency_ns=40_000, fault_ns=61_000, major_faults=128, sleeps=128, service_ns=9_000, transfer_ns=2_000,
    merged_pages=85, batched=1, minor_ns=1_500, batch_ns=2_400, range_ns=1_600,
)  # fmt: skip
ROUND = Round(reads=READS, cold_ns=1_700, reclaim_ns=3_000, step_ps=17_000, insn_ps=250)
LIMITED = Limited(
    [9_700, 8_700, 30_000],
    [
        *[Pass(9_000, 6_000, 0), Pass(6_500, 0, 0), Pass(6_600, 0, 20), Pass(5_000, 0, 0)],
        *[Pass(9_500, 0, 6_144), Pass(9_000, 0, 6_144), Pass(20_000, 0, 4_096), Pass(90_000, 0, 1_000)],
    ],
    [Calls(10, 40, 26_000), Calls(100, 100, 13_000), Calls(1, 4, 90_000)],
)
"""Clean passes in which the agent kept ahead: 5,000 beyond minor_ns; dirty ones: twice 3,000, and more. A
call of four pages takes 16,000 for these, of one 4,000."""
SWAP = SwapDevice("/dev/kdtool-none", "disk", None, False, False, 1024 * MIB, 0, -2)


# ---------------------------------------------------------------------------------------- statistics


@given(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=50))
def test_median_and_quartiles_are_samples_with_so_many_on_each_side(samples: list[int]) -> None:
    number = summarize("cold_ns", samples, "a test")

    low, high = number.quartiles
    assert {number.median, low, high} <= set(samples)
    assert low <= number.median <= high
    for bound, quarters in ((low, 1), (number.median, 2), (high, 3)):
        assert 4 * sum(sample <= bound for sample in samples) >= quarters * len(samples)
        assert 4 * sum(sample < bound for sample in samples) < quarters * len(samples)
    assert number.value == max(number.median, 0) and number.repeats == len(samples)


def test_a_repeat_that_could_not_be_used_is_not_counted() -> None:
    assert summarize("cold_ns", [None, 4, 4, None, 9], "a test").repeats == 3


def test_too_few_repeats_are_an_error() -> None:
    with pytest.raises(CapabilityError, match="latency_ns: only 2 of 4 repeats could be used"):
        summarize("latency_ns", [1, 2, None, None], "a test")


BY_WORKER = WriteQueue(by_worker=True, request_pages=128, write_requests=16)


def test_numbers_of_a_device_with_a_queue() -> None:
    found = [replace(ROUND, reads=replace(READS, fault_ns=61_000 + extra)) for extra in (-500, 0, 9_000_000)]

    numbers = numbers_of(found, LIMITED, "a disk, a CPU, Linux 9", queued=True, writes=BY_WORKER)

    assert tuple(numbers) == DEVICE_FIELDS
    values = [40_000, 9_000, 2_000, 0, 1, 21_000, 1_500, 1_700, 2_400, 1_600, 10_000, 3_000]
    values += [11_433]  # of the three fills the mean
    values += [5_000, 6_000, 17_000, 250]
    values += [len(os.sched_getaffinity(0)), base_slice_ns(os.cpu_count() or 1), tick_ns(), 128, 16]
    assert [number.value for number in numbers.values()] == values
    assert numbers["major_ns"].quartiles == (20_500, 9_021_000)
    assert "block_rq_issue" in numbers["latency_ns"].source
    assert "85 pages a read" in numbers["transfer_ns"].source
    assert "slept in 384 of 384" in numbers["synchronous"].source
    assert all(number.source.endswith("; a disk, a CPU, Linux 9") for number in numbers.values())


def test_an_agent_that_never_kept_ahead_is_said_not_to_have() -> None:
    behind = replace(LIMITED, passes=[Pass(9_000, 6_000, 0)] * 8)

    with pytest.raises(CapabilityError, match=r"beside_ns: only 0 of 0 .* did not keep ahead"):
        numbers_of([ROUND] * 3, behind, "a disk", queued=True, writes=BY_WORKER)


def test_numbers_of_a_device_that_the_faulting_thread_reads_itself() -> None:
    reads = replace(READS, latency_ns=1_900, fault_ns=5_000, batch_ns=4_100, sleeps=0)
    found = [replace(ROUND, reads=reads)] * 3

    numbers = numbers_of(found, LIMITED, "zram", queued=False, writes=WriteQueue(False, 1, 0))

    assert numbers["synchronous"].value == 1
    assert numbers["slice_ns"].value == 0
    assert numbers["service_ns"].value == numbers["transfer_ns"].value == numbers["batched"].value == 0
    assert (numbers["major_ns"].value, numbers["prefetch_ns"].value) == (3_100, 2_200)
    assert "block_bio_queue" in numbers["latency_ns"].source


# ----------------------------------------------------------------------------------- reads and queues


def reads(*rows: tuple[int, int, int]) -> Reads:
    issue, complete, pages = np.array(rows, np.int64).reshape(-1, 3).T
    return Reads(issue, complete, pages)


def test_a_sector_read_twice_is_two_reads_and_halves_are_left_out() -> None:
    begins = np.array([[10, 64, 8], [30, 64, 8], [35, 800, 8]])
    ends = np.array([[5, 64, 8], [20, 64, 8], [50, 64, 8]])

    found = pair_reads(begins, ends)

    assert found.issue_ns.tolist() == [10, 30] and found.complete_ns.tolist() == [20, 50]


def test_a_touchs_read_is_the_only_one_in_its_time() -> None:
    begin = np.array([0, 100, 200, 300])
    touches = Touches(begin, begin + 90, Spent(0, 0, 4, 4))
    seen = [(10, 50, 1), (110, 170, 1), (210, 250, 1), (220, 260, 1), (310, 340, 2)]

    assert device_ns(touches, reads(*seen)) == (
        50,
        90,
    )  # the third touch had two, the fourth one of two pages
    assert device_ns(touches, reads(*seen[1:])) is None


@given(
    latency=st.integers(1, 10**7),
    service=st.integers(0, 10**6),
    transfer=st.integers(0, 10**6),
    n=st.integers(2, 64),
    merged=st.booleans(),
)
def test_the_time_a_queued_page_takes_is_what_replay_would_add_for_it(
    latency: int, service: int, transfer: int, n: int, merged: bool
) -> None:
    device = np.array([latency, service, transfer, *[0] * (N_DEVICE - 3)], np.int64)
    scalars = np.zeros(N_SCALARS, np.int64)
    slots = np.arange(n) * (1 if merged else 5)
    now = 10**9  # the device has been idle
    ends = [submit_io(int(slot), now, scalars, device) for slot in slots]

    found = queue_ns(reads(*((now, end, 1) for end in ends)), n, latency)

    assert found == (transfer if merged else service)


@pytest.mark.parametrize(("ends", "together"), [((60, 70, 80), 1), ((30, 60, 90), 0), ((90, 91, 31), 0)])
def test_reads_come_together_when_the_first_of_them_ends_late(ends: tuple[int, ...], together: int) -> None:
    windows = [(at, at + end, 1) for at in (0, 100, 200) for end in ends]

    assert come_together(reads(*windows), 3, 3) == together
    assert come_together(reads(*windows, (300, 301, 1)), 3, 3) is None


def test_a_queue_with_others_reads_is_not_counted() -> None:
    assert queue_ns(reads((0, 50, 1), (1, 60, 2)), 2, 40) is None


# ------------------------------------------------------------------------------ what is refused, and how


@pytest.fixture
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a host whose one swap device could be measured."""
    monkeypatch.setattr(plan, "ZSWAP", Path("/nonexistent"))
    monkeypatch.setattr(plan, "swap_devices", lambda: [SWAP])
    monkeypatch.setattr(plan, "swap_disk", lambda device: Disk("none", 1, True))
    monkeypatch.setattr(plan, "check_page_cluster", lambda: 3)


@pytest.mark.usefixtures("_host")
def test_a_plan_says_what_is_measured() -> None:
    assert make_plan(Path("h.json"), 1.0) == Plan(Path("h.json"), 1.0, SWAP, Disk("none", 1, True), 3)


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize(
    ("devices", "saying"),
    [
        ([], "no swap is on, and swap is what is measured: scripts/swap up"),
        ([SWAP, replace(SWAP, path="/dev/other")], "have one priority, pages go to both"),
        ([replace(SWAP, size_bytes=100 * MIB)], "116 MiB are needed, with half of all swap free"),
        ([replace(SWAP, used_bytes=448 * MIB)], "116 MiB are needed, with half of all swap free"),
        ([SWAP, replace(SWAP, used_bytes=1024 * MIB, priority=-3)], "with half of all swap free"),
    ],
)
def test_swap_that_cannot_be_measured_is_one_line(
    devices: list[SwapDevice], saying: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "swap_devices", lambda: devices)

    with pytest.raises(CapabilityError) as error:
        make_plan(Path("h.json"), 1.0)

    assert saying in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("_host")
def test_a_swap_file_whose_disk_cannot_be_told_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "swap_disk", lambda device: None)

    with pytest.raises(CapabilityError, match="its disk is not in /sys/dev/block"):
        make_plan(Path("h.json"), 1.0)


@pytest.mark.usefixtures("_host")
def test_zswap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enabled").write_text("Y\n")
    monkeypatch.setattr(plan, "ZSWAP", tmp_path / "enabled")

    with pytest.raises(CapabilityError, match=r"zswap is on.*echo N >"):
        make_plan(Path("h.json"), 1.0)


def test_the_device_of_the_highest_priority_is_measured() -> None:
    first, last = (replace(SWAP, path=f"/dev/{n}", priority=n) for n in (5, -3))

    assert choose_swap([SWAP, first, last]) == first


def test_a_bad_name_or_duration_is_one_line(tmp_path: Path) -> None:
    refused("calibrate", "-o", tmp_path / "host", saying="ends in .json: give -o host.json")
    for duration in ("0", "-1", "51", "nan"):
        refused(
            "calibrate", "-o", tmp_path / "h.json", "--duration", duration, saying=f"--duration {duration},"
        )
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- instructions and steps


@needs.gcc
@needs.qemu
@pytest.mark.qemu
def test_the_counted_instructions_are_those_that_qemu_counts(tmp_path: Path) -> None:
    source = Path(pageprobe.__file__).resolve().parent
    program = tmp_path / "passes"
    subprocess.run(["gcc", "-O2", f"-I{source}", "-o", program, needs.PROGRAMS / "passes.c"], check=True)
    counted, matrix, to = [], np.ones((16, 100)), np.zeros((12, 100))
    for times in (10, 110):
        request = Request((str(program), str(times)), tmp_path / f"{times}.kdt")
        trace = record(request, [References()])
        counted.append(trace.manifest.collector["sources"]["refs"]["insns"])

    expected = run_instructions(matrix, to, 5, 100)[0]

    assert expected == 100 * 5 * (1 + 12 * (7 + 9 * 50))
    # What C does between two passes is not counted: 10 instructions to 5,500.
    assert expected <= counted[1] - counted[0] <= expected * 1.005


def test_the_filter_computes_what_it_says() -> None:
    matrix = np.random.default_rng(0).random((9, 24))
    to = np.zeros((5, 8))

    run_instructions(matrix[:, 8:16], to, 5, 2)

    expected = 2 / 16 * np.array([matrix[row : row + 5, 8:16].sum(axis=0) for row in range(5)])
    assert np.allclose(to, expected)


def test_steps_are_those_that_the_reference_counts() -> None:
    program = step_program(3)
    assert from_document(to_document(program)).budget == worst_case(program)

    steps, cpu_ns = time_steps(pack(program), 50, seed=4)

    vm, counted = Vm(program), 0
    for page in np.random.default_rng(4).integers(1 << 30, 1 << 31, 50).tolist():
        assert len(vm.decide({"vpn": page, "pid": 1, "tid": 1, "ip": 1, "region": 1, "major": 1})) > 0
        counted += vm.steps
    assert steps == counted == 50 * DEGREE_PAGES * 14
    assert cpu_ns > 0


@pytest.mark.root
@needs.root
def test_real_time_ends_with_the_block() -> None:
    before = os.sched_getscheduler(0)

    with real_time():
        inside = os.sched_getscheduler(0)

    assert inside == os.SCHED_FIFO and os.sched_getscheduler(0) == before


def test_the_layout_keeps_to_256_mib_of_memory_and_of_swap() -> None:
    matrix = 8 * rounds.MATRIX_ROWS * (rounds.MATRIX_COLUMNS + rounds.BLOCK_COLUMNS)
    assert LAYOUT.pages * 4096 + matrix < 256 * MIB
