"""Several threads and processes in one trace: clocks of their own, and who goes on."""

from dataclasses import replace

import numpy as np
import pytest
from builders import callable_part, ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import TraceError
from kdtool.replay import drive as drive_module
from kdtool.replay import load_policy, replay, run_shadow
from kdtool.replay import threads as threads_module
from kdtool.replay.clocks import switch_thread
from kdtool.replay.curve import miss_curve
from kdtool.replay.memory import NOW, NOW_NS, RECLAIMS, THREAD, Flush, new_memory
from kdtool.replay.policies import POLICIES
from kdtool.replay.waits import MOST_BEHIND_INSNS, find_wakes
from kdtool.traces import RefKind, VmaFlag

LATENCY_NS = ssd().number("latency_ns")
INSN_PS = ssd().number("insn_ps")


def rows_of(*threads, step_insns=100, order=None):
    """Return a workload whose thread t, of process t, touches the pages threads[t] in their order.

    order : thread of each row; one row of each in turn if it is not given
    """
    if order is None:
        order = [t for _ in range(max(map(len, threads))) for t in range(len(threads))]
    left = [iter(pages) for pages in threads]
    done, vpns, tids, insns = [0] * len(threads), [], [], []
    for thread in order:
        page = next(left[thread], None)
        if page is not None:
            done[thread] += step_insns
            vpns.append(page)
            tids.append(thread + 1)
            insns.append(done[thread])
    return workload(vpns, tids=tids, pids=tids, insns=insns)


def score(w, pages, name="none", reclaim="linux", device=None, from_row=0):
    device = device or ssd()
    shadow = run_shadow(w, pages, device, reclaim)
    return replay(w, load_policy(name), shadow, device, from_row=from_row)


def test_threads_wait_side_by_side():
    sweep = [*range(300)] * 3
    alone = score(rows_of(sweep), 200)
    both = score(rows_of(sweep, sweep), 400)
    assert both.major_faults == pytest.approx(2 * alone.major_faults, rel=0.05)
    assert both.stall_ns > 1.9 * alone.stall_ns
    assert both.runtime_ns < 1.3 * alone.runtime_ns


def test_a_thread_that_finds_its_pages_ends_before_one_that_waits():
    # Recorded in turn, their 500 pages do not fit; but 400 do, once the quick one has ended.
    w = rows_of([*range(400)] * 6, [*range(100)] * 24)
    recorded, by_time = score(w, 420, reclaim="lru"), score(w, 420)
    assert recorded.major_faults == 2000
    assert by_time.major_faults < 200


def test_processes_that_are_recorded_in_blocks_fault_side_by_side():
    # As a recorder that gives them the CPU in turn sees them: 30 references each.
    sweep = [*range(300)] * 4
    order = [t for _ in range(40) for t in (0, 1) for _ in range(30)]
    blocks, in_turn = (rows_of(sweep, sweep, order=each, step_insns=10_000) for each in (order, None))
    a, b = score(blocks, 400), score(in_turn, 400)
    assert a.major_faults == pytest.approx(b.major_faults, rel=0.05)
    assert a.runtime_ns == pytest.approx(b.runtime_ns, rel=0.05)


def test_a_thread_that_slept_goes_on_when_what_woke_it_is_done():
    # Thread 1 makes 20 references, thread 2 then works for long, and thread 1 ends with five more.
    step = MOST_BEHIND_INSNS
    order = [0] * 20 + [1] * 30 + [0] * 5
    w = rows_of([*range(25)], [*range(30)], step_insns=step, order=order)
    assert w.wakes.row.tolist() == [20, 50]
    work_ns = step * INSN_PS // 1000
    result = score(w, 100)
    # What a thread did just before it woke is not behind what it waited for.
    assert 53 * work_ns <= result.runtime_ns < 54 * work_ns


def test_a_thread_begins_where_the_one_before_it_was():
    w = rows_of([*range(20)], [*range(10)], order=[0] * 15 + [1, 0] * 5 + [1] * 5)
    assert w.wakes.row.tolist() == [15]


