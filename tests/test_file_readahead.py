"""File readahead: the kernel's tables, and windows of reads worked by hand from mm/readahead.c, v6.18."""

import pytest
from builders import callable_part

from kdtool.replay.policies import linux_file
from kdtool.replay.policies.linux_file import NO_MARKER, RA_PAGES, new_file_state

async_window, init_size, next_size, sync_window = map(
    callable_part,
    (linux_file.async_window, linux_file.init_size, linux_file.next_size, linux_file.sync_window),
)


class Reader:
    """A file in an unbounded page cache, read page by page; keeps the windows that its reads led to."""

    def __init__(self, ra_pages=RA_PAGES, io_pages=RA_PAGES, max_order=0):
        self.file, self.cached, self.markers = new_file_state(), set(), set()
        self.previous, self.device = -1, (ra_pages, io_pages, max_order)
        self.windows = []

    def read(self, index, n_pages=1, is_random=False):
        """Read `n_pages` at `index`, as filemap_get_pages() asks for what it finds missing or marked."""
        end = index + n_pages
        for page in range(index, end):
            if page not in self.cached:
                before = next(n for n in range(page + 1) if page - 1 - n not in self.cached)
                window = sync_window(
                    self.file, page, end - page, self.previous, before, is_random, *self.device
                )
                self.submit(window, waited_for=True)
            elif page in self.markers:
                self.markers.discard(page)
                hole = next(n for n in range(page + 1, page + 10_000) if n not in self.cached)
                self.submit(async_window(self.file, page, end - page, hole, 1, *self.device))
        self.previous = end - 1

    def submit(self, window, waited_for=False):
        start, size, marker = (int(n) for n in window)
        assert marker == NO_MARKER or start <= marker < start + size
        if size:
            self.windows.append((start, size, start + size - marker if marker != NO_MARKER else 0))
        new = {*range(start, start + size)} - self.cached
        self.cached |= new
        self.markers |= {marker} & new
        assert not waited_for or start in self.cached


def sequential(n_reads, n_pages, **device):
    reader = Reader(**device)
    for i in range(n_reads):
        reader.read(i * n_pages, n_pages)
    return reader.windows


def test_the_first_window_matches_its_table():
    table = {1: 4, 2: 4, 3: 8, 4: 8, 5: 16, 8: 16, 9: 32, 16: 32, 31: 32, 100: 32}
    assert {request: int(init_size(request, 32)) for request in table} == table


def test_the_next_window_matches_its_table():
    table = {1: 4, 2: 4, 4: 8, 8: 16, 16: 32, 17: 32, 32: 32}
    assert {size: int(next_size(size, 32)) for size in table} == table


@pytest.mark.parametrize(
    ("n_pages", "windows"),
    [
        (1, [(0, 4, 3), (4, 8, 8), (12, 16, 16), (28, 32, 32), (60, 32, 32)]),
        (4, [(0, 8, 4), (8, 16, 16), (24, 32, 32), (56, 32, 32)]),
    ],
)
def test_sequential_reads_have_growing_windows(n_pages, windows):
    assert sequential(200 // n_pages, n_pages)[: len(windows)] == windows


def test_a_request_as_large_as_the_window_leaves_half_of_it_to_the_next():
    # 32 of 32 pages are asked for: nothing is over, so half of the window bears the marker.
    assert sequential(2, 32)[:2] == [(0, 32, 16), (32, 32, 32)]


def test_a_small_read_somewhere_is_read_as_it_is():
    reader = Reader()
    reader.read(500, 3)
    assert reader.windows == [(500, 3, 0)]
    assert reader.file.tolist() == [0, 0, 0, 0]


def test_reads_that_follow_each_other_somewhere_start_a_sequence():
    reader = Reader()
    reader.read(500)
    reader.read(501)
    assert reader.windows == [(500, 1, 0), (501, 4, 3)]


def test_a_read_backward_is_no_sequence():
    reader = Reader()
    reader.read(500)
    reader.read(499)
    assert reader.windows == [(500, 1, 0), (499, 1, 0)]


def test_cached_pages_before_the_read_speak_for_a_sequence():
    reader = Reader()
    reader.cached = {*range(490, 500)}
    reader.read(500, 2)
    assert reader.windows == [(500, 12, 1)]


def test_no_more_cached_pages_than_the_request_say_nothing():
    reader = Reader()
    reader.cached = {498, 499}
    reader.read(500, 2)
    assert reader.windows == [(500, 2, 0)]


def test_a_file_that_is_cached_from_its_start_counts_twice():
    reader = Reader()
    reader.cached = {*range(10)}
    reader.read(10, 2)
    assert reader.windows == [(10, 22, 1)]


def test_a_longer_history_than_a_window_counts_as_one():
    reader = Reader()
    reader.cached = {*range(400)}
    reader.read(400, 2)
    assert reader.windows == [(400, 32, 1)]


def test_two_readers_of_one_file_go_by_what_is_cached_ahead():
    reader = Reader()
    # Both begin a sequence; the second takes the state away from the first.
    for page in (0, 1000, 1001):
        reader.read(page)
    assert reader.windows == [(0, 4, 3), (1000, 1, 0), (1001, 4, 3)]
    # The first one's marker is on page 1: three pages are cached from there on, and one is asked for.
    reader.read(1)
    assert reader.windows[-1] == (4, 8, 8)


def test_a_marker_with_no_end_in_sight_is_ignored():
    reader = Reader()
    reader.cached, reader.markers = {*range(2000)}, {100}
    reader.read(100)
    assert reader.windows == []
    assert reader.markers == set()


def test_random_access_and_no_readahead_read_what_is_asked_for():
    reader = Reader()
    reader.read(0, 5, is_random=True)
    assert reader.windows == [(0, 5, 0)]
    off = Reader(ra_pages=0, io_pages=0)
    assert [int(n) for n in sync_window(off.file, 0, 5, -1, 0, False, 0, 256, 0)] == [0, 1, NO_MARKER]
    assert [int(n) for n in async_window(off.file, 0, 5, 9, 1, 0, 256, 0)][1] == 0


def test_a_request_beyond_the_window_may_be_as_large_as_a_read_of_the_device():
    reader = Reader(io_pages=256)
    reader.read(700, 100)
    assert reader.windows == [(700, 100, 0)]
    medium, small = Reader(io_pages=64), Reader(io_pages=16)
    for other in (medium, small):
        other.read(700, 100)
    assert medium.windows[0] == (700, 64, 32)
    assert small.windows[0] == (700, 32, 16)


def test_large_folios_grow_by_two_orders_and_windows_end_aligned():
    # By the order that a window asks for, 2, 4, 4, 5, 5, 5 ..., it ends at a multiple of 4, 16, 16, 32 ...,
    # unless nothing of it would be left; the order that it is read in is at most that of its size.
    assert sequential(200, 1, max_order=9)[:9] == [
        (0, 4, 3), (4, 8, 8), (12, 4, 4), (16, 8, 8), (24, 8, 8), (32, 16, 16), (48, 16, 16), (64, 32, 32),
        (96, 32, 32),
    ]  # fmt: skip
