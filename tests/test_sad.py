"""The reduction of references is exact: the core of the tracer beside the paper, and beside an LRU."""

import ctypes
import errno
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import PROGRAMS, gcc, qemu

from kdtool.collect import reftrace, session
from kdtool.collect.base import Request
from kdtool.collect.refs import References
from kdtool.errors import TraceError
from kdtool.traces import RefKind, Trace

pytestmark = [gcc, qemu]

CORE = Path(reftrace.__file__).resolve().parent
REFER, UNMAP, TAKE_OVER, DIE_INSIDE, FORK, MOVE = range(6)
OPERATION = np.dtype(
    [("what", "i4"), ("pid", "i4"), ("kind", "i4"), ("spare", "i4"), ("vpn", "u8"), ("end", "u8")]
)


Row = tuple[int, int, int, int]
"""A retained reference: seq, pid, vpn, kind."""


class Op(NamedTuple):
    what: int
    pid: int
    kind: int
    vpn: int
    end: int = 0
    zeros: int = 0  # a store leaves nothing else in the page


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("sad")
    target, options = folder / "sad.so", ("-Wno-unused-function", "-shared", "-fPIC", f"-I{CORE}")
    source = PROGRAMS / "sad_drive.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", *options, source, "-o", target], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="session")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Every reference of xz with two threads beside its first."""
    if shutil.which("xz") is None:
        pytest.skip("xz is not installed")
    folder = tmp_path_factory.mktemp("threaded")
    (folder / "lines").write_text("".join(f"{i * i % 9973}\n" for i in range(6000)))
    command = ("xz", "-0", "-T2", "--block-size=8192", "-kf", str(folder / "lines"))
    return session.record(Request(command, folder / "t.kdt", k=0), [References()])


def contents(ops: list[Op]) -> list[int]:
    """Tell after each operation whether its page is full of zeros, as it is before it is stored to."""
    stored: dict[tuple[int, int], int] = {}
    after = []
    for op in ops:
        if op.what == UNMAP:
            stored |= {(op.pid, vpn): 1 for vpn in range(op.vpn, op.end)}
        elif op.what == REFER and op.kind == RefKind.STORE:
            stored[op.pid, op.vpn] = op.zeros
        after.append(stored.get((op.pid, op.vpn), 1))
    return after


def unreduced(ops: list[Op]) -> list[Row]:
    """Return every reference as if it were retained."""
    return [(i + 1, op.pid, op.vpn, op.kind) for i, op in enumerate(op for op in ops if op.what == REFER)]


def reduced_by_c(core: ctypes.CDLL, ops: list[Op], k: int) -> list[Row]:
    return [row for row in recorded_by_c(core, ops, k) if row[3] != reftrace.ZEROS_KIND]


def recorded_by_c(core: ctypes.CDLL, ops: list[Op], k: int) -> list[Row]:
    """Return what is retained, and behind a reference that its page left the window full of zeros."""
    with tempfile.TemporaryDirectory() as folder:
        spool = reftrace.Spool.make(Path(folder) / "refs", k)
        told = zip(ops, contents(ops), strict=True)
        rows = np.array([(op.what, op.pid, op.kind, zeros, op.vpn, op.end) for op, zeros in told], OPERATION)
        core.drive(
            ctypes.c_void_p(spool.address),
            ctypes.c_void_p(rows.ctypes.data),
            ctypes.c_uint64(len(rows)),
        )
        return [
            (int(r["seq"]), int(r["pid"]), int(r["vpn"]), int(r["kind"]))
            for part in spool.chunks()
            for r in part
        ]


def reduced_by_definition(ops: list[Op], k: int) -> list[Row]:
    """SAD as the paper words it, with sets. A page touched again after its unmapping is another page.

    Beyond the paper: where a page that comes into the window holds nothing but zeros, the first store to it
    there is retained, and so is the reference before.
    """
    touched: list[tuple[int, int, int]] = []  # (pid, vpn, life) of each reference, by seq - 1
    life: dict[tuple[int, int], int] = {}
    first: dict[tuple[int, int, int], int] = {}
    pending: dict[tuple[int, int, int], tuple[int, int]] = {}  # page: seq, kind
    last: dict[tuple[int, int, int], int] = {}
    awaited: set[tuple[int, int, int]] = set()  # pages of zeros whose first store is retained
    kept: list[Row] = []
    for op, zeros in zip(ops, contents(ops), strict=True):
        if op.what == UNMAP:
            for vpn in range(op.vpn, op.end):
                life[op.pid, vpn] = life.get((op.pid, vpn), 0) + 1
        if op.what != REFER:
            continue
        page = (op.pid, op.vpn, life.get((op.pid, op.vpn), 0))
        touched.append(page)
        seq, kind, store = len(touched), op.kind, op.kind == RefKind.STORE
        comes = page not in last or len(set(touched[last[page] : seq - 1]) - {page}) > k
        last[page] = seq
        if comes or (store and page in awaited):
            kept += [(each[0], *page[:2], each[1]) for each in [pending.pop(page, None)] if each]
            kept.append((seq, op.pid, op.vpn, kind))
            first[page] = seq
            awaited = awaited | {page} if zeros and not store else awaited - {page}
            continue
        if page in pending:
            before, before_kind = pending[page]
            if len(set(touched[first[page] : seq - 1]) - {page}) < k:
                kind = RefKind.STORE if before_kind == RefKind.STORE else kind
            else:
                kept.append((before, *page[:2], before_kind))
                first[page] = before
        pending[page] = (seq, int(kind))
    kept += [(seq, *page[:2], kind) for page, (seq, kind) in pending.items()]
    return sorted(kept)


def once_stored_to(stream: list[tuple[int, Row | Op]]) -> list[tuple[int, Row | Op]]:
    """Leave out the references to each page before its first store: they are to the kernel's zero page."""
    stored: set[tuple[int, int]] = set()
    left: list[tuple[int, Row | Op]] = []
    for at, event in stream:
        if isinstance(event, Op):
            stored -= {(event.pid, vpn) for vpn in range(event.vpn, event.end)}
            left.append((at, event))
            continue
        stored |= {event[1:3]} if event[3] == RefKind.STORE else set()
        if event[1:3] in stored:
            left.append((at, event))
    return left


