"""Replay: counts that balance, an LRU that is exact, and what holds for every policy."""

import mmap
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from builders import list_pages, refs_columns, ssd, strided_trace, workload, workload_from_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.errors import CapabilityError, KdtoolError, ParameterError, TraceError
from kdtool.replay import (
    DEVICE_FIELDS,
    POLICIES,
    ProgramPolicy,
    Setting,
    load_device,
    load_policy,
    load_workload,
    longarrays,
    numbering,
    replay,
    run_shadow,
)
from kdtool.replay import drive as drive_module
from kdtool.replay import run as run_module
from kdtool.replay.lists import ACTIVE_LIST
from kdtool.replay.memory import (
    ACTIVE_COUNT,
    COUNT,
    PLANNED,
    PREFETCHED,
    RECLAIM_KIND,
    RECLAIMS,
    RESIDENT,
    UNMAPPED,
)
from kdtool.replay.numbering import count_distinct, number_keys
from kdtool.replay.policies.base import Prepared
from kdtool.rmt import stride_program
from kdtool.traces import NO_ROW, RefKind, VmaFlag

EVERY_POLICY = (*POLICIES, ProgramPolicy(stride_program()))
REFS = st.lists(st.integers(0, 30), min_size=1, max_size=300)


def score(w, policy, pages, device=None, reclaim="lru", **options):
    device = device or ssd()
    return replay(w, policy, run_shadow(w, pages, device, reclaim), device, **options)


def reference_lru(vpns, capacity):
    """Return (major, cold) of an LRU, written independently of the engine."""
    cache, seen, major, cold = OrderedDict(), set(), 0, 0
    for vpn in vpns:
        if vpn in cache:
            cache.move_to_end(vpn)
            continue
        major, cold = major + (vpn in seen), cold + (vpn not in seen)
        seen.add(vpn)
        cache[vpn] = True
        if len(cache) > capacity:
            cache.popitem(last=False)
    return major, cold


@settings(max_examples=150, deadline=None)
@given(REFS, st.integers(2, 32))
def test_none_is_an_exact_lru(vpns, capacity):
    result = score(workload(vpns), load_policy("none"), capacity)
    assert (result.major_faults, result.cold_faults) == reference_lru(vpns, capacity)


def test_a_hand_worked_case():
    # Pages 1 2 3 in a memory of 2: 1 goes out for 3, comes back for 2, and then 3 is hit.
    result = score(workload([1, 2, 3, 1, 3, 3]), load_policy("none"), 2)
    assert (result.cold_faults, result.major_faults, result.hits) == (3, 1, 2)


def test_pages_of_one_request_come_together():
    # 12 pages get slots 1 to 12; the fault in slot 4 reads slots 1 to 7, which are neighbours.
    w = workload([*range(12), *range(100, 112), 3, *range(7)])
    latency_ns, _, transfer_ns = ssd().values[:3].tolist()

    result = score(w, load_policy("linux-cluster"), 12)

    assert (result.major_faults, result.minor_faults, result.late_hits) == (1, 6, 0)
    assert result.stall_ns == latency_ns + 6 * transfer_ns


@pytest.mark.parametrize("batched", [0, 1])
def test_requests_of_one_window_come_together_where_the_device_is_batched(batched):
    # No neighbours of the window, pages 2 to 9, have neighbouring slots; page 5 is the fourth of eight.
    w = workload([*(i * 5 % 12 for i in range(12)), *range(100, 112), 5])
    device = ssd().having({"batched": batched})
    latency_ns, service_ns = device.number("latency_ns"), device.number("service_ns")

    result = score(w, load_policy("linux-vma"), 12, device)

    assert (result.major_faults, result.prefetch_issued) == (1, 7)
    assert result.stall_ns == latency_ns + (7 if batched else 3) * service_ns


