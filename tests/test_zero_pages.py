"""Pages full of zeros: when they are, and that they are neither written nor read."""

from dataclasses import replace

import numpy as np
import pytest
from builders import callable_part, end_of_run, holding, list_pages, ssd, workload, write_refs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forks import FORK, loads, recorded, stores
from test_lrupass import both

from kdtool.errors import TraceError
from kdtool.replay import blockqueue, hook, load_policy, load_workload, replay, run_shadow, shrink, zeropages
from kdtool.replay import drive as drive_module
from kdtool.replay.evict import give_slot
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    ANON_COST,
    AT_ROW,
    COLD_NS,
    COUNT,
    DIRTY,
    LATENCY_NS,
    MINOR_NS,
    PLUG_REQUESTS,
    PREFETCH_NS,
    PREFETCHED,
    RECLAIM_NS,
    RECLAIMED,
    RESIDENT,
    SERVICE_NS,
    SWAPPED,
    TRANSFER_NS,
    UNMAPPED,
    WAITED_NS,
    WORKED_NS,
    WRITEBACK,
    WRITEOUT_NS,
    WRITTEN,
    Flush,
    ZeroPages,
    new_memory,
)

shrink_inactive_list, read_pages, bring_in, holds_zeros, give = map(
    callable_part,
    (shrink._shrink_inactive_list, blockqueue.read_pages, hook.bring_in, zeropages.holds_zeros, give_slot),
)
N_PAGES = 6


def memory_of(*zeros, status=None):
    """Return an empty memory of six pages, of which these hold zeros from the start."""
    begin = np.searchsorted(np.array(zeros), np.arange(N_PAGES + 1)).astype(np.int64)
    notes = ZeroPages(begin, np.full(len(zeros), -1), np.zeros(len(zeros), np.int64))
    memory = new_memory(N_PAGES, N_PAGES, "linux", Flush(), zero_pages=notes)
    if status is not None:
        memory.pages["status"] = status
    return memory.arrays()


def test_a_scan_frees_dirty_pages_full_of_zeros_and_queues_the_others():
    """Pages 1 and 3 of six get their slots in turn, 2 and 4, so that the others make three requests."""
    memory, device = memory_of(1, 3), replace(ssd(), values=ssd().values.copy()).values
    device[[RECLAIM_NS, WRITEOUT_NS]] = 1000, 300
    memory[6][COUNT] = N_PAGES
    for page in range(N_PAGES):
        push_newest(INACTIVE_LIST, page, memory)
        memory[8][page] = DIRTY

    freed = shrink_inactive_list(np.int64(6), np.int64(0), memory, device)

    assert freed == memory[7][RECLAIMED] == 2
    assert memory[7][WRITTEN] == 4
    assert memory[0].tolist() == [UNMAPPED, SWAPPED, UNMAPPED, SWAPPED, UNMAPPED, UNMAPPED]
    assert memory[8].tolist() == [WRITEBACK, 0, WRITEBACK, 0, WRITEBACK, WRITEBACK]
    assert memory[3].tolist() == [1, 2, 3, 4, 5, 6]
    assert list_pages(memory, INACTIVE_LIST) == [0, 2, 4, 5]
    assert memory[6][PLUG_REQUESTS] == 3
    assert memory[6][WORKED_NS] == 6 * 1000 + 4 * 300
    assert memory[6][ANON_COST] == (32 * 6 + 4) // 2, "all six count as written; halved above a quarter"


@pytest.mark.parametrize("missing", [1, 2])
def test_of_a_window_what_is_full_of_zeros_needs_no_read(missing):
    """Of slots 1 to 6 four are read: 1, 3, and 5 with 6, in one request."""
    memory, device = memory_of(1, 3, status=SWAPPED), ssd().values.copy()
    device[[COLD_NS, MINOR_NS, PREFETCH_NS]] = 1500, 1300, 3100
    for page in range(N_PAGES):
        give(page, memory)
    memory[0][missing] = RESIDENT
    out, begin_ns = np.arange(N_PAGES), 10**6

    m = bring_in(np.int64(N_PAGES), np.int64(missing), True, np.int64(100), out, memory, device)
    ready_ns = read_pages(np.int64(m), np.int64(missing), np.int64(begin_ns), out, memory, device)

    read_ahead = {0, 1, 2, 3, 4, 5} - {missing}
    worked_ns = sum(1500 if page in (1, 3) else 3100 for page in read_ahead)
    assert memory[6][WORKED_NS] == worked_ns
    now_ns = begin_ns + worked_ns
    first, second = now_ns + device[LATENCY_NS], now_ns + device[LATENCY_NS] + device[SERVICE_NS]
    last = second + device[SERVICE_NS] + device[TRANSFER_NS]
    ends = [first, 0, second, 0, last, last]
    assert ready_ns == (0 if missing == 1 else second)
    for page in read_ahead:
        assert memory[0][page] == PREFETCHED and memory[5][page] == ends[page]