def lru_misses(stream: list[tuple[int, Row | Op]], size: int) -> int:
    """Count the misses of an LRU memory of `size` pages; unmapped pages leave it."""
    memory: dict[tuple[int, int], None] = {}
    misses = 0
    for _, event in stream:
        if isinstance(event, Op):
            for vpn in range(event.vpn, event.end):
                memory.pop((event.pid, vpn), None)
            continue
        page = (event[1], event[2])
        misses += page not in memory
        memory.pop(page, None)
        memory[page] = None
        if len(memory) > size:
            del memory[next(iter(memory))]
    return misses


def with_unmaps(ops: list[Op], references: list[Row]) -> list[tuple[int, Row | Op]]:
    merged: list[tuple[int, Row | Op]] = [(2 * row[0], row) for row in references]
    seq = 0
    for op in ops:
        seq += op.what == REFER
        if op.what == UNMAP:
            merged.append((2 * seq + 1, op))
    return sorted(merged, key=lambda pair: pair[0])


references = st.builds(
    Op,
    st.just(REFER),
    st.integers(1, 2),
    st.integers(0, 3),
    st.integers(0, 30),
    st.just(0),
    st.integers(0, 1),
)
unmaps = st.builds(
    lambda pid, vpn, n: Op(UNMAP, pid, 0, vpn, vpn + n),
    st.integers(1, 2),
    st.integers(0, 30),
    st.integers(1, 5),
)
streams = st.lists(st.one_of(*[references] * 12, unmaps), max_size=300)
forking = st.lists(st.one_of(*[references] * 12, unmaps, st.just(Op(FORK, 1, 0, 0))), max_size=300)


@settings(max_examples=150, deadline=None)
@given(ops=streams, k=st.integers(1, 24))
def test_the_reduction_is_that_of_the_paper_and_lru_misses_are_equal_from_k_on(
    core: ctypes.CDLL, ops: list[Op], k: int
) -> None:
    reduced = reduced_by_c(core, ops, k)
    full = unreduced(ops)

    assert reduced == reduced_by_definition(ops, k)
    streams = [with_unmaps(ops, rows) for rows in (reduced, full)]
    for of_both in (streams, [once_stored_to(stream) for stream in streams]):
        for size in range(k, 64):
            assert lru_misses(of_both[0], size) == lru_misses(of_both[1], size)


def test_a_page_that_is_unmapped_keeps_its_place_by_its_last_reference(core: ctypes.CDLL) -> None:
    # Six other pages, of which 0 is four, come between the first reference to page 1 and its last.
    unmap = Op(UNMAP, 1, 0, 0, 1)
    touched = [[0], [1], [0], [3], unmap, [0], unmap, [0], unmap, [0], [1], [2], [1]]
    ops = [each if isinstance(each, Op) else Op(REFER, 1, 0, each[0]) for each in touched]

    assert [row[0] for row in reduced_by_c(core, ops, 6)] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


moves = st.builds(
    lambda pid, n, vpn, gap, back: (
        Op(MOVE, pid, vpn, vpn + n + gap, vpn + 2 * n + gap)
        if back
        else Op(MOVE, pid, vpn + n + gap, vpn, vpn + n)
    ),
    st.integers(1, 2),
    st.integers(1, 5),
    st.integers(0, 20),
    st.integers(0, 5),
    st.booleans(),
)


