"""Places that are reserved and empty: who sleeps for them, until when, what the agent misses meanwhile."""

import numpy as np
import pytest
from builders import ssd
from numba import njit

from kdtool.replay import Flush
from kdtool.replay.agent import CALL_RANGES, FREE_NS, LEAD_NS, QUEUE_COUNT, new_agent
from kdtool.replay.agentloop import _begin_call, _go_on, come_second, meet_agent
from kdtool.replay.claims import is_claimed, make_room_for, wait_for_place
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    COUNT,
    ISSUED,
    JIFFY_NS,
    MAJOR,
    NOW_NS,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    RESIDENT,
    SWAPPED,
    WAITED_NS,
    WORKED_NS,
    new_memory,
)

CAPACITY = 20
TICK_NS = 4_000_000
DEVICE = ssd().values
RECLAIM_NS = 100_000
PAGE = 3


@njit
def take_room(page, capacity, memory, device):
    make_room_for(page, capacity, memory, device)


@njit
def wait(page, memory):
    return wait_for_place(page, memory, DEVICE)


@njit
def claimed(page, now_ns, memory):
    return is_claimed(page, now_ns, memory)


@njit
def begin(at_ns, memory, agent, device):
    _begin_call(at_ns, memory, agent[4], agent[6], agent[7], device)


@njit
def go_on(memory, agent, device):
    _go_on(CAPACITY, memory, agent, device)


@njit
def meet(page, memory, agent, device):
    return meet_agent(page, CAPACITY, memory, agent, device)


@njit
def second(page, memory, device):
    come_second(page, np.uint8(0), np.int64(0), np.int64(0), memory, device)


@njit
def push(page, memory):
    push_newest(INACTIVE_LIST, page, memory)


def device_with(**costs):
    return ssd().by_agent(1000).having({"reclaim_ns": RECLAIM_NS} | costs).values


def full_memory():
    """Return a memory of 20 clean pages, 20 to 39, all on the device as well; 0 to 9 are swapped out."""
    state = new_memory(40, CAPACITY, "linux", Flush())
    state.pages["status"][:10], state.pages["slot"][:10] = SWAPPED, range(10)
    state.pages["status"][20:40], state.pages["slot"][20:40] = RESIDENT, range(20, 40)
    memory = state.arrays()
    for page in range(20, 40):
        push(page, memory)
    memory[6][COUNT], memory[6][JIFFY_NS] = CAPACITY, TICK_NS
    return memory


def asked_for(memory, *pages):
    """Return an agent in whose queue the pages are, due in a second, as the engine takes it."""
    agent = new_agent(works=True)
    for at, page in enumerate(pages):
        agent.queue[at] = page, 10**9
        memory[8][page] |= PREDICTED
    agent.words[QUEUE_COUNT] = len(pages)
    return (*np.zeros((4, 8), np.int64), *agent)


def test_a_place_is_reserved_while_room_is_made_for_its_page():
    memory, device = full_memory(), device_with()
    memory[6][NOW_NS] = 1_000_000

    take_room(PAGE, CAPACITY, memory, device)

    until_ns = memory[6][NOW_NS]
    assert until_ns - 1_000_000 >= RECLAIM_NS
    times = (999_999, 1_000_000, until_ns - 1, until_ns)
    assert [claimed(PAGE, at_ns, memory) for at_ns in times] == [False, True, True, False]
    assert not claimed(PAGE + 1, 1_000_000, memory)


def test_a_place_is_reserved_for_no_time_where_there_is_room():
    memory, device = full_memory(), device_with()
    memory[6][COUNT] -= 1

    take_room(PAGE, CAPACITY, memory, device)

    assert not claimed(PAGE, 0, memory) and memory[6][COUNT] == CAPACITY


@pytest.mark.parametrize(
    ("now_ns", "until_ns", "wakes_ns"),
    [
        # A timer of one tick fires at the second from now, never early: after 4 to 8 ms.
        (0, 100_000, 2 * TICK_NS),
        (1_000, 100_000, 2 * TICK_NS),
        (TICK_NS - 1, TICK_NS + 5, 2 * TICK_NS),
        (TICK_NS, TICK_NS + 5, 3 * TICK_NS),
        # Who finds it empty still sleeps again.
        (1_000, 2 * TICK_NS + 1, 4 * TICK_NS),
    ],
)
def test_who_asks_for_such_a_page_sleeps_until_the_next_tick_but_one(now_ns, until_ns, wakes_ns):
    memory = full_memory()
    memory[21][PAGE] = PAGE, 0, until_ns
    memory[6][NOW_NS] = now_ns

    assert wait(PAGE, memory)

    assert (memory[6][NOW_NS], memory[6][WAITED_NS]) == (wakes_ns, wakes_ns - now_ns)
    assert not wait(PAGE, memory)