def test_who_is_behind_a_little_did_not_sleep():
    insns = np.array([0, 0, MOST_BEHIND_INSNS - 1, 10, 2 * MOST_BEHIND_INSNS, 20])
    thread = np.array([0, 1, 0, 1, 0, 1], np.int32)
    assert find_wakes(insns, thread, 2).row.tolist() == [1, 5]


def test_a_clock_that_goes_back_is_of_a_new_program():
    w = workload([1, 2, 3, 4, 5, 6], tids=[1, 2, 1, 2, 1, 2], insns=[100, 7, 300, 9, 50, 4])
    assert w.insns.tolist() == [100, 7, 300, 9, 350, 13]
    assert w.last_insns.tolist() == [350, 13]
    assert w.tids.tolist() == [1, 2]


def test_more_instructions_than_can_be_counted_are_refused():
    with pytest.raises(TraceError, match="more than 2\\^63 instructions"):
        workload([1, 2], tids=[1, 2], insns=[2**62, 2**62 + 1])


def test_an_exact_lru_goes_by_the_recorded_order():
    rng = np.random.default_rng(3)
    w = rows_of(*(rng.integers(0, 60, 400).tolist() for _ in range(3)))
    curve = miss_curve(w)
    for pages in (40, 90, 150):
        assert score(w, pages, reclaim="lru").major_faults == curve.major_faults(pages)