def moved_and_touched(ops: list[Op], rows: list[Row]) -> list[tuple[int, Row | Op]]:
    """Put the moves and unmaps among the references of a stream, as with_unmaps() does."""
    merged: list[tuple[int, Row | Op]] = [(2 * row[0], row) for row in rows]
    seq = 0
    for op in ops:
        seq += op.what == REFER
        if op.what in (UNMAP, MOVE):
            merged.append((2 * seq + 1, op))
    return sorted(merged, key=lambda pair: pair[0])


def lru_misses_of_moved(stream: list[tuple[int, Row | Op]], size: int) -> int:
    """Count the misses of an LRU memory of `size` pages, where pages that are moved stay what they are."""
    memory: dict[tuple[int, int], None] = {}
    misses = 0
    for _, event in stream:
        if not isinstance(event, Op):
            _, pid, vpn, _ = event
            misses += (pid, vpn) not in memory
            memory.pop((pid, vpn), None)
            memory[pid, vpn] = None
            if len(memory) > size:
                del memory[next(iter(memory))]
            continue
        n, to = event.end - event.vpn, event.kind
        for vpn in range(event.vpn, event.end) if event.what == UNMAP else range(to, to + n):
            memory.pop((event.pid, vpn), None)
        if event.what == MOVE:
            inside = {
                (event.pid, vpn): (event.pid, vpn - event.vpn + to) for vpn in range(event.vpn, event.end)
            }
            memory = {inside.get(page, page): None for page in memory}
    return misses


@settings(max_examples=150, deadline=None)
@given(ops=st.lists(st.one_of(*[references] * 12, unmaps, moves), max_size=300), k=st.integers(1, 24))
def test_lru_misses_are_equal_where_pages_are_moved(core: ctypes.CDLL, ops: list[Op], k: int) -> None:
    reduced = reduced_by_c(core, ops, k)
    full = unreduced(ops)

    for size in range(k, 64):
        kept = lru_misses_of_moved(moved_and_touched(ops, reduced), size)
        assert kept == lru_misses_of_moved(moved_and_touched(ops, full), size)


def first_stores(
    stream: list[tuple[int, Row | Op]], forks: list[int]
) -> dict[tuple[int, int, int, int], int]:
    """Return the seq of the first store to each page, (pid, vpn, life), after each number of forks."""
    found: dict[tuple[int, int, int, int], int] = {}
    life: dict[tuple[int, int], int] = {}
    for _, event in stream:
        if isinstance(event, Op):
            for vpn in range(event.vpn, event.end):
                life[event.pid, vpn] = life.get((event.pid, vpn), 0) + 1
        elif event[3] == RefKind.STORE:
            pid, vpn = event[1:3]
            after = sum(event[0] > fork for fork in forks)
            found.setdefault((pid, vpn, life.get((pid, vpn), 0), after), event[0])
    return found


@settings(max_examples=150, deadline=None)
@given(ops=forking, k=st.integers(1, 24))
def test_after_a_fork_the_first_store_to_each_page_is_told_where_it_happened(
    core: ctypes.CDLL, ops: list[Op], k: int
) -> None:
    full = unreduced(ops)
    forks = [sum(op.what == REFER for op in ops[:i]) for i, op in enumerate(ops) if op.what == FORK]

    reduced = sorted(reduced_by_c(core, ops, k))

    whole, told = (first_stores(with_unmaps(ops, rows), forks) for rows in (full, reduced))
    assert whole.keys() == told.keys()
    assert all(told[page] == seq for page, seq in whole.items() if page[3])
    for size in range(k, 64):
        assert lru_misses(with_unmaps(ops, reduced), size) == lru_misses(with_unmaps(ops, full), size)


def left_full_of_zeros(ops: list[Op], k: int) -> list[int]:
    """Return the last references to pages that were stored to, full of zeros, and then left the window."""
    life: dict[tuple[int, int], int] = {}
    window: dict[
        tuple[int, int, int], tuple[int, bool, int]
    ] = {}  # seq of the last, stored to, full of zeros
    found, seq = [], 0
    for op, zeros in zip(ops, contents(ops), strict=True):
        if op.what == UNMAP:
            for vpn in range(op.vpn, op.end):
                was = (op.pid, vpn, life.get((op.pid, vpn), 0))
                life[op.pid, vpn] = was[2] + 1
                if was in window:
                    window[was] = (0, False, 0)
        if op.what != REFER:
            continue
        page, seq = (op.pid, op.vpn, life.get((op.pid, op.vpn), 0)), seq + 1
        _, stored, _ = window.pop(page, (0, False, 0))
        window[page] = (seq, stored or op.kind == RefKind.STORE, zeros)
        if len(window) > k + 1:
            found.append(window.pop(next(iter(window))))
    return sorted(seq for seq, stored, zeros in found if stored and zeros)