def test_a_call_sleeps_at_a_page_that_a_fault_has_reserved_and_its_lead_is_as_long():
    memory, device = full_memory(), device_with(call_ns=10, range_ns=20, prefetch_ns=30)
    agent = asked_for(memory, PAGE, PAGE + 2)
    words = agent[4]
    memory[6][COUNT] = 0

    begin(500, memory, agent, device)
    go_on(memory, agent, device)  # what is due last comes first
    assert memory[0][PAGE + 2] == PREFETCHED and words[FREE_NS] == 500 + 10 + 20 + 30
    # The workload faults on the other now, and reclaims for it until 900.
    memory[0][PAGE], memory[21][PAGE] = RESIDENT, (PAGE, 550, 900)
    memory[8][PAGE] = 0
    go_on(memory, agent, device)

    assert words[CALL_RANGES] == 0 and memory[0][PAGE] == RESIDENT
    assert words[FREE_NS] == 2 * TICK_NS and words[LEAD_NS] == 2 * TICK_NS - 500
    assert memory[6][WAITED_NS] == 0  # that was the agent's time


def test_a_page_whose_fault_has_begun_is_asked_for_as_well():
    memory, device = full_memory(), device_with()
    agent = asked_for(memory, PAGE)
    memory[0][PAGE], memory[21][PAGE] = RESIDENT, (PAGE, 100, 900)
    memory[8][PAGE] = 0

    begin(899, memory, agent, device)
    assert agent[4][CALL_RANGES] == 1

    agent = asked_for(memory, PAGE)
    memory[8][PAGE] = 0
    begin(900, memory, agent, device)
    assert agent[4][CALL_RANGES] == 0


def test_a_fault_on_a_page_that_a_call_makes_room_for_sleeps_and_is_a_major_one():
    memory, device = full_memory(), device_with(major_ns=7)
    agent, scalars, counters = asked_for(memory, PAGE), memory[6], memory[7]
    begin(0, memory, agent, device)
    go_on(memory, agent, device)
    assert memory[0][PAGE] == PREFETCHED and counters[ISSUED] == 1
    scalars[NOW_NS] = RECLAIM_NS // 2

    assert meet(PAGE, memory, agent, device)
    assert scalars[NOW_NS] == 2 * TICK_NS
    second(PAGE, memory, device)

    assert (counters[MAJOR], counters[ISSUED], scalars[PREFETCHED_NOW]) == (1, 0, 0)
    assert memory[0][PAGE] == RESIDENT and scalars[WORKED_NS] == 7


def test_a_fault_on_a_page_of_a_range_that_is_not_sent_waits_until_it_is():
    memory, device = full_memory(), device_with(call_ns=10, range_ns=20, prefetch_ns=30)
    agent = asked_for(memory, PAGE, PAGE + 1)
    memory[6][COUNT] = 0
    begin(0, memory, agent, device)
    go_on(memory, agent, device)
    assert memory[0][PAGE + 1] == SWAPPED

    memory[6][NOW_NS] = 1
    assert not meet(PAGE, memory, agent, device)

    assert memory[0][PAGE + 1] == PREFETCHED and agent[4][CALL_RANGES] == 0
    assert memory[5][PAGE] > agent[4][FREE_NS] == 10 + 20 + 2 * 30


def test_what_a_call_has_brought_in_is_read_before_it_sleeps():
    memory, device = full_memory(), device_with(call_ns=10, range_ns=20, prefetch_ns=30)
    agent = asked_for(memory, PAGE, PAGE + 1)
    memory[6][COUNT] = 0
    memory[0][PAGE + 1], memory[21][PAGE + 1] = RESIDENT, (PAGE + 1, 0, 900)
    begin(0, memory, agent, device)
    go_on(memory, agent, device)
    go_on(memory, agent, device)

    assert agent[4][CALL_RANGES] == 0 and agent[4][FREE_NS] == 2 * TICK_NS
    assert 10 + 20 + 30 < memory[5][PAGE] < TICK_NS


def test_a_fault_comes_first_at_a_page_that_a_call_has_not_come_to():
    memory, device = full_memory(), device_with(call_ns=10, range_ns=20, prefetch_ns=30)
    agent = asked_for(memory, PAGE, PAGE + 2)
    memory[6][COUNT] = 0
    begin(0, memory, agent, device)
    go_on(memory, agent, device)

    memory[6][NOW_NS] = 1
    assert not meet(PAGE, memory, agent, device)

    assert memory[0][PAGE] == SWAPPED and agent[4][CALL_RANGES] == 1
