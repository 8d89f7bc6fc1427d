"""`linux-file`: Linux's readahead of files, the window that a read gets: a state machine of the page cache.

Kernel counterpart: page_cache_sync_ra(), page_cache_async_ra() and page_cache_ra_order() (mm/readahead.c,
v6.18, where `async_size` falls back on half a window and orders grow; v6.11 and before differ in both).

The state of an open file, struct file_ra_state, is an int64 array; its last window:

    start               start + size - async_size           start + size
      |---- being waited for ----|#------ async_size -----------|
                                  # the marker: its first use asks for the next window

replay/filecache.py asks it at faults on mapped pages: `async_window` for a page that bears the marker,
`sync_window` for one that is not in memory, by MADV_SEQUENTIAL; mmap's read-around is there. No
other policy can be chosen for the hook `mm.readahead` yet. Not here: POSIX_FADV_*, congestion, pages under
writeback.
"""

import numpy as np
import numpy.typing as npt

from kdtool.rmt.jit import inner

__all__ = [
    "NO_MARKER",
    "RA_PAGES",
    "async_window",
    "init_size",
    "new_file_state",
    "next_size",
    "sync_window",
]

RA_PAGES = 32
"""The largest window: 128 KiB, read_ahead_kb of a block device as it is by default."""
NO_MARKER = -1

START, SIZE, ASYNC_SIZE, ORDER, N_WORDS = 0, 1, 2, 3, 4


def new_file_state() -> npt.NDArray[np.int64]:
    """Return the state of a file that was just opened."""
    return np.zeros(N_WORDS, np.int64)


@inner
def _power_of_two(n):  # type: ignore[no-untyped-def]
    """Return the least power of two that is not less than n."""
    power = 1
    while power < n:
        power *= 2
    return power


@inner
def init_size(request, max_pages):  # type: ignore[no-untyped-def]
    """Return the first window for a read of `request` pages: get_init_ra_size().

    >>> [int(init_size(request, 32)) for request in (1, 2, 3, 4, 5, 8, 9, 40)]
    [4, 4, 8, 8, 16, 16, 32, 32]
    """
    size = _power_of_two(request)
    if size <= max_pages // 32:
        return size * 4
    return size * 2 if size <= max_pages // 4 else max_pages


@inner
def next_size(size, max_pages):  # type: ignore[no-untyped-def]
    """Return the window after one of `size` pages: get_next_ra_size().

    >>> [int(next_size(size, 32)) for size in (1, 2, 4, 8, 16, 17, 32)]
    [4, 4, 8, 16, 32, 32, 32]
    """
    if size < max_pages // 16:
        return size * 4
    return size * 2 if size <= max_pages // 2 else max_pages


@inner
def _max_window(request, ra_pages, io_pages):  # type: ignore[no-untyped-def]
    """Return the largest window, for a large request what the device takes at once: ractl_max_pages()."""
    return min(request, io_pages) if request > ra_pages and io_pages > ra_pages else ra_pages


@inner
def _submit(file, max_order):  # type: ignore[no-untyped-def]
    """Keep the order of folios that the window is read in; return (start, pages, marker)."""
    order = 0
    while order < min(file[ORDER], max_order) and 2 << order <= file[SIZE]:
        order += 1
    file[ORDER] = order
    return file[START], file[SIZE], file[START] + file[SIZE] - file[ASYNC_SIZE]


@inner
def sync_window(file, index, request, previous, cached_before, is_random, ra_pages, io_pages, max_order):  # type: ignore[no-untyped-def]
    """Return (start, pages, marker) to read for page `index`, which is not cached: page_cache_sync_ra().

    file : the state, which changes unless the read is a small one by itself
    request : pages that the read wants from `index` on, 1 or more
    previous : the page that the file's last read ended in, -1 before any
    cached_before : how many pages right before `index` are cached, without a gap
    is_random : FMODE_RANDOM; with it, and with `ra_pages` 0, nothing but the request is read
    ra_pages, io_pages : of the device: the largest window, the largest read (max_sectors_kb)
    max_order : of the file system's folios, 0 for single pages

    The marker is NO_MARKER or a page of the window. The end of the file is the caller's matter.
    """
    if is_random or ra_pages == 0:
        return index, min(1 if ra_pages == 0 else request, max(ra_pages, io_pages)), NO_MARKER
    max_pages = _max_window(request, ra_pages, io_pages)
    if index == 0 or request > max_pages or 0 <= index - previous <= 1:
        file[START], file[SIZE] = index, init_size(request, max_pages)
        file[ASYNC_SIZE] = file[SIZE] - request if file[SIZE] > request else file[SIZE] // 2
    else:
        history = min(cached_before, max_pages)
        if history <= request:
            return index, request, NO_MARKER
        if history == index:
            history *= 2  # cached from the start of the file: most likely all of it is being read
        file[START], file[SIZE] = index, min(history + request, max_pages)
        file[ASYNC_SIZE] = 1
    file[ORDER] = 0
    return _submit(file, max_order)


@inner
def async_window(file, index, request, next_hole, folio_pages, ra_pages, io_pages, max_order):  # type: ignore[no-untyped-def]
    """Return (start, pages, marker) to read as the marker on page `index` is used: page_cache_async_ra().

    next_hole : the first page after `index` that is not cached
    folio_pages : pages of the folio that bears the marker, 1 for single pages

    Nothing is to be read where `pages` is 0. The rest is as for `sync_window`.
    """
    if ra_pages == 0:
        return index, 0, NO_MARKER
    max_pages = _max_window(request, ra_pages, io_pages)
    expected = file[START] + file[SIZE] - file[ASYNC_SIZE]
    if index == expected - expected % folio_pages:
        file[START] += file[SIZE]
        file[SIZE] = max(file[SIZE], next_size(file[SIZE], max_pages))
    else:
        # Another reader's marker, or the state was lost: what is cached ahead tells how far that one is.
        if next_hole - index > max_pages:
            return index, 0, NO_MARKER
        file[START], file[SIZE] = next_hole, next_size(next_hole - index + request, max_pages)
    file[ORDER] += 2
    align = 1
    while align < 1 << file[ORDER] and max_pages % (2 * align) == 0:
        align *= 2
    end = file[START] + file[SIZE]
    if end - end % align > file[START]:
        file[SIZE] -= end % align
    file[ASYNC_SIZE] = file[SIZE]
    return _submit(file, max_order)