@pytest.mark.parametrize("reclaim", RECLAIMS)
@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.name)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), extra=st.integers(0, 20))
def test_every_policy_keeps_the_books(policy, reclaim, data, extra):
    vpns = data.draw(st.lists(st.integers(0, 60), min_size=20, max_size=400))
    stores = data.draw(st.lists(st.integers(0, 1), min_size=len(vpns), max_size=len(vpns)))
    w, device = workload(vpns, kinds=stores), ssd().by_agent(data.draw(st.sampled_from([0, 1, 30_000])))
    pages = policy.degree_pages + 2 + extra
    shadow = run_shadow(w, pages, device, reclaim)
    missed = np.zeros(w.n_refs, np.uint8)

    state = run_module._run(w, policy, shadow, device, missed, 0, None)
    r = replay(w, policy, shadow, device)

    assert r.accesses == r.hits + r.minor_faults + r.major_faults + r.cold_faults == len(vpns)
    assert r.prefetch_issued == r.prefetch_used + r.prefetch_wasted + r.prefetch_unresolved
    assert r.late_hits <= r.prefetch_used == r.minor_faults - r.cache_hits
    assert r.cold_faults == len(set(vpns))
    assert r.pollution_faults <= r.major_faults == missed.sum()
    if not r.agent_ns:
        assert r.decisions == r.major_faults + r.prefetch_used
    else:  # an agent decides at the first touch of what it predicted, whether that was asked for or not
        assert r.major_faults <= r.decisions <= r.major_faults + r.minor_faults + r.cold_faults
    in_memory = np.isin(state.pages["status"], [RESIDENT, PREFETCHED, UNMAPPED]).sum()
    listed = [list_pages(state.arrays(), which) for which in range(len(state.ends))]
    pages_on_lists = [page for each in listed for page in each]
    assert in_memory == state.scalars[COUNT] <= pages
    by_plan = state.scalars[RECLAIM_KIND] == PLANNED
    assert len(set(pages_on_lists)) == len(pages_on_lists) == (0 if by_plan else in_memory)
    assert all(state.rings[state.pages["place"][page]] == page for page in pages_on_lists)
    assert state.scalars[ACTIVE_COUNT] == (len(listed[ACTIVE_LIST]) if reclaim == "linux" else 0)


