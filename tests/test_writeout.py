"""Pages on their way to the device: the order in which they come back, and who waits."""

import numpy as np
import pytest
from builders import callable_part, list_pages, ssd
from hypothesis import given
from hypothesis import strategies as st

from kdtool.replay import plug, writeends, writeout
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    DEVICE_FREE_NS,
    DIRTY,
    JIFFY_NS,
    KEEPS_NS,
    LATENCY_NS,
    NOW_NS,
    SERVICE_NS,
    THROTTLE_STEP,
    TRANSFER_NS,
    WAITED_NS,
    WRITEBACK,
    WRITES_SENT,
    Flush,
    new_memory,
)

begin_write, drop_write, wait_for_write, complete_writes, sleep, send_writes = map(
    callable_part,
    (
        writeout.begin_write,
        writeout.drop_write,
        writeout.wait_for_write,
        writeends.complete_writes,
        writeends.sleep,
        plug.send_writes,
    ),
)
hold_plug, queue_page, release_plug, finish_reclaim = map(
    callable_part, (plug.hold_plug, plug.queue_page, plug.release_plug, plug.finish_reclaim)
)
N_PAGES = 6


@pytest.fixture
def memory():
    """Six dirty pages with slots 10, 20, ..., page 0 the oldest of the inactive list."""
    m = new_memory(N_PAGES, N_PAGES, "linux", Flush())
    for page in range(N_PAGES):
        push_newest(INACTIVE_LIST, page, m.arrays())
        m.pages["marks"][page] = DIRTY
        m.pages["slot"][page] = 10 * (page + 1)
    return m.arrays()


def oldest_first(memory):
    return list_pages(memory, INACTIVE_LIST)


def write(memory, *pages):
    for page in pages:
        begin_write(page, memory, ssd().values)


def test_a_page_being_written_goes_around_and_comes_back_oldest_when_it_is_written(memory):
    scalars, device = memory[6], ssd().values
    write(memory, 0, 1)
    assert oldest_first(memory) == [2, 3, 4, 5, 0, 1]
    assert [int(mark) for mark in memory[8][:3]] == [WRITEBACK, WRITEBACK, DIRTY]

    complete_writes(memory)
    assert oldest_first(memory) == [2, 3, 4, 5, 0, 1], "not submitted"

    send_writes(memory, device)
    scalars[NOW_NS] = device[LATENCY_NS]
    complete_writes(memory)
    assert oldest_first(memory) == [0, 2, 3, 4, 5, 1], "the second waits for the device"

    scalars[NOW_NS] = device[LATENCY_NS] + device[SERVICE_NS]
    complete_writes(memory)
    assert oldest_first(memory) == [1, 0, 2, 3, 4, 5]
    assert not memory[8][0] and not memory[8][1]


def test_neighbouring_slots_are_written_in_one_go(memory):
    scalars, device = memory[6], ssd().values
    memory[3][:3] = (7, 8, 10)
    write(memory, 0, 1, 2)
    send_writes(memory, device)

    ends = memory[10][:3, 1].tolist()
    assert ends[0] == ends[1] == device[LATENCY_NS] + device[TRANSFER_NS], "one request"
    assert ends[2] - ends[1] == device[SERVICE_NS]
    assert scalars[DEVICE_FREE_NS] == ends[2]


def test_waiting_for_a_page_submits_it_and_stands_still_until_it_is_written(memory):
    scalars, device = memory[6], ssd().values
    write(memory, 0, 1, 2)

    wait_for_write(1, memory, device)

    waited_ns = device[LATENCY_NS] + device[SERVICE_NS]
    assert scalars[WAITED_NS] == scalars[NOW_NS] == waited_ns
    assert oldest_first(memory) == [1, 0, 3, 4, 5, 2]
    assert memory[8][1] == 0 and memory[8][2] == WRITEBACK


def test_a_page_that_is_unmapped_meanwhile_is_not_moved(memory):
    scalars, device = memory[6], ssd().values
    write(memory, 0, 1)
    send_writes(memory, device)
    drop_write(0, memory)

    scalars[NOW_NS] = 10**9
    complete_writes(memory)

    assert oldest_first(memory) == [1, 2, 3, 4, 5, 0]
    assert memory[8][0] == WRITEBACK and memory[8][1] == 0


def many(apart):
    """Return a memory of 70 dirty pages whose slots are so far apart."""
    m = new_memory(70, 70, "linux", Flush())
    for page in range(70):
        push_newest(INACTIVE_LIST, page, m.arrays())
        m.pages["slot"][page] = 1 + apart * page
    return m.arrays()


