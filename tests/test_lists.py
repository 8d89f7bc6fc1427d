"""Memory's lists: rings with gaps are the lists that plain Python keeps."""

import pytest
from builders import list_pages, workload
from hypothesis import given
from hypothesis import strategies as st

from kdtool.errors import ParameterError
from kdtool.replay import run
from kdtool.replay.lists import (
    ACTIVE_LIST,
    INACTIVE_LIST,
    NO_PAGE,
    oldest,
    push_newest,
    push_oldest,
    unlink,
)
from kdtool.replay.memory import Flush, new_memory

N_PAGES = 5
LISTS = (INACTIVE_LIST, ACTIVE_LIST)
MOVES = st.tuples(st.integers(0, N_PAGES - 1), st.sampled_from((*LISTS, None)), st.booleans())
"""A page, where it goes, and whether to the newest end."""


@given(st.lists(MOVES, max_size=200))
def test_pages_move_as_on_lists_of_plain_python(moves):
    memory = new_memory(N_PAGES, N_PAGES, "linux", Flush()).arrays()
    lists = {which: [] for which in LISTS}

    for page, which, to_newest in moves:
        for pages in lists.values():
            if page in pages:
                pages.remove(page)
        if which is not None and to_newest:
            lists[which].append(page)
            push_newest(which, page, memory)
        elif which is not None:
            lists[which].insert(0, page)
            push_oldest(which, page, memory)
        else:
            unlink(page, memory)
        for each, pages in lists.items():
            assert oldest(each, memory) == (pages[0] if pages else NO_PAGE)
            assert list_pages(memory, each) == pages


def test_a_list_that_is_full_of_gaps_moves_its_pages_together():
    memory = new_memory(N_PAGES, N_PAGES, "linux", Flush()).arrays()
    n_places = len(memory[12]) // len(memory[13])

    for page in range(N_PAGES):
        push_newest(INACTIVE_LIST, page, memory)
    for _ in range(2 * n_places):
        push_newest(INACTIVE_LIST, 1, memory)

    assert list_pages(memory, INACTIVE_LIST) == [0, 2, 3, 4, 1]
    oldest_place, newest_place = memory[13][INACTIVE_LIST][:2]
    assert newest_place - oldest_place <= n_places


def test_a_memory_with_more_pages_than_places_is_refused(monkeypatch):
    monkeypatch.setattr(run, "MOST_PAGES", 5)
    six = workload([1, 2, 3, 4, 5, 6])

    run.check_memory(workload([1, 2, 3, 4, 5]), 100, 0)
    run.check_memory(six, 5, 0)
    with pytest.raises(ParameterError, match="touches 6: at most 5"):
        run.check_memory(six, 6, 0)