def test_a_major_fault_on_zeros_works_as_a_first_touch_and_a_minor_fault_and_waits_for_nothing():
    device = ssd().values.copy()
    device[[COLD_NS, MINOR_NS]] = 1500, 1300
    w = holding([(vpn, True, True) for vpn in (*range(40), 0)])
    for reclaim in ("linux", "lru", "mglru"):
        state, missed = end_of_run(w, 20, replace(ssd(), values=device), reclaim)
        assert missed.nonzero()[0].tolist() == [40]
        reclaimed = int(state.counters[RECLAIMED])
        assert state.scalars[WORKED_NS] == 41 * 1500 + 1300 + reclaimed * device[RECLAIM_NS]
        assert state.scalars[WAITED_NS] == state.counters[WRITTEN] == 0


# -------------------------------------------------------------------------------- when they are


def zeros_at(w, row):
    """Return which pages hold zeros once the rows before `row` are done."""
    memory = new_memory(w.n_pages, w.n_pages, "linux", Flush(), zero_pages=w.zeros).arrays()
    memory[6][AT_ROW] = row
    return [page for page in range(w.n_pages) if holds_zeros(page, memory)]


def test_zeros_last_until_a_store_that_leaves_something_else():
    vpns, kinds = [7, 8, 7, 8, 7, 8, 7], [1, 0, 0, 1, 1, 0, 1]
    w = workload(vpns, kinds=kinds, zeros=np.array([0, 1, 6]))

    assert [zeros_at(w, row) for row in range(8)] == [[], [0], [0, 1], [0, 1], [0], [], [], [0]]


def test_a_page_that_comes_after_an_unmapping_is_another_one():
    maps = {
        name: np.array(column)
        for name, column in {
            "pid": [1, 1], "start_vpn": [7, 7], "end_vpn": [9, 8], "flags": [3, 32],
            "row": [0, 2], "offset_pages": [0, 0], "name_id": [0, 0], "ts_ns": [0, 0],
        }.items()
    }  # fmt: skip
    w = workload([7, 8, 7, 8], kinds=[1, 1, 0, 0], maps=maps, zeros=np.array([0, 1]))

    assert [zeros_at(w, row) for row in (2, 3, 4)] == [[0, 1], [1], [1]]


@settings(max_examples=200, deadline=None)
@given(
    refs=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=80),
)
def test_contents_are_those_after_the_last_row_that_is_done(refs):
    w = holding(refs)
    vpns, content = sorted({vpn for vpn, *_ in refs}), {}
    for row, (vpn, store, zeros) in enumerate(refs):
        assert zeros_at(w, row) == [i for i, each in enumerate(vpns) if content.get(each)]
        content[vpn] = zeros if store else content.get(vpn, False)
    assert zeros_at(w, len(refs)) == [i for i, each in enumerate(vpns) if content.get(each)]


def test_after_a_fork_a_copy_holds_what_was_stored_to_it_and_the_other_page_what_it_held():
    """Of two pages of zeros the child stores ones to the first, and zeros to a third, of ones: two copies."""
    before = [*stores(1, 7, 8, 9), (FORK, 1, 2, 0)]
    w = recorded([*before, *stores(2, 7, 9), *loads(1, 7, 9), *loads(2, 8)], zeros=np.array([0, 1, 4]))

    assert w.n_refs == 3 + 2 * 2 + 3, "who copies a page reads it first"
    seven, eight, nine, *_ = pages = w.page.tolist()
    first, second = pages[4], pages[6]
    assert len({seven, eight, nine, first, second}) == 5
    assert zeros_at(w, 3) == zeros_at(w, 5) == sorted([seven, eight])
    assert zeros_at(w, 7) == zeros_at(w, w.n_refs) == sorted([seven, eight, second])