def sent_after_each(memory, device):
    """Write all pages; return how many were sent after each one."""
    sent = []
    for page in range(len(memory[0])):
        begin_write(page, memory, device.values)
        sent.append(int(memory[6][WRITES_SENT]))
    return sent


@pytest.mark.parametrize(
    ("apart", "request_pages", "sent"),
    [
        (1, 64, [0] * 64 + [64] * 6),
        (1, 32, [0] * 32 + [32] * 32 + [64] * 6),
        (1, 31, [0] * 70),
        (2, 64, [0] * 32 + [32] * 32 + [64] * 6),
    ],
    ids=["the first is large", "just so", "the first is not", "32 requests"],
)
def test_a_plug_is_emptied_before_a_request_that_is_too_much(apart, request_pages, sent):
    device = ssd().having({"request_pages": request_pages, "write_requests": 0})
    assert sent_after_each(many(apart), device) == sent


def test_behind_a_read_of_one_page_only_the_requests_count():
    """As in Linux since v6.13: the first request of the plug is looked at, not the last."""
    memory, device = many(1), ssd().having({"request_pages": 2, "write_requests": 0})
    hold_plug(memory[6])
    queue_page(500, 1, memory, device.values)

    assert sent_after_each(memory, device) == [0] * 62 + [62] * 8


def test_reads_and_writes_of_neighbours_are_not_one_request(memory):
    device = ssd().values
    assert queue_page(9, 1, memory, device) and queue_page(10, 0, memory, device)
    assert queue_page(11, 1, memory, device) and not queue_page(12, 1, memory, device)


def test_reclaim_within_a_window_leaves_its_writes_to_the_window(memory):
    scalars, device = memory[6], ssd().values
    hold_plug(scalars)
    write(memory, 0, 1)
    finish_reclaim(memory, device)
    assert scalars[WRITES_SENT] == 0

    release_plug(memory, device)
    assert scalars[WRITES_SENT] == 2
    write(memory, 2)
    finish_reclaim(memory, device)
    assert scalars[WRITES_SENT] == 3


def test_who_sleeps_for_a_write_sends_what_the_window_holds(memory):
    hold_plug(memory[6])
    write(memory, 0, 1)
    wait_for_write(0, memory, ssd().values)
    assert memory[6][WRITES_SENT] == 2


THROTTLED = ssd().having({"write_requests": 2})
WINDOW_NS = 100_000_000


def begin(memory, page, now_ns):
    """Begin a write at a time; return how long it took."""
    memory[6][NOW_NS] = now_ns
    begin_write(page, memory, THROTTLED.values)
    return int(memory[6][NOW_NS]) - now_ns


def test_a_request_too_many_waits_until_all_have_ended(memory):
    device = THROTTLED.values
    assert begin(memory, 0, 7) == begin(memory, 1, 7) == 0
    assert begin(memory, 2, 7) == device[LATENCY_NS] + device[SERVICE_NS]
    assert memory[6][WRITES_SENT] == 2
    assert begin(memory, 3, int(memory[6][NOW_NS])) == 0, "the first two are over, noted or not"


def test_each_window_with_writes_lets_more_through(memory):
    """1 + 2**step requests; those of before have long ended."""
    for at, page in enumerate((0, 1)):
        assert begin(memory, page, at * WINDOW_NS) == 0
        send_writes(memory, THROTTLED.values)
    assert memory[6][THROTTLE_STEP] == 1
    assert [begin(memory, page, WINDOW_NS + 5 * WINDOW_NS // 10) for page in (2, 3, 4)] == [0, 0, 0]
    assert begin(memory, 5, WINDOW_NS + 5 * WINDOW_NS // 10) > 0


def test_five_windows_without_writes_undo_a_step(memory):
    begin(memory, 0, 0)
    begin(memory, 1, WINDOW_NS)
    assert memory[6][THROTTLE_STEP] == 1
    begin(memory, 2, 2 * WINDOW_NS + 5 * WINDOW_NS)
    assert memory[6][THROTTLE_STEP] == 1, "one more for the window with writes, one less for five without"
    begin(memory, 3, 30 * WINDOW_NS)
    assert memory[6][THROTTLE_STEP] == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400_000)), min_size=1, max_size=60))
def test_never_are_more_on_their_way_than_may_be(steps):
    """Of single pages that are far apart, written at random times within a window."""
    m = new_memory(60, 60, "linux", Flush())
    memory, now_ns = m.arrays(), 0
    m.pages["slot"] = 1 + 2 * np.arange(60)
    for page, (sends, pause_ns) in enumerate(steps):
        push_newest(INACTIVE_LIST, page, memory)
        begin(memory, page, now_ns)
        if not sends:
            send_writes(memory, THROTTLED.values)
        now_ns = int(memory[6][NOW_NS])
        ends = memory[10][: m.scalars[WRITES_SENT], 1]
        queued = page + 1 - len(ends)
        assert queued + np.count_nonzero(ends > now_ns) <= 2
        now_ns += pause_ns


