"""What an agent's reclaim waits for, the flush of the workload's TLB on another CPU; how long it lasts."""

import numpy as np
import pytest
from builders import ssd, workload
from numba import njit

from kdtool.replay import DEVICE_FIELDS, Flush
from kdtool.replay.agent import FREE_NS, MAKES_ROOM, MOST_WAITING, READ_AT, leave_to_agent, new_agent
from kdtool.replay.agentloop import _serve
from kdtool.replay.charges import MOST_STOCKED
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    AT_ROW,
    COUNT,
    DEGREE,
    DIRTY,
    OTHER_STOCK,
    RECLAIMED,
    RESIDENT,
    SHOOTDOWN_NS,
    STOCK,
    UNMAPPED,
    WORKED_NS,
    WRITTEN,
    ZeroPages,
    new_memory,
)
from kdtool.replay.reclaim import free_batch
from kdtool.replay.run import exact_pages
from kdtool.rmt.agentrules import FREE_PAGES, LEAST_SHARE

PAGES = 20
RECLAIM_NS, WRITEOUT_NS, FLUSH_NS = 10, 100, 1000


@njit
def push(page, memory):
    push_newest(INACTIVE_LIST, page, memory)


@njit
def free_all(memory, device):
    while memory[6][COUNT]:
        free_batch(memory, device)


def freed(marks, status=RESIDENT, flush_ns=FLUSH_NS, zeros=None):
    """Free 20 pages of this status and these marks, each with its slot; return the scalars and counters."""
    state, device = new_memory(PAGES, PAGES, "linux", Flush(), zero_pages=zeros), ssd().values
    for name, value in {"reclaim_ns": RECLAIM_NS, "writeout_ns": WRITEOUT_NS}.items():
        device[DEVICE_FIELDS.index(name)] = value
    state.pages["status"], state.pages["marks"], state.pages["slot"] = status, marks, range(PAGES)
    memory = state.arrays()
    for page in range(PAGES):
        push(page, memory)
    memory[6][[COUNT, SHOOTDOWN_NS, AT_ROW]] = PAGES, flush_ns, 1
    free_all(memory, device)
    assert memory[7][RECLAIMED] == PAGES
    return memory[6], memory[7]


def test_clean_pages_of_a_list_share_a_flush():
    # By swappiness 60 of 200, of a 2**-priority part: 1 of a fourth of 20, 2 of a half of 19, and the rest.
    scalars, _ = freed(0)

    assert scalars[WORKED_NS] == PAGES * RECLAIM_NS + 3 * FLUSH_NS


def test_each_page_that_is_written_out_waits_for_one_and_none_when_it_is_freed():
    scalars, counters = freed(DIRTY)

    assert counters[WRITTEN] == PAGES
    assert scalars[WORKED_NS] == PAGES * (RECLAIM_NS + WRITEOUT_NS + FLUSH_NS)


def test_each_page_full_of_zeros_waits_for_one_though_it_is_not_written():
    noted = np.zeros(PAGES, np.int64)  # each after row 0, of thread 0
    scalars, counters = freed(DIRTY, zeros=ZeroPages(np.arange(PAGES + 1), noted, noted))

    assert counters[WRITTEN] == 0
    assert scalars[WORKED_NS] == PAGES * (RECLAIM_NS + FLUSH_NS)


def test_pages_that_are_not_mapped_need_none():
    scalars, _ = freed(0, status=UNMAPPED)

    assert scalars[WORKED_NS] == 0


@pytest.mark.parametrize("marks", [0, DIRTY])
def test_the_workloads_own_reclaim_waits_for_none(marks):
    scalars, counters = freed(marks, flush_ns=0)

    assert scalars[WORKED_NS] == PAGES * RECLAIM_NS + counters[WRITTEN] * WRITEOUT_NS


CAPACITY, BATCH_PAGES, PAGE_NS = LEAST_SHARE * FREE_PAGES, 32, 10_000
AFTER_LAST = 20 * BATCH_PAGES * PAGE_NS


@njit
def serve(now_ns, memory, agent, device):
    _serve(now_ns, CAPACITY, memory, agent, device)


@njit
def decide(time_ns, out, agent):
    leave_to_agent(1, 0, 1, time_ns, out, agent[4], agent[5], agent[8])


class Busy:
    """An agent beside a workload that fills the memory, of clean pages that are freed in 10 us each."""

    def __init__(self, reclaim="linux"):
        self.device = ssd().by_agent(1000).values
        self.device[DEVICE_FIELDS.index("reclaim_ns")] = PAGE_NS
        self.device[DEVICE_FIELDS.index("beside_write_ns")] = 0
        state = new_memory(2 * CAPACITY, CAPACITY, reclaim, Flush())
        state.pages["status"], state.pages["slot"] = RESIDENT, range(2 * CAPACITY)
        self.memory, self.agent = state.arrays(), (*np.zeros((4, 8), np.int64), *new_agent(works=True))
        self.words, self.scalars = self.agent[4], self.memory[6]
        self.scalars[DEGREE], self.taken = 8, 0
        self.take(CAPACITY)

    def take(self, n_pages):
        for page in range(self.taken, self.taken + n_pages):
            push(page, self.memory)
        self.taken += n_pages
        self.scalars[COUNT] += n_pages

    def serve(self, now_ns):
        serve(now_ns, self.memory, self.agent, self.device)


def test_room_is_made_until_there_is_enough():
    busy = Busy()

    busy.serve(AFTER_LAST)

    assert 0 <= CAPACITY - FREE_PAGES - busy.scalars[COUNT] < BATCH_PAGES
    assert busy.words[FREE_NS] == busy.memory[7][RECLAIMED] * PAGE_NS
    assert not busy.words[MAKES_ROOM]


def test_room_is_made_for_as_long_as_the_workload_fills_it_and_decisions_wait():
    busy = Busy()
    decide(1, busy.agent[3], busy.agent)

    for _ in range(10):
        busy.serve(busy.words[FREE_NS] + 1)
        assert busy.words[MAKES_ROOM] and not busy.words[READ_AT]
        busy.take(CAPACITY - busy.scalars[COUNT])
    busy.serve(2 * AFTER_LAST)

    assert busy.memory[7][RECLAIMED] >= 10 * BATCH_PAGES + FREE_PAGES
    assert busy.words[FREE_NS] == busy.memory[7][RECLAIMED] * PAGE_NS
    assert busy.words[READ_AT] and not busy.words[MAKES_ROOM]


def test_no_more_is_kept_free_than_the_bound_of_exact_replays_knows():
    busy = Busy("lru")  # of which that bound speaks: it evicts a page at a time

    busy.serve(1)
    busy.scalars[[STOCK, OTHER_STOCK]] = MOST_STOCKED // 2  # the most that CPUs charge while room is made
    busy.serve(AFTER_LAST)

    assert not busy.words[MAKES_ROOM]
    assert busy.scalars[COUNT] == CAPACITY - FREE_PAGES - MOST_STOCKED
    few, more = (exact_pages(workload([1]), 8, agent_ns) for agent_ns in (0, 1000))
    assert more - few == MOST_WAITING + FREE_PAGES + MOST_STOCKED
