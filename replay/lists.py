"""The lists that memory keeps pages on: rings of page ids, so that a scan knows whom it meets later.

    place[p]     where in `rings` page p is, NO_PLACE while it is on no list
    rings        the lists one after another, each of the same power of two of places; where a page lies that
                 has another place by now, it left
    ends[list]   (oldest, newest + 1) place in use, counted without end, and the list's first place in `rings`
                 and its number of places less one, a mask: place i in use is rings[first + (i & mask)]

A page that leaves its list leaves its number behind, which nobody touches: it moves by one store to its
record and one to the end of a ring, where stores are in order. A ring that is full moves its pages together.
It has at least twice as many places as pages can be on it: each time half of it at least is free afterwards.
A memory of fewer lists has longer ones: in an LRU, where each hit takes a place, pages hardly ever move.

The lists are those of `enum lru_list`, a kind's inactive and active one at 2 * kind, file pages being kind 1;
those of `mglru` are the generations of each kind, see generations.py; an LRU of all pages is the first.

Kernel counterpart: struct lruvec (include/linux/mmzone.h, v6.18), whose head is our newest.
"""

import numpy as np
import numpy.typing as npt

from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.longarrays import zeros
from kdtool.rmt.jit import inner

__all__ = [
    "ACTIVE_LIST",
    "INACTIVE_LIST",
    "MOST_PAGES",
    "NO_PAGE",
    "NO_PLACE",
    "N_LISTS",
    "new_rings",
    "oldest",
    "push_newest",
    "push_oldest",
    "unlink",
    "upcoming",
]

INACTIVE_LIST, ACTIVE_LIST = range(2)
N_LISTS = 8
PLACES = 2 * N_LISTS
"""Of all lists together, for each page."""
MOST_PAGES = 1 << 26
"""In a memory: places of so many are 32-bit numbers."""
NO_PAGE = NO_PLACE = -1
OLDEST, NEWEST, FIRST, MASK = range(4)
SCAN_AHEAD, RING_AHEAD = 40, 120
"""How many places ahead of a scan records are asked for, and before them who lies there: more than the 32
places of a batch, so that both are there when the next one begins."""


def new_rings(n_pages: int, n_lists: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return `rings` and `ends` of `n_lists` empty lists, a power of two, with room for `n_pages` each."""
    size = (PLACES // n_lists) << (n_pages - 1).bit_length()
    ends = [(0, 0, which * size, size - 1) for which in range(n_lists)]
    return zeros(n_lists * size, np.int32), np.array(ends, np.int64)


@inner
def _page_at(place, memory):  # type: ignore[no-untyped-def]
    """Return the page that lies at a place of `rings`, NO_PAGE if it left."""
    page = np.int64(memory[12][place])
    return page if memory[2][page] == place else np.int64(NO_PAGE)


@inner
def _look_ahead(at, first, mask, memory):  # type: ignore[no-untyped-def]
    """Have on its way the record of a page that a scan which is `at` a place meets later, or of any page."""
    prefetch_line(memory[12], first + (at + RING_AHEAD & mask))
    prefetch_line(memory[0], np.int64(memory[12][first + (at + SCAN_AHEAD & mask)]))


@inner
def _move_together(which, memory):  # type: ignore[no-untyped-def]
    """Close the gaps of a full list."""
    place, rings, ends = memory[2], memory[12], memory[13]
    first, mask, newest = ends[which, FIRST], ends[which, MASK], ends[which, NEWEST]
    end = ends[which, OLDEST]
    for at in range(end, newest):
        _look_ahead(at, first, mask, memory)
        page = _page_at(first + (at & mask), memory)
        if page != NO_PAGE:
            place[page] = first + (end & mask)
            rings[place[page]] = page
            end += 1
    ends[which, NEWEST] = end


@inner
def push_newest(which, page, memory):  # type: ignore[no-untyped-def]
    """Put a page at the newest end, off the list that it was on: lruvec_add_folio()."""
    place, rings, ends = memory[2], memory[12], memory[13]
    if ends[which, NEWEST] - ends[which, OLDEST] > ends[which, MASK]:
        _move_together(which, memory)
    at = ends[which, FIRST] + (ends[which, NEWEST] & ends[which, MASK])
    ends[which, NEWEST] += 1
    rings[at] = page
    place[page] = at


@inner
def push_oldest(which, page, memory):  # type: ignore[no-untyped-def]
    """Put a page at the oldest end, off the list that it was on: lruvec_add_folio_tail()."""
    place, rings, ends = memory[2], memory[12], memory[13]
    if ends[which, NEWEST] - ends[which, OLDEST] > ends[which, MASK]:
        _move_together(which, memory)
    ends[which, OLDEST] -= 1
    at = ends[which, FIRST] + (ends[which, OLDEST] & ends[which, MASK])
    rings[at] = page
    place[page] = at


@inner
def unlink(page, memory):  # type: ignore[no-untyped-def]
    """Take a page off its list."""
    memory[2][page] = NO_PLACE


@inner
def oldest(which, memory):  # type: ignore[no-untyped-def]
    """Return the page at the oldest end of a list, NO_PAGE of an empty one."""
    ends = memory[13]
    at, end, first, mask = ends[which, OLDEST], ends[which, NEWEST], ends[which, FIRST], ends[which, MASK]
    page = np.int64(NO_PAGE)
    while at < end:
        _look_ahead(at, first, mask, memory)
        page = _page_at(first + (at & mask), memory)
        if page != NO_PAGE:
            break
        at += 1
    ends[which, OLDEST] = at
    return page


@inner
def upcoming(which, ahead, memory):  # type: ignore[no-untyped-def]
    """Return the page `ahead` places behind the oldest one in use, or any page."""
    ends = memory[13]
    return np.int64(memory[12][ends[which, FIRST] + (ends[which, OLDEST] + ahead & ends[which, MASK])])
