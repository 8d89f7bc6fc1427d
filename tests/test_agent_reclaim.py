"""What an agent's reclaim waits for: the flush of the workload's TLB, on another CPU."""

import numpy as np
import pytest
from builders import ssd
from numba import njit

from kdtool.replay import DEVICE_FIELDS, Flush
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    AT_ROW,
    COUNT,
    DIRTY,
    RECLAIMED,
    RESIDENT,
    SHOOTDOWN_NS,
    UNMAPPED,
    WORKED_NS,
    WRITTEN,
    ZeroPages,
    new_memory,
)
from kdtool.replay.reclaim import free_ahead

PAGES = 20
RECLAIM_NS, WRITEOUT_NS, FLUSH_NS = 10, 100, 1000


@njit
def push(page, memory):
    push_newest(INACTIVE_LIST, page, memory)


@njit
def free_all(memory, device):
    free_ahead(0, memory, device)


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
