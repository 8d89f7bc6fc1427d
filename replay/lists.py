"""The lists that memory keeps pages on: circular, doubly linked, through ends behind the last page.

    links[p]             (older, newer) neighbours of page p
    links[end]           (newest, oldest) page of the list through `end`; of an empty one, `end` itself
    end = n_pages + 4    the inactive list of file pages
    end = n_pages + 5    their active list
    end = n_pages + 6    the inactive list of anonymous pages, or the one LRU of all
    end = n_pages + 7    their active list
    any end              the generations of mglru, four of anonymous and four of file pages

Kernel counterpart: struct lruvec (include/linux/mmzone.h, v6.18), whose head is our newest.
"""

import numpy as np

from kdtool.replay.cacheline import prefetch_line
from kdtool.rmt.jit import inline

__all__ = ["push_newest", "push_oldest", "unlink"]


@inline
def push_newest(links, end, page):  # type: ignore[no-untyped-def]
    """Put a page that is on no list at the newest end: lruvec_add_folio()."""
    newest = np.int64(links[end, 0])
    links[page, 0] = newest
    links[page, 1] = end
    links[newest, 1] = page
    links[end, 0] = page


@inline
def push_oldest(links, end, page):  # type: ignore[no-untyped-def]
    """Put a page that is on no list at the oldest end: lruvec_add_folio_tail()."""
    oldest = np.int64(links[end, 1])
    links[page, 0] = end
    links[page, 1] = oldest
    links[oldest, 0] = page
    links[end, 1] = page


@inline
def unlink(links, page):  # type: ignore[no-untyped-def]
    """Take a page off its list."""
    older, newer = np.int64(links[page, 0]), np.int64(links[page, 1])
    links[older, 1] = newer
    links[newer, 0] = older
    prefetch_line(links, np.int64(links[newer, 1]))  # a scan comes there next but one
