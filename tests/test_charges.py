"""Pages charged ahead: when a CPU has a stock, what counts as used, and what becomes of it."""

import numpy as np
import pytest
from builders import ssd
from numba import njit

from kdtool.replay import Flush
from kdtool.replay.charges import MEMCG_CHARGE_BATCH, change_cpu, charge, drain_stocks, used_pages
from kdtool.replay.lists import INACTIVE_LIST, push_newest
from kdtool.replay.memory import COUNT, N_SCALARS, OTHER_STOCK, RECLAIMED, RESIDENT, STOCK, new_memory
from kdtool.replay.reclaim import make_room

CAPACITY = 200


def scalars(count=0, stock=0, other_stock=0):
    values = np.zeros(N_SCALARS, np.int64)
    values[[COUNT, STOCK, OTHER_STOCK]] = count, stock, other_stock
    return values


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0, 0, 0), (1, 63, 0)),  # 64 at once
        ((10, 5, 0), (11, 4, 0)),  # of the stock
        ((136, 0, 0), (137, 63, 0)),  # the last time that 64 are below the limit
        ((137, 0, 0), (138, 0, 0)),
        ((100, 0, 37), (101, 0, 37)),  # by the other CPU's stock they are not
        ((199, 1, 0), (200, 0, 0)),
    ],
)
def test_64_pages_are_charged_at_once_where_they_are_below_the_limit(before, after):
    values = scalars(*before)

    charge.py_func(CAPACITY, values)

    assert tuple(values[[COUNT, STOCK, OTHER_STOCK]]) == after


def test_what_is_charged_ahead_is_used_until_it_is_drained():
    values = scalars(50, 10, 20)

    change_cpu.py_func(values)
    assert tuple(values[[STOCK, OTHER_STOCK]]) == (20, 10)
    assert used_pages.py_func(values) == 80
    drain_stocks.py_func(values)
    assert used_pages.py_func(values) == 50


@njit
def push(page, memory):
    push_newest(INACTIVE_LIST, page, memory)


@njit
def take_room(memory, device):
    make_room(CAPACITY, memory, device)


def full_memory(other_stock):
    """Return memory whose pages and the other CPU's stock are all of the limit."""
    state = new_memory(CAPACITY, CAPACITY, "linux", Flush())
    state.pages["status"], state.pages["slot"] = RESIDENT, range(CAPACITY)
    memory = state.arrays()
    for page in range(CAPACITY - other_stock):
        push(page, memory)
    memory[6][[COUNT, OTHER_STOCK]] = CAPACITY - other_stock, other_stock
    return memory


@pytest.mark.parametrize("other_stock", [0, MEMCG_CHARGE_BATCH - 1])
def test_a_page_that_finds_the_limit_reached_has_others_reclaimed_and_comes_alone(other_stock):
    memory = full_memory(other_stock)

    take_room(memory, ssd().by_agent(1000).values)

    assert MEMCG_CHARGE_BATCH > memory[7][RECLAIMED] >= 32
    assert memory[6][COUNT] == CAPACITY - other_stock - memory[7][RECLAIMED] + 1
    assert memory[6][STOCK] == 0


def test_without_an_agent_nothing_is_charged_ahead():
    memory = full_memory(0)
    memory[6][COUNT] = 0

    take_room(memory, ssd().values)

    assert (memory[6][COUNT], memory[6][STOCK]) == (1, 0)