@pytest.mark.parametrize("reclaim", RECLAIMS)
@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.name)
def test_the_same_run_twice_in_chunks_or_in_one_is_identical(policy, reclaim, monkeypatch):
    rng = np.random.default_rng(5)
    vpns = np.concatenate([np.arange(400), rng.integers(0, 400, 500), np.arange(0, 400, 3)])
    w = workload(vpns, kinds=rng.integers(0, 2, len(vpns)))
    device = ssd().by_agent(2_000)
    whole, again = (score(w, policy, 100, device, reclaim) for _ in range(2))
    monkeypatch.setattr(drive_module, "CHUNK_ROWS", 7)
    chunked = score(w, policy, 100, device, reclaim)
    assert replace(whole, replay_s=0) == replace(again, replay_s=0) == replace(chunked, replay_s=0)


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.name)
def test_columns_in_files_give_the_same(policy, tmp_path, monkeypatch):
    trace = strided_trace(tmp_path / "t.kdt", n_pages=400)
    in_memory = score(load_workload(trace), policy, 150)
    monkeypatch.setattr(longarrays, "free_memory_bytes", lambda: 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    w = load_workload(trace)

    assert isinstance(w.page.base.obj if isinstance(w.page.base, memoryview) else w.page.base, mmap.mmap)
    assert replace(score(w, policy, 150), replay_s=0) == replace(in_memory, replay_s=0)
    assert {file.name for file in tmp_path.iterdir()} == {"t.kdt"}


def test_no_room_for_columns_in_files_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(longarrays, "free_memory_bytes", lambda: 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(CapabilityError, match=r"no room for .* set TMPDIR"):
        workload([1, 2, 3])


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_missed_when_everything_fits(policy):
    w = workload([*range(200), *range(200)])
    result = score(w, policy, 200)
    assert result.major_faults == result.prefetch_issued == 0
    assert result.cold_faults == 200


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.name)
def test_relabelled_pages_change_nothing(policy):
    vpns = np.concatenate([np.arange(300), np.arange(0, 300, 3), np.arange(300)])
    # By a whole number of 2 MiB tables: Linux's readahead stops at their ends.
    moved = score(workload(vpns + 512 * 1000), policy, 90)
    assert replace(moved, replay_s=0) == replace(score(workload(vpns), policy, 90), replay_s=0)


def test_counting_begins_at_from_row_with_a_warm_memory():
    vpns = [*range(50), *range(50)]
    w = workload(vpns)
    whole, part = score(w, load_policy("none"), 20), score(w, load_policy("none"), 20, from_row=50)
    assert part.accesses == part.major_faults == whole.major_faults == 50
    assert part.cold_faults == 0
    assert 0 < part.runtime_ns < whole.runtime_ns


def test_an_unmapped_page_is_new_when_it_comes_back():
    maps = {
        "row": np.array([0, 2, 2]),
        "pid": np.ones(3, np.int32),
        "start_vpn": np.array([0, 1, 1], np.uint64),
        "end_vpn": np.array([10, 2, 2], np.uint64),
        "flags": np.array([3, VmaFlag.UNMAPPED, 3], np.uint8),
    }
    w = workload([1, 2, 1, 2], maps=maps, kinds=[RefKind.STORE] * 4)
    result = score(w, load_policy("none"), 2)
    assert (result.cold_faults, result.hits) == (3, 1)


def test_a_private_page_is_the_kernels_zero_page_until_it_is_stored_to():
    # do_anonymous_page(): a load maps the zero page, which is nobody's. Pages 0 to 9 are private, 10 to 19
    # are shared memory, 30 is in no mapping that is known; the kernel reads page 2, by a write(2) of it.
    maps = {
        "row": np.array([0, 0, 6, 6]),
        "pid": np.ones(4, np.int32),
        "start_vpn": np.array([0, 10, 1, 1], np.uint64),
        "end_vpn": np.array([10, 20, 2, 2], np.uint64),
        "flags": np.array([3, VmaFlag.SHARED | 3, VmaFlag.UNMAPPED, 3], np.uint8),
    }
    load, store, kernel = RefKind.LOAD, RefKind.STORE, RefKind.KERNEL
    touched = [
        *[(1, load), (11, load), (30, load), (1, store), (1, load), (2, kernel)],
        *[(1, load), (2, store), (2, load), (1, store)],  # 1 was unmapped before
    ]
    vpns, kinds = zip(*touched, strict=True)

    w = workload(vpns, maps=maps, kinds=kinds)

    assert w.keys[w.page].tolist() == [11, 30, 1, 1, 2, 2, 1]
    assert (w.free_row.tolist(), w.keys[w.free_page].tolist()) == ([4], [1])
    result = score(w, load_policy("none"), 3)
    assert (result.cold_faults, result.major_faults, result.hits) == (5, 0, 2)


def test_file_pages_are_left_out_until_a_private_one_is_written():
    maps = {
        "row": np.array([0, 0, 0]),
        "pid": np.ones(3, np.int32),
        "start_vpn": np.array([0, 10, 20], np.uint64),
        "end_vpn": np.array([10, 20, 30], np.uint64),
        "flags": np.array([3, VmaFlag.FILE | 1, VmaFlag.FILE | 3], np.uint8),
    }
    kinds = [RefKind.STORE, 0, 0, RefKind.STORE, 0]
    w = workload([1, 11, 21, 21, 21], maps=maps, kinds=kinds)
    assert w.n_refs == 3  # page 1, and page 21 from its first store on


@pytest.mark.parametrize(("mapped", "then"), [(VmaFlag.FILE | 3, VmaFlag.FILE | 1), (3, 1)])
def test_pages_of_its_own_stay_when_a_mapping_is_made_read_only(mapped, then):
    """As the dynamic linker does with what it has relocated: mprotect_fixup() changes no page."""
    maps = {
        "row": np.array([0, 1]),
        "pid": np.ones(2, np.int32),
        "start_vpn": np.array([20, 20], np.uint64),
        "end_vpn": np.array([30, 30], np.uint64),
        "flags": np.array([mapped, then], np.uint8),
    }
    w = workload([21, 21], maps=maps, kinds=[RefKind.STORE, RefKind.LOAD])
    assert (w.n_refs, w.free_page.tolist()) == (2, [])
    result = score(w, load_policy("none"), 2)
    assert (result.cold_faults, result.hits) == (1, 1)


def test_mappings_without_a_row_are_no_part_of_the_references():
    maps = {
        "row": np.array([NO_ROW]),
        "pid": np.ones(1, np.int32),
        "start_vpn": np.array([0], np.uint64),
        "end_vpn": np.array([10], np.uint64),
        "flags": np.array([VmaFlag.FILE], np.uint8),
    }
    assert workload([1], maps=maps).n_refs == 1


def test_a_prefetch_in_time_costs_a_minor_fault_and_a_late_one_the_rest_of_the_read():
    vpns = [*range(100), *range(0, 99, 3)]
    relaxed = score(workload(vpns, step_insns=10_000_000), load_policy("oracle"), 40, from_row=100)
    hurried = score(workload(vpns, step_insns=1), load_policy("oracle"), 40, from_row=100)
    assert relaxed.late_hits == 0
    assert hurried.late_hits > 0
    assert hurried.stall_ns > relaxed.stall_ns


def test_a_synchronous_device_reads_nothing_ahead():
    w = workload([*range(100), *range(100)])
    for name in ("linux-vma", "linux-cluster"):
        assert score(w, load_policy(name), 50, load_device("zram")).prefetch_issued == 0
        assert score(w, load_policy(name), 50).prefetch_issued > 0


def test_a_policy_that_asks_for_the_page_it_faults_on_gets_nothing():
    w = workload([*range(60), 5, 6, 7, 5, 6, 7])
    policy = load_policy("none")

    class Echo:
        name, version, degree_pages = "echo", "1", 4
        decide = None

        def prepare(self, setting: Setting):
            return policy.prepare(setting)

    from numba import njit

    from kdtool.rmt.numba_vm import DECIDE

    @njit(DECIDE)
    def decide(params, state, ctx, out):
        out[0] = ctx[0]
        return 1

    echo = Echo()
    echo.decide = decide
    assert score(w, echo, 20).prefetch_issued == 0


@pytest.mark.parametrize("follows", [False, True])
def test_who_follows_the_swap_cache_is_told_of_every_page_found_there(follows):
    """A page in writing counts as read ahead: PG_readahead and PG_reclaim are one bit."""
    from numba import njit

    from kdtool.replay.hook import FOUND
    from kdtool.rmt.numba_vm import DECIDE

    @njit(DECIDE)
    def count(params, state, ctx, out):
        state[1 + ctx[5]] += 1
        return 0

    class Counting:
        name, version, degree_pages = "counting", "1", 1
        decide, state = staticmethod(count), np.zeros(4, np.int64)

        def prepare(self, setting: Setting):
            return Prepared(np.zeros(1, np.int64), self.state, follows_cache=follows)

    random = np.random.default_rng(1).integers(0, 400, 5000)
    w = workload(random, kinds=random % 2, step_insns=3_000)
    counting = Counting()
    result = score(w, counting, 300, reclaim="linux")
    written, major, found = counting.state[1 : 2 + FOUND]
    assert major == result.major_faults
    assert written + found == result.minor_faults * follows
    assert (written > 0, found > 0) == (follows, follows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_policy("linux-vna"), "did you mean 'linux-vma'"),
        (lambda: load_device("sdd"), "did you mean 'ssd'"),
        (lambda: load_device("missing.json"), "missing.json"),
        (lambda: score(workload([1, 2], k=64), load_policy("none"), 10), "k = 64"),
        (lambda: score(workload([1, 2]), load_policy("none"), 0), "0 pages"),
        (lambda: score(workload([1, 2]), load_policy("none"), 5, reclaim="mglruu"), "known: linux, lru"),
        (lambda: score(workload([1, 2]), load_policy("none"), 5, from_row=2), "rows 0 to 1"),
    ],
)
def test_bad_parameters_are_named(call, message):
    with pytest.raises(ParameterError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("change", [{"value": -1}, {"value": 1.5}, {"value": None}, {}])
def test_a_device_with_a_bad_number_is_refused(tmp_path, change):
    import json

    document = {name: {"value": 1, "source": "test"} for name in DEVICE_FIELDS}
    document["latency_ns"] = change
    path = tmp_path / "d.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ParameterError):
        load_device(str(path))


def test_a_trace_without_anonymous_references_is_refused():
    maps = {
        "row": np.array([0]),
        "pid": np.ones(1, np.int32),
        "start_vpn": np.array([0], np.uint64),
        "end_vpn": np.array([10], np.uint64),
        "flags": np.array([VmaFlag.FILE | 1], np.uint8),
    }
    with pytest.raises(TraceError, match="anonymous"):
        workload([1, 2], maps=maps)
    assert issubclass(TraceError, KdtoolError)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=60), st.integers(0, 3000))
