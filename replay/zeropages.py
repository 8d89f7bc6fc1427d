"""Which pages are full of zeros when they go to swap, and when they come back.

Linux does not write such a page: it notes that its slot holds zeros, and reclaim frees the page in the same
scan; when it is needed again it is filled with zeros, and nothing is read (swap_writeout() and
swap_read_folio() in mm/page_io.c, shrink_folio_list() in mm/vmscan.c, v6.18).

The table `zeros` says after which references a page that was stored to left the reduction's window full of
zeros. While it is in the window it is in memory, and nobody asks. It stays so until the next store to it:

    of_page[p]      where the notes of page p begin, one more behind the last; empty where no page ever is
    row, thread     a note: after this row, of this thread, the page holds zeros if it did not, or the reverse

At first no page does. What was never stored to is the kernel's zero page, and none that could be evicted.
"""

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.memory import (
    AT_ROW,
    COLD_NS,
    MAJOR_NS,
    MINOR_NS,
    PREFETCH_NS,
    PROCESSES,
    ROW,
    THREAD,
    WORKED_NS,
    ZeroPages,
    no_zeros,
)
from kdtool.rmt.jit import aside, inline, jit

__all__ = [
    "fill_zero_pages",
    "find_zero_pages",
    "holds_zeros",
    "major_ns",
    "replayed_rows",
]

Numbers = npt.NDArray[np.int64]
ZEROS, GONE = 1, 2


def replayed_rows(name: str, zeros: Numbers | None, keep: npt.NDArray[np.bool_], copies: Numbers) -> Numbers:
    """Return where the rows of a trace's table `zeros` (None: it has none) are among those that are replayed.

    keep, copies : which references are replayed, and which of those are told twice: the second one stores

    Raises TraceError for rows that are none of the trace's, or do not rise.
    """
    if zeros is None:
        return np.empty(0, np.int64)
    if zeros[0] < 0 or zeros[-1] >= len(keep) or np.any(zeros[1:] <= zeros[:-1]):
        raise TraceError(
            f"{name}: `zeros` has rows from {zeros.min()} to {zeros.max()}: each is one of the {len(keep)} "
            f"references, and larger than the one before: record it again"
        )
    rows = np.searchsorted(np.flatnonzero(keep), zeros[keep[zeros]])
    return rows + np.searchsorted(copies, rows, side="right")


def find_zero_pages(
    page: npt.NDArray[np.int32],
    store: npt.NDArray[np.uint8],
    thread: npt.NDArray[np.int32],
    zero_row: Numbers,
    freed: tuple[Numbers, Numbers],
    n_pages: int,
    n_file_pages: int = 0,
) -> ZeroPages:
    """Return the notes of all pages: int64 of shape (n_pages + 1,), and of (n_notes,) twice.

    page, store, thread : of shape (n_refs,), as Workload's
    zero_row : rows after which their page is full of zeros, rising
    freed : (row, page) of what is unmapped before a row, by row: what comes there next is another page
    n_pages, n_file_pages : how many ids there are, and how many of them, the last ones, are of files

    >>> page, store = np.array([0, 1, 0, 1, 0], np.int32), np.ones(5, np.uint8)
    >>> nobody = (np.empty(0, np.int64), np.empty(0, np.int64))
    >>> find_zero_pages(page, store, page, np.array([0, 3]), nobody, 2)[:2]
    (array([0, 2, 3]), array([0, 2, 3]))
    """
    zero_row = zero_row[page[zero_row] < n_pages - n_file_pages]
    if not len(zero_row):
        return no_zeros()
    row, of = np.empty(2 * len(zero_row), np.int64), np.empty(2 * len(zero_row), np.int64)
    n = _note_changes(page, store, zero_row, *freed, np.zeros(n_pages, np.uint8), row, of)
    order = np.argsort(of[:n], kind="stable")
    begin = np.searchsorted(of[:n][order], np.arange(n_pages + 1)).astype(np.int64)
    row = row[:n][order]
    return ZeroPages(begin, row, thread[row].astype(np.int64))


@jit()
def _note_changes(page, store, zero_row, free_row, free_page, state, row, of):  # type: ignore[no-untyped-def]
    """Fill in when which page changes; return how often. A change back comes after one, so there is room."""
    n, at, free_at = 0, 0, 0
    for i in range(len(page)):
        while free_at < len(free_row) and free_row[free_at] <= i:
            state[free_page[free_at]] |= GONE
            free_at += 1
        before, after = state[page[i]], np.uint8(0)
        if at < len(zero_row) and zero_row[at] == i:
            at += 1
            after = np.uint8(ZEROS)
        elif not store[i] and not before & GONE:
            after = before
        if after != before & ZEROS:
            row[n], of[n] = i, page[i]
            n += 1
        state[page[i]] = after
    return n


@inline
def holds_zeros(page, memory):  # type: ignore[no-untyped-def]
    """Tell whether a page is full of zeros after all references that are done."""
    return len(memory[16]) > 0 and _changed_oddly(page, memory)


@aside
def _changed_oddly(page, memory):  # type: ignore[no-untyped-def]
    """Tell whether an odd number of a page's notes are of rows that are done.

    They are done in their order: references that conflict keep it (waits.py).
    """
    of_page, rows, threads, scalars, clocks = memory[16], memory[17], memory[18], memory[6], memory[14]
    first, low, high = of_page[page], of_page[page], of_page[page + 1]
    while low < high:
        middle = (low + high) >> 1
        who, done = threads[middle], scalars[AT_ROW]
        if scalars[PROCESSES] and who != scalars[THREAD]:
            done = clocks[who, ROW]
        if rows[middle] < done:
            low = middle + 1
        else:
            high = middle
    return (low - first) & 1 == 1


@inline
def major_ns(page, memory, device):  # type: ignore[no-untyped-def]
    """Return what a major fault works, beside its wait: nobody sleeps for zeros.

    The page is allocated, charged and cleared as one that is touched first, and found as one read ahead.
    """
    return device[COLD_NS] + device[MINOR_NS] if holds_zeros(page, memory) else device[MAJOR_NS]


@aside
def fill_zero_pages(m, missing, out, memory, device):  # type: ignore[no-untyped-def]
    """Take from the m pages in `out` those that are full of zeros: they are there at once.

    Each but `missing` was brought in as a page to be read, which is more work: it is allocated, charged and
    cleared as one that is touched first. Return how many are left to be read, and the page that a fault waits
    for, -1 if it need not.
    """
    ready_ns, scalars = memory[5], memory[6]
    left, awaited = 0, np.int64(missing)
    for i in range(m):
        if not holds_zeros(out[i], memory):
            out[left] = out[i]
            left += 1
        elif out[i] == missing:
            awaited = np.int64(-1)
        else:
            ready_ns[out[i]] = 0
            scalars[WORKED_NS] += device[COLD_NS] - device[PREFETCH_NS]
    return left, awaited
