"""The window rule that both of Linux's swap readaheads share."""

from kdtool.rmt.jit import jit

__all__ = ["INITIAL_HITS", "WINDOW_MAX", "swapin_nr_pages"]

WINDOW_MAX = 8
"""1 << vm.page-cluster at its default of 3 (mm/swap.c, swap_setup(), v6.18)."""

INITIAL_HITS = 4
"""What both readaheads start from, so that the first miss opens a window of 8."""


@jit()
def swapin_nr_pages(previous, current, hits, max_pages, previous_window):  # type: ignore[no-untyped-def]
    """Return the window in pages: __swapin_nr_pages() of mm/swap_state.c, v6.18.

    >>> [int(swapin_nr_pages(0, 9, hits, 8, 0)) for hits in range(5)]
    [1, 4, 4, 8, 8]
    """
    pages = hits + 2
    if pages == 2:
        # Neighbours are read in pairs even without hits: the start of a sequential run.
        if current != previous + 1 and current != previous - 1:
            pages = 1
    else:
        power = 4
        while power < pages:
            power <<= 1
        pages = power
    pages = min(pages, max_pages)
    return max(pages, previous_window // 2)