def test_keys_are_numbered_as_numpy_does_it(keys, more):
    keys = np.array([*keys, *range(more)], np.int64)
    for column in (keys, keys.astype(np.int32)):
        distinct, numbers = np.unique(column, return_inverse=True)
        column.flags.writeable = False
        found, given_numbers = number_keys(column)
        assert found.tolist() == distinct.tolist()
        assert given_numbers.tolist() == numbers.tolist()
        assert count_distinct(given_numbers, len(found) + 1) == len(found)


def test_more_places_than_can_be_told_apart_are_refused(monkeypatch):
    monkeypatch.setattr(numbering, "_MOST_WORDS", 2048)  # the table's first size
    keys = np.arange(2048) << 6
    assert number_keys(keys)[1].tolist() == list(range(2048))
    with pytest.raises(CapabilityError, match="pages in more than 2,048 places"):
        number_keys(np.append(keys, -1))


@pytest.mark.parametrize("field", ["insn_ps", "latency_ns"])
def test_times_that_cannot_be_counted_are_refused(field):
    slow, w = ssd().having({field: 2**40 - 1}), workload([*range(100)] * 1500, step_insns=100)

    score(w, load_policy("none"), 50)
    with pytest.raises(ParameterError, match="give a device with smaller ones"):
        score(w, load_policy("none"), 50, device=slow)


@pytest.mark.parametrize("insns", [[2**63, 5, 6], [2**62, 2**62 + 1, 2**62 - 1]])
def test_a_clock_that_overflows_is_refused(insns):
    columns = refs_columns([1, 2, 3]) | {"insns": np.array(insns, np.uint64)}
    with pytest.raises(TraceError, match=r"more than 2\^63 instructions"):
        workload_from_arrays("test", "0" * 64, columns, None, 0, "data", 32)


def test_as_many_processes_as_keys_have_room_for_are_told_apart_and_more_are_refused():
    n = 2048
    w = workload([5] * n, pids=range(1, n + 1))
    assert w.footprint_pages == n and sorted(w.pids[w.keys >> 52]) == list(range(1, n + 1))
    with pytest.raises(TraceError, match="has 2049 processes, at most 2048"):
        workload([5] * (n + 1), pids=range(1, n + 2))


def test_a_page_beyond_any_address_is_refused():
    with pytest.raises(TraceError, match="page 4503599627370496 is beyond"):
        workload([1, 1 << 52])
