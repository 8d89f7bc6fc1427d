"""VMAs as mappings come and go: cases of mm/vma.c by hand, and what holds of all."""

import numpy as np
import pytest
from builders import workload
from hypothesis import given
from hypothesis import strategies as st

from kdtool.replay.vmas import follow_vmas
from kdtool.traces import RefKind, VmaFlag

N_PAGES = 40
RW, READ, FILE, GONE = 3, 1, VmaFlag.FILE | 3, VmaFlag.UNMAPPED


def mappings(rows):
    """Return `vmas` of (first page, page after the last, flags), one before each reference."""
    start, end, flags = np.array(rows).T
    n = len(rows)
    return {
        "row": np.arange(n), "pid": np.ones(n, np.int32), "start_vpn": start.astype(np.uint64),
        "end_vpn": end.astype(np.uint64), "flags": flags.astype(np.uint8),
    }  # fmt: skip


def vmas_after(rows):
    """Return of each page its VMA as (number, first page, page after the last), None where none is mapped."""
    n = len(rows)
    keep = np.ones(n, np.bool_)
    row, changes, n_vmas = follow_vmas(mappings(rows), np.ones(1, np.int64), np.arange(N_PAGES), keep)
    assert (row == np.sort(row)).all()
    of_page, bounds = np.zeros(N_PAGES, np.int64), np.zeros((n_vmas, 2), np.int64)
    for first, last, vma, start, end in changes.tolist():
        of_page[first:last] = vma
        bounds[vma] = start, end
    mapped = np.zeros(N_PAGES, np.bool_)
    for start, end, flags in rows:
        mapped[start:end] = not flags & GONE
    numbers = of_page.tolist()
    return [(n, *bounds[n].tolist()) if here else None for n, here in zip(numbers, mapped, strict=True)]


@pytest.mark.parametrize(
    ("rows", "page", "reach"),
    [
        ([(10, 20, RW), (20, 30, RW)], 12, (10, 30)),  # one beside another
        ([(20, 30, RW), (10, 20, RW)], 25, (10, 30)),
        ([(10, 20, RW), (20, 30, READ)], 12, (10, 20)),  # not of another protection
        ([(10, 20, FILE), (20, 30, FILE)], 12, (10, 20)),  # nor of a file
        ([(10, 20, RW), (20, 30, RW), (10, 20, GONE), (15, 20, RW)], 25, (15, 30)),  # beside what is left
        ([(10, 30, RW), (15, 20, GONE)], 12, (10, 15)),  # cut in two
        ([(10, 30, RW), (15, 20, GONE)], 25, (20, 30)),
        ([(10, 30, RW), (15, 20, GONE), (15, 20, RW)], 25, (10, 30)),  # and whole again
        ([(10, 15, RW), (20, 30, RW), (15, 20, RW)], 17, (10, 20)),  # two of their own: the lower one grows
        ([(10, 15, RW), (20, 30, RW), (15, 20, RW)], 25, (20, 30)),
        ([(10, 30, RW), (15, 20, READ)], 17, (15, 20)),  # mprotect()
        ([(10, 30, RW), (15, 20, READ), (15, 20, RW)], 12, (10, 30)),
    ],
    ids=str,
)
def test_how_far_the_vma_of_a_page_reaches(rows, page, reach):
    assert vmas_after(rows)[page][1:] == reach


ranges = st.tuples(st.integers(0, N_PAGES - 1), st.integers(1, 12), st.sampled_from([RW, READ, FILE, GONE]))


@given(st.lists(ranges, min_size=1, max_size=25))
def test_a_vma_reaches_over_its_own_pages_and_no_others(drawn):
    rows = [(start, min(start + n, N_PAGES), int(flags)) for start, n, flags in drawn]
    found = vmas_after(rows)
    flags = np.full(N_PAGES, GONE)
    for start, end, these in rows:
        flags[start:end] = these
    for page, vma in enumerate(found):
        assert (vma is None) == (flags[page] == GONE)
        if vma is not None:
            _, start, end = vma
            assert start <= page < end
            assert found[start:end] == [vma] * (end - start)
            assert (flags[start:end] == flags[page]).all()


def test_rows_count_the_references_that_are_kept():
    maps = mappings([(0, 10, RW), (10, 20, VmaFlag.FILE | 1), (20, 30, RW)])
    w = workload([1, 11, 21], maps=maps, kinds=[RefKind.STORE] * 3)
    assert w.n_refs == 2
    assert w.vma_row.tolist() == [0, 1, 1]