def test_rows_that_are_no_references_are_refused():
    for rows in ([3], [-1], [1, 1], [2, 0]):
        with pytest.raises(
            TraceError, match=r"`zeros` has rows from -?\d to -?\d: each is one of the 3 references"
        ):
            workload([1, 2, 3], zeros=np.array(rows))


def test_a_trace_without_the_table_says_of_no_page_that_it_holds_zeros(tmp_path):
    trace = write_refs(tmp_path / "t.kdt", [1, 2, 3])

    assert "zeros" not in trace.manifest.tables
    assert [len(each) for each in load_workload(trace).zeros] == [0, 0, 0]


# -------------------------------------------------------------------------------- whole replays


@st.composite
def contents(draw):
    """Return the workload of random references, stores and contents; page 1 would follow a new VMA's 0."""
    n = draw(st.integers(1, 400))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    refs = zip(
        rng.integers(512, 572, n), rng.integers(0, 2, n), rng.random(n) < draw(st.floats(0, 1)), strict=True
    )
    return holding([(int(vpn), int(store), bool(zeros)) for vpn, store, zeros in refs])


@settings(max_examples=60, deadline=None)
@given(w=contents(), pages=st.integers(10, 50), chunk=st.integers(1, 300))
def test_an_lru_is_the_same_by_its_faults_and_with_lists_in_chunks_of_any_size(w, pages, chunk):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(drive_module, "CHUNK_ROWS", chunk)
        found = both(w, pages, ssd(), 0)
        patched.setattr(drive_module, "_misses_go_by_order", lambda *_: False)
        assert found == both(w, pages, ssd(), 0)


POLICIES = ("none", "linux-vma", "linux-cluster", "stride", "leap-paper", "oracle", "belady")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("agent_ns", [0, 50_000])
@pytest.mark.parametrize("reclaim", ["linux", "lru", "mglru"])
def test_where_all_pages_are_full_of_zeros_nothing_is_written_and_nobody_waits(policy, agent_ns, reclaim):
    refs = [(vpn, True, True) for vpn in [*range(300), *range(0, 300, 3), *range(300)]]
    w, device = holding(refs), ssd().by_agent(agent_ns)
    none = workload([vpn for vpn, *_ in refs], kinds=[1] * len(refs))
    shadow = run_shadow(w, 150, device, reclaim)
    state, _ = end_of_run(w, 150, device, reclaim, policy=policy)
    result = replay(w, load_policy(policy), shadow, device)
    others = replay(none, load_policy(policy), run_shadow(none, 150, device, reclaim), device)

    assert state.counters[WRITTEN] == 0 < result.major_faults
    if not agent_ns:  # whose calls reserve places, for which a program sleeps
        assert result.stall_ns == 0 < others.stall_ns
        assert result.runtime_ns < others.runtime_ns


@settings(max_examples=40, deadline=None)
@given(w=contents(), pages=st.integers(10, 50), chunk=st.integers(1, 300))
@pytest.mark.parametrize("reclaim", ["linux", "mglru"])
@pytest.mark.parametrize("policy", ["none", "linux-vma", "linux-cluster"])
def test_chunks_and_the_place_in_the_address_space_change_nothing(policy, reclaim, w, pages, chunk):
    def found(each):
        shadow = run_shadow(each, pages, ssd(), reclaim)
        return replace(replay(each, load_policy(policy), shadow, ssd()), replay_s=0.0)

    whole = found(w)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(drive_module, "CHUNK_ROWS", chunk)
        assert found(w) == whole
    assert found(w.moved(512)) == whole


def test_threads_find_what_others_have_left():
    """Two threads whose pages are all full of zeros, in turn; then one of them stores ones to the other's."""
    vpns = [*range(200), *range(200), *range(200)]
    tids = [*([1, 2] * 200), *([2, 1] * 100)]
    insns = np.arange(1, 601) * 30_000
    zeros = np.arange(400)
    w = workload(vpns, kinds=[1] * 600, tids=tids, insns=insns, zeros=zeros)
    state, _ = end_of_run(w, 100, ssd(), "linux")
    memory = state.arrays()
    memory[6][AT_ROW] = w.n_refs

    assert 0 < state.counters[WRITTEN] < 200, "of the last round alone"
    assert not any(holds_zeros(page, memory) for page in range(200))
