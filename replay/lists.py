"""The lists that memory keeps pages on: rings of page ids, so that a scan knows whom it meets later.

    place[p]     where in `rings` page p is; only good while it is on a list
    rings        the lists one after another, each of the same power of two of places; NO_PAGE is a hole that
                 a page left
    ends[list]   (oldest, newest + 1) place in use, counted without end, and the list's first place in `rings`
                 and its number of places less one, a mask: place i in use is rings[first + (i & mask)]

A page that leaves its list leaves a hole; a ring that is full of holes and pages moves its pages together. It
has twice as many places as pages can be on it: each time half of it at least is free afterwards.

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
    "N_LISTS",
    "new_rings",
    "oldest",
    "push_newest",
    "push_oldest",
    "unlink",
    "unlink_old",
]

INACTIVE_LIST, ACTIVE_LIST = range(2)
N_LISTS = 8
MOST_PAGES = 1 << 26
"""In a memory: places of 8 rings of twice as many are 32-bit numbers."""
NO_PAGE = -1
OLDEST, NEWEST, FIRST, MASK = range(4)
SCAN_AHEAD = 24
"""How many places ahead of a scan records are asked for."""


def new_rings(n_pages: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return `rings` and `ends` of empty lists with room for `n_pages` each."""
    size = 1 << (2 * n_pages - 1).bit_length()
    ends = [(0, 0, which * size, size - 1) for which in range(N_LISTS)]
    return zeros(N_LISTS * size, np.int32), np.array(ends, np.int64)


@inner
def _move_together(which, memory):  # type: ignore[no-untyped-def]
    """Close the holes of a full list."""
    place, rings, ends = memory[2], memory[12], memory[13]
    first, mask, end = ends[which, FIRST], ends[which, MASK], ends[which, OLDEST]
    for at in range(ends[which, OLDEST], ends[which, NEWEST]):
        page = np.int64(rings[first + (at & mask)])
        if page != NO_PAGE:
            place[page] = first + (end & mask)
            rings[place[page]] = page
            end += 1
    ends[which, NEWEST] = end


@inner
def push_newest(which, page, memory):  # type: ignore[no-untyped-def]
    """Put a page that is on no list at the newest end: lruvec_add_folio()."""
    place, rings, ends = memory[2], memory[12], memory[13]
    if ends[which, NEWEST] - ends[which, OLDEST] > ends[which, MASK]:
        _move_together(which, memory)
    at = ends[which, FIRST] + (ends[which, NEWEST] & ends[which, MASK])
    ends[which, NEWEST] += 1
    rings[at] = page
    place[page] = at


@inner
def push_oldest(which, page, memory):  # type: ignore[no-untyped-def]
    """Put a page that is on no list at the oldest end: lruvec_add_folio_tail()."""
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
    memory[12][memory[2][page]] = NO_PAGE


@inner
def unlink_old(which, page, memory):  # type: ignore[no-untyped-def]
    """Take a page off its list where nearly always it is the oldest: then its place need not be loaded."""
    rings, ends = memory[12], memory[13]
    at = ends[which, FIRST] + (ends[which, OLDEST] & ends[which, MASK])
    if rings[at] == page:
        rings[at] = NO_PAGE
    else:
        unlink(page, memory)


@inner
def oldest(which, memory):  # type: ignore[no-untyped-def]
    """Return the page at the oldest end of a list, NO_PAGE of an empty one."""
    rings, ends = memory[12], memory[13]
    at, end, first, mask = ends[which, OLDEST], ends[which, NEWEST], ends[which, FIRST], ends[which, MASK]
    page = np.int64(NO_PAGE)
    while at < end:
        page = np.int64(rings[first + (at & mask)])
        if at + SCAN_AHEAD < end:
            prefetch_line(memory[0], max(np.int64(rings[first + (at + SCAN_AHEAD & mask)]), 0))
        if page != NO_PAGE:
            break
        at += 1
    ends[which, OLDEST] = at
    return page