@settings(max_examples=150, deadline=None)
@given(ops=forking, k=st.integers(0, 24))
def test_pages_that_leave_the_window_full_of_zeros_are_told_of_behind_their_last_reference(
    core: ctypes.CDLL, ops: list[Op], k: int
) -> None:
    recorded = recorded_by_c(core, ops, k)

    zeros = [row[0] for row in recorded if row[3] == reftrace.ZEROS_KIND]
    assert zeros == left_full_of_zeros(ops, k)
    assert all(before[0] == row[0] for before, row in pairwise(recorded) if row[3] == reftrace.ZEROS_KIND)


@settings(max_examples=80, deadline=None)
@given(ops=forking, k=st.integers(1, 24), data=st.data())
def test_a_holder_killed_anywhere_changes_nothing(
    core: ctypes.CDLL, ops: list[Op], k: int, data: st.DataObject
) -> None:
    deaths = data.draw(
        st.lists(st.tuples(st.integers(0, 300), st.sampled_from([TAKE_OVER, DIE_INSIDE])), max_size=5)
    )
    hurt = list(ops)
    for at, what in deaths:
        hurt.insert(min(at, len(hurt)), Op(what, 1, 0, at))

    recorded = recorded_by_c(core, hurt, k)

    assert recorded == recorded_by_c(core, ops, k)


@numba.njit
def lru_misses_at_every_size(pages: np.ndarray, n_pages: int) -> np.ndarray:
    """Stack distances (Mattson): misses[size] of an LRU of `size` pages, in one pass over a Fenwick tree."""
    n = len(pages)
    tree, last = np.zeros(n + 1, np.int32), np.full(n_pages, -1, np.int64)
    deep = np.zeros(n_pages + 2, np.int64)
    for now in range(n):
        before, distance = last[pages[now]], n_pages + 1
        if before >= 0:
            distance = 0
            i = now
            while i > 0:
                distance += tree[i]
                i -= i & -i
            i = before
            while i > 0:
                distance -= tree[i]
                i -= i & -i
            i = before + 1
            while i <= n:
                tree[i] -= 1
                i += i & -i
        deep[distance] += 1  # it hits where at least `distance` pages have room
        last[pages[now]] = now
        i = now + 1
        while i <= n:
            tree[i] += 1
            i += i & -i
    return n - np.cumsum(deep)


@pytest.mark.parametrize("k", [16, 64, 256])
def test_a_real_threaded_program_misses_as_often_reduced_as_whole(
    threaded: Trace, core: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    monkeypatch.setattr(reftrace, "RING_RECORDS", 1 << 21)
    refs = threaded.columns("refs", ["pid", "tid", "vpn", "kind"])
    rows = np.zeros(len(refs["vpn"]), OPERATION)
    rows["what"], rows["pid"], rows["kind"], rows["vpn"] = REFER, refs["pid"], refs["kind"], refs["vpn"]
    spool = reftrace.Spool.make(tmp_path / "refs", k)
    core.drive(ctypes.c_void_p(spool.address), ctypes.c_void_p(rows.ctypes.data), ctypes.c_uint64(len(rows)))
    reduced = np.concatenate([part["vpn"] for part in spool.chunks()])

    known = np.unique(refs["vpn"])
    whole = lru_misses_at_every_size(np.searchsorted(known, refs["vpn"]), len(known))
    after = lru_misses_at_every_size(np.searchsorted(known, reduced), len(known))

    assert len(np.unique(refs["tid"])) >= 3 and len(np.unique(refs["pid"])) == 1
    assert len(reduced) < len(rows) / 2
    assert np.array_equal(whole[k : len(known) + 1], after[k : len(known) + 1])
    assert whole[k] > whole[-2] == len(known)
    assert k == 16 or whole[1] != after[1]  # below k the reduction changes what misses


def test_k_0_keeps_every_reference(core: ctypes.CDLL) -> None:
    ops = [Op(REFER, 1, i % 4, i % 3) for i in range(1000)]

    assert reduced_by_c(core, ops, 0) == [(i + 1, 1, i % 3, i % 4) for i in range(1000)]


def test_records_that_could_not_be_written_refuse_the_trace(tmp_path: Path) -> None:
    spool = reftrace.Spool.make(tmp_path / "refs", 4)
    spool._counters["lost"], spool._counters["error"] = 3, errno.ENOSPC

    with pytest.raises(TraceError, match=r"3 of 3 records could not be written \(No space left on device\)"):
        list(spool.chunks())
