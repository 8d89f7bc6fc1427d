"""Pages on their way to the device: the order in which they come back, and who waits."""

import numpy as np
import pytest
from builders import callable_part, list_pages, ssd

from kdtool.replay import writeout
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    DEVICE_FREE_NS,
    DIRTY,
    JIFFY_NS,
    KEEPS_NS,
    LATENCY_NS,
    NOW_NS,
    SERVICE_NS,
    TRANSFER_NS,
    WAITED_NS,
    WRITEBACK,
    WRITES_SENT,
    Flush,
    new_memory,
)

begin_write, complete_writes, drop_write, sleep, submit_writes, wait_for_write = map(
    callable_part,
    (
        writeout.begin_write,
        writeout.complete_writes,
        writeout.drop_write,
        writeout.sleep,
        writeout.submit_writes,
        writeout.wait_for_write,
    ),
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

    submit_writes(memory, device)
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
    submit_writes(memory, device)

    ends = memory[10][:3, 1].tolist()
    assert ends[1] - ends[0] == device[TRANSFER_NS]
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
    submit_writes(memory, device)
    drop_write(0, memory)

    scalars[NOW_NS] = 10**9
    complete_writes(memory)

    assert oldest_first(memory) == [1, 2, 3, 4, 5, 0]
    assert memory[8][0] == WRITEBACK and memory[8][1] == 0


@pytest.mark.parametrize(("apart", "sent"), [(1, 64), (2, 64)], ids=["neighbours", "scattered"])
def test_a_plug_is_emptied_before_what_is_too_much(apart, sent):
    """Of 70 pages: two requests of 32 neighbours, or 32 of one page twice."""
    m = new_memory(70, 70, "linux", Flush())
    memory = m.arrays()
    for page in range(70):
        push_newest(INACTIVE_LIST, page, memory)
        m.pages["slot"][page] = 1 + apart * page
    submitted = []
    for page in range(70):
        write(memory, page)
        submitted.append(int(m.scalars[WRITES_SENT]))

    assert submitted == [0] * 32 + [32] * 32 + [sent] * 6


def test_the_queue_goes_around(memory):
    scalars, device = memory[6], ssd().values
    for round_ in range(5):
        memory[8][:] = DIRTY
        write(memory, *oldest_first(memory)[:4])
        submit_writes(memory, device)
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
    submit_writes(memory, ssd().values)


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