def test_what_a_process_unmaps_is_gone_when_it_gets_there():
    # Each of two processes fills 50 pages, unmaps them, and fills them again: all cold, nothing swapped.
    maps = {
        "row": np.array([0, 0, 100, 100, 100, 100]),
        "pid": np.array([1, 2, 1, 1, 2, 2], np.int32),
        "start_vpn": np.zeros(6, np.uint64),
        "end_vpn": np.full(6, 50, np.uint64),
        "flags": np.array([3, 3, VmaFlag.UNMAPPED, 3, VmaFlag.UNMAPPED, 3], np.uint8),
    }
    tids = [1, 2] * 100
    vpns = [page for _ in range(2) for page in range(50) for _ in range(2)]
    insns = [100 * (i // 2 + 1) for i in range(200)]
    kinds = [RefKind.STORE] * len(vpns)
    w = workload(vpns, tids=tids, pids=tids, insns=insns, maps=maps, kinds=kinds)
    result = score(w, 110)
    assert (result.cold_faults, result.major_faults, result.hits) == (200, 0, 0)


def test_what_is_mapped_to_the_end_stays_until_the_last_thread_of_its_process_ends():
    # The quick thread makes the last reference of the trace, and is done long before the slow one.
    n = 300
    tids = [1, 2] * n
    vpns = [page for i in range(n) for page in (i % 100, 500 + i % 3)]
    insns = [own for i in range(n) for own in (100_000 * (i + 1), 10 * (i + 1))]
    maps = {
        "row": np.array([0, 2 * n]),
        "pid": np.ones(2, np.int32),
        "start_vpn": np.zeros(2, np.uint64),
        "end_vpn": np.full(2, 1000, np.uint64),
        "flags": np.array([3, VmaFlag.UNMAPPED], np.uint8),
    }
    kinds = [RefKind.STORE] * len(vpns)
    w = workload(vpns, tids=tids, pids=[1] * (2 * n), insns=insns, maps=maps, kinds=kinds)
    assert len(w.free_row) == 103
    assert score(w, 110).cold_faults == 103


@st.composite
def several(draw):
    """Return a workload of up to four threads of up to three processes, some of which sleep."""
    n = draw(st.integers(2, 4))
    order = draw(st.lists(st.integers(0, n - 1), min_size=30, max_size=300))
    vpns = draw(st.lists(st.integers(0, 40), min_size=len(order), max_size=len(order)))
    steps = draw(st.lists(st.sampled_from([1, 100, 50_000, 9_000_000]), min_size=30, max_size=30))
    insns, own = [], [0] * n
    for i, who in enumerate(order):
        own[who] += steps[i % 30]
        insns.append(own[who])
    kinds = draw(st.lists(st.integers(0, 1), min_size=len(order), max_size=len(order)))
    tids = [who + 10 for who in order]
    return workload(vpns, tids=tids, pids=[min(who, 2) + 1 for who in order], insns=insns, kinds=kinds)


@pytest.mark.parametrize("reclaim", RECLAIMS)
@settings(max_examples=60, deadline=None)
@given(w=several(), extra=st.integers(0, 30), policy=st.sampled_from(POLICIES), chunk=st.integers(1, 50))
def test_every_reference_is_made_once_whatever_the_chunks(reclaim, w, extra, policy, chunk):
    device = ssd()
    pages = policy.degree_pages + 2 + extra
    shadow = run_shadow(w, pages, device, reclaim)
    whole = replay(w, policy, shadow, device, from_row=w.n_refs // 3)
    before, drive_module.CHUNK_ROWS = drive_module.CHUNK_ROWS, chunk
    try:
        parts = replay(w, policy, shadow, device, from_row=w.n_refs // 3)
    finally:
        drive_module.CHUNK_ROWS = before
    assert replace(whole, replay_s=0) == replace(parts, replay_s=0)

    r = replay(w, policy, shadow, device)
    assert r.accesses == r.hits + r.minor_faults + r.major_faults + r.cold_faults == w.n_refs
    assert r.cold_faults == len(np.unique(w.page))
    assert r.prefetch_issued == r.prefetch_used + r.prefetch_wasted + r.prefetch_unresolved
    longest_ns = int(w.last_insns.max()) * INSN_PS // 1000
    assert r.runtime_ns >= longest_ns
    assert r.runtime_ns <= int(w.last_insns.sum()) * INSN_PS // 1000 + r.stall_ns + w.n_refs * LATENCY_NS


def test_waits_differ_by_an_eighth_at_most_and_not_in_all():
    unevenness = callable_part(threads_module._unevenness)
    parts = np.array([unevenness(row) for row in range(5000)])
    assert parts.min() >= -128 and parts.max() <= 127
    assert abs(parts.mean()) < 2


def with_cpus(n_cpus):
    return ssd().having({"n_cpus": n_cpus})


@pytest.mark.parametrize(("n_cpus", "times"), [(0, 1), (1, 4), (2, 2), (3, 4 / 3), (4, 1), (5, 1)])
def test_threads_that_only_work_share_the_cpus(n_cpus, times):
    w = rows_of(*([*range(50)] * 4 for _ in range(4)), step_insns=1_000_000)
    alone, shared = score(w, 300).runtime_ns, score(w, 300, device=with_cpus(n_cpus)).runtime_ns
    assert shared == pytest.approx(times * alone, rel=0.02)


def test_threads_that_wait_leave_their_cpu_to_others():
    # Of the time for a page, four threads spend more than half waiting for it: two CPUs are nearly enough.
    w = rows_of(*([*range(200)] * 3 for _ in range(4)), step_insns=1000)
    many, two = score(w, 100), score(w, 100, device=with_cpus(2))
    assert many.major_faults > 1000
    assert two.major_faults == pytest.approx(many.major_faults, rel=0.05)
    assert many.runtime_ns < two.runtime_ns < 1.5 * many.runtime_ns


@pytest.mark.parametrize(("reclaim", "clock_ns"), [("linux", 10), ("lru", 1000)])
def test_in_streams_a_thread_does_not_take_over_the_time_of_anothers_fault(reclaim, clock_ns):
    memory = new_memory(100, 100, reclaim, Flush(), n_threads=2)
    memory.scalars[[THREAD, NOW_NS]] = 0, 1000  # the last fault was of thread 1
    memory.clocks[:, NOW] = 10
    callable_part(switch_thread)(1, memory.arrays())
    assert memory.clocks[0, NOW] == clock_ns
