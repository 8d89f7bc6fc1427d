"""Who waits for whom: sleeps as they are recorded, and threads that go on when what they wait for is done."""

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import compiled, gcc, qemu

from kdtool.collect import session
from kdtool.collect.base import Request
from kdtool.collect.refs import References
from kdtool.errors import ParameterError, TraceError
from kdtool.replay import load_workload, run_shadow
from kdtool.replay.run import replay_none
from kdtool.replay.waits import Wakes, after_conflicts, recorded_wakes
from kdtool.traces import NO_TID, RefKind

INSN_PS = ssd().number("insn_ps")
MS = 1_000_000
COLUMNS = {"tid": "i4", "row": "i8", "by_tid": "i4", "by_row": "i8", "asked_ns": "i8"}


def waits(*rows):
    """Return the table of sleeps (tid, row, by_tid, by_row, asked_ns)."""
    return {
        name: np.array([row[i] for row in rows], dtype) for i, (name, dtype) in enumerate(COLUMNS.items())
    }


def runtime_ns(w, pages=100, reclaim="linux"):
    return replay_none(w, pages, ssd(), reclaim)[1].runtime_ns


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Who sleepers.c says slept for whom, and the trace of it."""
    folder = tmp_path_factory.mktemp("sleepers")
    said = folder / "said"
    command = (compiled(folder, "sleepers", "-pthread"), str(said))
    trace = session.record(Request(command, folder / "t.kdt", k=16), [References()])
    lines = (line.split() for line in said.read_text().splitlines())
    return [(name, int(who), int(by)) for name, who, by in lines], trace


@qemu
@gcc
def test_a_sleep_is_recorded_with_who_ended_it(told):
    said, trace = told
    table = trace.columns("waits")
    slept = set(zip(table["tid"].tolist(), table["by_tid"].tolist(), strict=True))
    assert [name for name, *_ in said] == [
        "condition", "join", "pipe", "child", "socket", "child", "poll", "child",
    ]  # fmt: skip
    assert {(who, by) for _, who, by in said} <= slept
    assert np.all(table["by_row"] <= table["row"])
    tid = trace.columns("refs")["tid"]
    for by, by_row in zip(table["by_tid"], table["by_row"], strict=True):
        assert by == NO_TID or by in tid[:by_row]


@qemu
@gcc
def test_a_sleep_by_the_clock_is_recorded_with_what_it_asked_for(told):
    table = told[1].columns("waits")
    by_clock = table["asked_ns"][table["by_tid"] == NO_TID]
    asked = sorted(by_clock[by_clock > 0].tolist())
    assert asked[:-1] == sorted([31 * MS, 32 * MS, *[33 * MS] * 3, *[34 * MS] * 3, 35 * MS])
    assert 900 * MS < asked[-1] <= 1000 * MS  # until a moment a second away
    assert not table["asked_ns"][table["by_tid"] != NO_TID].any()


@qemu
@gcc
def test_a_replay_sleeps_as_long_as_the_recorded_program(told):
    # The longest way: 32, then the thread's 31, three times a child's 33, and 35 and 1,000 of its own. The
    # child's last 34 come after its last reference.
    assert 1200 * MS < runtime_ns(load_workload(told[1])) < 1400 * MS


@pytest.mark.parametrize("reclaim", ["linux", "lru"])
def test_a_thread_that_sleeps_by_the_clock_is_later_by_that(reclaim):
    vpns = [*range(50)] * 2
    awake = workload(vpns, waits=waits())
    asleep = workload(vpns, waits=waits((1, 20, NO_TID, 20, 5 * MS), (1, 20, NO_TID, 20, 2 * MS)))
    assert asleep.wakes.row.tolist() == [20]
    assert runtime_ns(asleep, reclaim=reclaim) == runtime_ns(awake, reclaim=reclaim) + 7 * MS


def test_rows_of_wakes_by_hand():
    # Thread 7 slept before its row 4 for thread 5, before row 6 for one that is not known, and at its end.
    tids, thread = np.array([5, 7]), np.array([0, 1, 0, 0, 1, 0, 1, 0], np.int32)
    table = waits((7, 3, 5, 3, 0), (7, 6, NO_TID, 6, 0), (7, 8, 5, 8, 0), (5, 4, 7, 1, 0), (9, 2, 5, 1, 0))
    found = recorded_wakes(table, thread, tids)
    # Thread 7 begins at row 1, and thread 5 slept before row 5 for what 7 did before it had done anything.
    assert [each.tolist() for each in found] == [[1, 4, 5, 6], [0, 2, -1, 5], [0, 0, 0, 0]]


def test_who_waited_goes_on_when_the_other_one_is_done():
    # Thread 2 sleeps until thread 1 has done 30 rows of 1 ms each, then does 5 of its own beside it.
    step = MS * 1000 // INSN_PS
    tids = [2] + [1] * 30 + [1, 2] * 5
    insns = [1, *(i * step for i in range(1, 31))]
    insns += [n for i in range(5) for n in ((31 + i) * step, (i + 1) * step)]
    vpns = [*range(41)]
    table = waits((2, 31, 1, 31, 0))
    w = workload(vpns, tids=tids, insns=insns, waits=table)
    assert 35 * MS <= runtime_ns(w) < 36 * MS
    later = workload(vpns, tids=tids, insns=insns, waits=waits((2, 31, 1, 31, 4 * MS)))
    assert later.wakes.asked_ns.sum() == 4 * MS


def test_what_another_one_stores_is_read_after_that():
    # Thread 1 fills 40 pages in 40 ms; thread 2 reads them, in no time, and 40 of its own after each.
    step = MS * 1000 // INSN_PS
    tids, vpns, kinds, insns = [], [], [], []
    for i in range(40):
        tids += [1, 2, 2]
        vpns += [i, i, 1000 + i]
        kinds += [RefKind.STORE, RefKind.LOAD, RefKind.LOAD]
        insns += [(i + 1) * step, 2 * i + 1, 2 * i + 2]
    w = workload(vpns, tids=tids, kinds=kinds, insns=insns, waits=waits())
    assert w.streams.after[1::3].tolist() == list(range(0, 120, 3))
    result = replay_none(w, 100, ssd(), "linux")[1]
    assert result.cold_faults == 80
    assert 40 * MS <= result.runtime_ns < 41 * MS


def test_a_conflict_that_a_sleep_hid_is_waited_for_later():
    # Row 3 comes after a sleep that row 2 ended, and after row 1, of another thread. So does row 4.
    page, store = np.array([7, 7, 5, 7, 7], np.int32), np.array([1, 1, 0, 0, 0], np.uint8)
    thread = np.array([1, 1, 2, 0, 0], np.int32)
    wakes = Wakes(np.array([3]), np.array([2]), np.array([0]))
    assert after_conflicts(page, store, thread, 8, 3, wakes).tolist() == [-1, -1, -1, 2, 1]


@pytest.mark.parametrize("reclaim", ["linux", "lru"])
def test_a_thread_may_begin_with_a_sleep(reclaim):
    # Thread 2 is born when thread 1 has worked for 5 ms, and sleeps for 7 before its first reference.
    step = MS * 1000 // INSN_PS
    vpns, tids, insns = [*range(6)], [1] * 5 + [2], [(i + 1) * step for i in range(5)] + [1]
    w = workload(vpns, tids=tids, insns=insns, waits=waits((2, 5, NO_TID, 5, 7 * MS)))
    assert 12 * MS <= runtime_ns(w, reclaim=reclaim) < 12.2 * MS


@pytest.mark.parametrize("sleep", [(1, 3, 1, 4, 0), (1, 9, 1, 2, 0), (1, 3, 1, -1, 0), (1, 3, 1, 1, -5)])
def test_a_sleep_that_nothing_could_have_ended_is_refused(sleep):
    with pytest.raises(TraceError, match=r"^test: row 1 of `waits`: .* record it again$"):
        workload([1, 2, 3, 4, 5], waits=waits((1, 2, NO_TID, 2, 0), sleep))


def test_sleeps_of_more_than_can_be_counted_are_refused():
    w = workload([*range(50)], waits=waits(*((1, row, NO_TID, row, 2**61) for row in range(1, 9))))
    with pytest.raises(ParameterError, match="add up to more than can be counted"):
        runtime_ns(w)


references = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=60
)


@given(references)
@settings(max_examples=200)
def test_every_row_waits_for_what_it_conflicts_with(rows):
    thread, page, store = (np.array(each, np.int32) for each in zip(*rows, strict=True))
    asleep = Wakes(*(np.empty(0, np.int64) for _ in range(3)))
    after = after_conflicts(page, store.astype(np.uint8), thread, 6, 4, asleep)
    for row in range(len(rows)):
        if after[row] >= 0:  # nothing is waited for in vain
            other = after[row]
            assert other < row
            assert thread[other] != thread[row]
            assert page[other] == page[row]
            assert store[other] or store[row]
        for other in range(row - 1, -1, -1):
            if thread[other] == thread[row] or page[other] != page[row] or not store[other] | store[row]:
                continue
            mine = after[: row + 1][thread[: row + 1] == thread[row]]
            waited = mine[mine >= 0]
            assert any(done >= other and thread[done] == thread[other] for done in waited)
            break


@given(references, st.integers(0, 60), st.integers(4, 12))
@settings(max_examples=100)
def test_a_replay_with_waits_comes_to_its_end(rows, slept_at, pages):
    thread, page, store = zip(*rows, strict=True)
    slept_at = min(slept_at, len(rows))
    table = waits((thread[0], slept_at, thread[-1], slept_at // 2, 0), (thread[-1], slept_at, NO_TID, 0, MS))
    w = workload(page, tids=thread, kinds=store, waits=table)
    shadow = run_shadow(w, pages, ssd())
    assert np.count_nonzero(shadow.missed) <= len(rows)
    assert replay_none(w, pages, ssd(), "linux")[1].accesses == len(rows)