def test_the_queue_goes_around(memory):
    scalars, device = memory[6], ssd().values
    for round_ in range(5):
        memory[8][:] = DIRTY
        write(memory, *oldest_first(memory)[:4])
        send_writes(memory, device)
        scalars[NOW_NS] += 10**9
        complete_writes(memory)
        assert sorted(oldest_first(memory)) == list(range(N_PAGES)), round_
        assert np.all(memory[8] & WRITEBACK == 0)


MS = 1_000_000


@pytest.fixture
def by_worker(memory):
    """The same with a worker that notes ends of writes; a slice is 1.4 ms, a tick 4."""
    memory[6][KEEPS_NS], memory[6][JIFFY_NS] = 1_400_000, 4 * MS
    return memory


def noted(memory, now_ns, *pages):
    """Tell whether what was written of `pages` is known at a time to have ended."""
    memory[6][NOW_NS] = now_ns
    complete_writes(memory)
    return [not memory[8][page] & WRITEBACK for page in pages]


def write_at(memory, now_ns, *pages):
    memory[6][NOW_NS] = now_ns
    write(memory, *pages)
    send_writes(memory, ssd().values)


def test_a_worker_waits_for_a_tick_and_preempts_from_then_on(by_worker):
    write_at(by_worker, 0, 0, 1)
    assert noted(by_worker, MS, 0, 1) == [False, False], "the thread's slice"
    assert noted(by_worker, 4 * MS - 1, 0, 1) == [False, False], "it is over, and nobody looks"
    assert noted(by_worker, 4 * MS, 0, 1) == [True, True]

    write_at(by_worker, 5 * MS, 2)
    assert noted(by_worker, 5 * MS + ssd().values[LATENCY_NS] - 1, 2) == [False], "being written"
    assert noted(by_worker, 5 * MS + ssd().values[LATENCY_NS], 2) == [True]


def test_a_thread_that_has_slept_has_a_new_slice(by_worker):
    sleep(0, 3 * MS, by_worker)
    write_at(by_worker, 3 * MS, 0)
    assert noted(by_worker, 8 * MS - 1, 0) == [False], "4 ms are within its slice"
    assert noted(by_worker, 8 * MS, 0) == [True]


def test_a_worker_that_waited_runs_as_the_thread_sleeps_and_preempts_then(by_worker):
    write_at(by_worker, 0, 0)
    sleep(MS, MS + 10, by_worker)
    assert noted(by_worker, MS + 10, 0) == [True]
    write_at(by_worker, MS + 10, 1)
    assert noted(by_worker, MS + 10 + ssd().values[LATENCY_NS], 1) == [True]


def test_a_worker_that_ran_while_the_thread_slept_has_no_credit(by_worker):
    write_at(by_worker, 0, 0)
    assert noted(by_worker, 4 * MS, 0) == [True]
    write_at(by_worker, 5 * MS, 1)
    sleep(5 * MS, 6 * MS, by_worker)
    assert noted(by_worker, 6 * MS, 1) == [True]

    write_at(by_worker, 6 * MS, 2)
    assert noted(by_worker, 7 * MS, 2) == [False]
    assert noted(by_worker, 8 * MS, 2) == [True], "the first tick after its slice, which ends at 7.4 ms"


def test_who_waits_for_a_write_has_the_worker_run_at_once(by_worker):
    write_at(by_worker, 0, 0)
    by_worker[6][NOW_NS] = MS

    wait_for_write(0, by_worker, ssd().values)

    assert by_worker[6][NOW_NS] == MS + 1
    assert by_worker[8][0] == 0


def test_a_sleep_that_is_over_takes_no_time(memory):
    sleep(10, 10, memory)
    sleep(10, 7, memory)
    assert memory[6][WAITED_NS] == 0
    sleep(10, 17, memory)
    assert memory[6][WAITED_NS] == 7


def test_who_is_throttled_has_the_worker_note_what_has_ended(by_worker):
    for page in (0, 1):
        assert begin(by_worker, page, 0) == 0
    send_writes(by_worker, THROTTLED.values)
    assert noted(by_worker, MS, 0, 1) == [False, False]

    assert begin(by_worker, 2, MS) == 1, "all have ended, and nobody has said so"
    assert noted(by_worker, MS + 1, 0, 1) == [True, True]
