"""Requests made of block events: hand-worked lives of requests, and any interleaving of many."""

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.traces import NO_TID, NO_TIME, BlockOp, TraceWriter
from kdtool.traces.blockio import EVENT, BlockEvent, RequestMatcher, matcher, op_of, waiting
from kdtool.traces.blockio.plain import Plain, blockio_columns, find_plain

QUEUE, REMAP, SPLIT, GETRQ, BACK, FRONT, MERGE, ISSUE, REQUEUE, COMPLETE, ANY_MERGE = BlockEvent
DISK, OTHER_DISK = 8 << 20, 8 << 20 | 16
EIO = -5


def event(t, kind, sector, nr=8, rwbs="W", tid=1, other=0, dev=DISK, old_dev=0):
    op = op_of(rwbs, empty=nr == 0 and kind != SPLIT)
    return t, kind, dev, sector, nr, op, tid, other, old_dev


def rows_of(columns) -> list[tuple[int, ...]]:
    names = ("sector", "nr_sectors", "op", "tid", "queue_ns", "issue_ns", "complete_ns", "error")
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def match(*events, sizes: Iterable[int] = (), lossy=False):
    """Return the rows of events, fed in blocks of some sizes and then all the rest, and the matcher."""
    made, rows = RequestMatcher(), []
    made.lossy = lossy
    array, begin = np.array(list(events), EVENT), 0
    for size in (*sizes, len(array)):
        rows += rows_of(made.match(array[begin : begin + size]))
        begin += size
    return rows + rows_of(made.finish()), made


def life(sector, nr=8, begin=0, rwbs="W", tid=1):
    """The events of a plain request: arrival, request, issue, completion."""
    kinds = (QUEUE, GETRQ, ISSUE, COMPLETE)
    return [event(begin + 10 * i, kind, sector, nr, rwbs, tid) for i, kind in enumerate(kinds)]


# ------------------------------------------------------------------------------------- lives of requests


def test_a_request_has_its_arrival_issue_and_completion() -> None:
    rows, made = match(*life(64, 16, begin=100, rwbs="RS", tid=7))

    assert rows == [(64, 16, BlockOp.READ | BlockOp.SYNC, 7, 100, 120, 130, 0)]
    assert (made.fed, made.stray, made.flushes) == (4, 0, 0)


def test_bios_merged_behind_and_before_make_one_request_of_the_first_to_arrive() -> None:
    rows, made = match(
        event(1, QUEUE, 8, tid=1),
        event(2, GETRQ, 8, tid=1),
        event(3, QUEUE, 16, tid=2),
        event(4, BACK, 16, tid=2),
        event(5, QUEUE, 0, tid=1),
        event(6, FRONT, 0, tid=1),
        event(7, QUEUE, 24, tid=1),
        event(8, BACK, 24, tid=1),
        event(9, ISSUE, 0, 32, tid=99),
        event(10, COMPLETE, 0, 32, tid=0),
    )

    assert rows == [(0, 32, BlockOp.WRITE, 1, 1, 9, 10, 0)]
    assert (made.adopted, made.stray) == (1, 0)


def test_a_bio_that_arrived_before_the_one_that_got_the_request_is_the_first() -> None:
    rows, _ = match(
        event(1, QUEUE, 8, tid=1),
        event(2, QUEUE, 0, tid=2),
        event(3, GETRQ, 0, tid=2),
        event(4, BACK, 8, tid=1),
        event(5, ISSUE, 0, 16),
        event(6, COMPLETE, 0, 16),
    )

    assert rows == [(0, 16, BlockOp.WRITE, 1, 1, 5, 6, 0)]


def test_a_request_merged_into_another_is_no_row() -> None:
    rows, made = match(
        *(event(t, kind, 0, tid=3) for t, kind in ((10, QUEUE), (11, GETRQ))),
        *(event(t, kind, 16, tid=4) for t, kind in ((5, QUEUE), (12, GETRQ))),
        event(13, QUEUE, 8, tid=4),
        event(14, FRONT, 8, tid=4),
        event(15, MERGE, 8, 16, tid=9),
        event(16, ISSUE, 0, 24),
        event(17, COMPLETE, 0, 24),
    )

    assert rows == [(0, 24, BlockOp.WRITE, 4, 5, 16, 17, 0)]
    assert made.adopted == 1 and made.stray == 0


def test_a_merge_of_which_it_is_not_said_is_that_of_the_bio_or_request_that_waits_there() -> None:
    rows, made = match(
        *(event(t, kind, 0, tid=3) for t, kind in ((10, QUEUE), (11, GETRQ))),
        *(event(t, kind, 8, tid=4) for t, kind in ((5, QUEUE), (12, GETRQ))),
        event(13, QUEUE, 16, tid=4),
        event(14, ANY_MERGE, 16, tid=4),
        event(15, ANY_MERGE, 8, 16, tid=4),
        event(16, QUEUE, 24, tid=4),
        event(17, ANY_MERGE, 24, tid=4),
        event(18, ISSUE, 0, 32),
        event(19, COMPLETE, 0, 32),
    )

    assert rows == [(0, 32, BlockOp.WRITE, 4, 5, 18, 19, 0)]
    assert made.stray == 0


def test_the_parts_of_a_split_bio_are_requests_that_arrived_together() -> None:
    rows, made = match(
        event(1, QUEUE, 0, 24, "R"),
        event(2, SPLIT, 0, 0, "R", other=8),
        event(3, GETRQ, 0, 8, "R"),
        event(4, SPLIT, 8, 0, "R", other=16),
        event(5, GETRQ, 8, 8, "R"),
        event(6, GETRQ, 16, 8, "R"),
        *(event(7 + i, ISSUE, 8 * i, 8, "R") for i in range(3)),
        *(event(20 + i, COMPLETE, 8 * i, 8, "R") for i in (2, 0, 1)),
    )

    assert sorted(rows) == [(8 * i, 8, 0, 1, 1, 7 + i, 20 + i, 0) for i in range(3)]
    assert made.stray == 0


def test_a_requeued_request_was_issued_when_it_went_out_for_good() -> None:
    rows, _ = match(
        event(1, QUEUE, 0),
        event(2, GETRQ, 0),
        event(3, ISSUE, 0),
        event(4, REQUEUE, 0),
        event(5, ISSUE, 0),
        event(6, REQUEUE, 0),
        event(7, ISSUE, 0),
        event(8, COMPLETE, 0),
    )

    assert rows == [(0, 8, BlockOp.WRITE, 1, 1, 7, 8, 0)]


def test_a_request_done_in_parts_is_done_with_the_last_and_keeps_the_first_error() -> None:
    rows, made = match(
        event(1, QUEUE, 0, 128, "RS"),
        event(2, GETRQ, 0, 128, "RS"),
        event(3, ISSUE, 0, 128, "RS"),
        event(4, COMPLETE, 0, 40, "RS"),
        event(5, REQUEUE, 40, 88, "RS"),
        event(6, ISSUE, 40, 88, "RS"),
        event(7, COMPLETE, 40, 8, "RS", other=EIO),
        event(8, COMPLETE, 48, 80, "RS", other=-121),
    )

    assert rows == [(0, 128, BlockOp.SYNC, 1, 1, 3, 8, EIO)]
    assert made.stray == 0


def test_completions_in_another_order_than_issues_find_their_requests() -> None:
    first, second = life(0), life(8, begin=1)

    rows, _ = match(*first[:3], *second[:3], second[3], event(99, COMPLETE, 0))

    assert rows == [(8, 8, 1, 1, 1, 21, 31, 0), (0, 8, 1, 1, 0, 20, 99, 0)]


def test_reads_and_writes_of_a_sector_are_told_apart() -> None:
    read, write = life(0, rwbs="R", tid=1), life(0, rwbs="W", begin=1, tid=2)

    rows, _ = match(*sorted(read[:3] + write[:3]), write[3], event(99, COMPLETE, 0, rwbs="R"))

    assert rows == [(0, 8, 1, 2, 1, 21, 31, 0), (0, 8, 0, 1, 0, 20, 99, 0)]


def test_devices_are_told_apart() -> None:
    made = RequestMatcher()
    both = [event(t, kind, 0, dev=dev) for t, kind in enumerate((QUEUE, GETRQ, ISSUE, COMPLETE))
            for dev in (DISK, OTHER_DISK)]  # fmt: skip

    columns = made.match(np.array(both, EVENT))

    assert columns["dev"].tolist() == [DISK, OTHER_DISK]


def test_what_is_alike_comes_out_as_it_came_in() -> None:
    one, two = life(0, begin=0, tid=1), life(0, begin=1, tid=2)

    rows, _ = match(*sorted(one + two))

    assert rows == [(0, 8, 1, 1, 0, 20, 30, 0), (0, 8, 1, 2, 1, 21, 31, 0)]


def test_of_two_requests_with_one_end_the_younger_takes_what_goes_on_behind() -> None:
    rows, made = match(
        event(1, GETRQ, 0, 16, tid=1),
        event(2, GETRQ, 8, 8, tid=2),
        event(3, BACK, 16, 8, tid=2),
        event(4, ISSUE, 0, 16),
        event(5, ISSUE, 8, 16),
        event(6, COMPLETE, 0, 16),
        event(7, COMPLETE, 8, 16),
    )

    assert rows == [(0, 16, 1, 1, 1, 4, 6, 0), (8, 16, 1, 2, 2, 5, 7, 0)] and made.stray == 0


def test_of_two_bios_at_a_sector_each_task_gets_a_request_for_its_own() -> None:
    rows, _ = match(
        event(1, QUEUE, 0, tid=1),
        event(2, QUEUE, 0, tid=2),
        event(3, GETRQ, 0, tid=2),
        event(4, ISSUE, 0),
        event(5, COMPLETE, 0),
        event(6, GETRQ, 0, tid=1),
        event(7, ISSUE, 0),
        event(8, COMPLETE, 0),
    )

    assert [(row[3], row[4]) for row in rows] == [(2, 2), (1, 1)]


# ------------------------------------------------------------------------------------- ends that are not seen


def test_a_request_that_never_completes_is_a_row_at_the_end() -> None:
    rows, made = match(*life(0)[:3], *life(8)[:2], event(30, QUEUE, 16))

    assert rows == [(0, 8, 1, 1, 0, 20, NO_TIME, 0), (8, 8, 1, 1, 0, NO_TIME, NO_TIME, 0)]
    assert made.stray == 1, "a bio that got no request is none"


def test_requests_from_before_have_no_arrival_and_no_task() -> None:
    rows, _ = match(event(1, ISSUE, 0), event(2, COMPLETE, 0), event(3, COMPLETE, 8, other=EIO))

    assert rows == [(0, 8, 1, NO_TID, NO_TIME, 1, 2, 0), (8, 8, 1, NO_TID, NO_TIME, NO_TIME, 3, EIO)]


def test_a_request_whose_bio_was_not_seen_arrived_when_it_was_made() -> None:
    rows, _ = match(*life(0)[1:])

    assert rows == [(0, 8, 1, 1, 10, 20, 30, 0)]


def test_what_ends_without_being_issued_has_no_issue() -> None:
    rows, _ = match(*life(0)[:2], event(30, COMPLETE, 0, other=EIO))

    assert rows == [(0, 8, 1, 1, 0, NO_TIME, 30, EIO)]


def test_a_merge_into_a_request_from_before_is_no_row_of_its_own() -> None:
    rows, made = match(
        event(1, QUEUE, 8),
        event(2, BACK, 8),
        event(3, QUEUE, 16),
        event(4, GETRQ, 16),
        event(5, MERGE, 16),
        event(6, FRONT, 40),
        event(7, ISSUE, 0, 24),
        event(8, COMPLETE, 0, 24),
    )

    assert rows == [(0, 24, 1, NO_TID, NO_TIME, 7, 8, 0)]
    assert made.stray == 6


def test_a_request_from_before_merged_into_ours_is_ours() -> None:
    rows, _ = match(*life(0)[:2], event(15, MERGE, 8), event(20, ISSUE, 0, 16), event(30, COMPLETE, 0, 16))

    assert rows == [(0, 16, 1, 1, 0, 20, 30, 0)]


@pytest.mark.parametrize("lossy", [False, True])
def test_a_lost_completion_costs_no_other_request_its_own_once_losses_are_known(lossy: bool) -> None:
    first, second = life(0), life(0, begin=100)

    rows, _ = match(*first[:3], *second, lossy=lossy)

    if lossy:
        assert rows == [(0, 8, 1, 1, 0, 20, NO_TIME, 0), (0, 8, 1, 1, 100, 120, 130, 0)]
    else:
        assert rows == [(0, 8, 1, 1, 0, 20, 130, 0), (0, 8, 1, 1, 100, 120, NO_TIME, 0)]


def test_what_stays_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "MAX_OPEN", 3)
    made, rows = RequestMatcher(), []
    for i in range(10):
        events = [
            event(10 * i, ISSUE, 8 * i),
            event(10 * i + 1, QUEUE, 8 * i),
            event(10 * i + 2, REMAP, 8 * i),
        ]
        rows += rows_of(made.match(np.array(events, EVENT)))

    assert [row[0] for row in rows] == [8 * i for i in range(7)]
    rest = rows_of(made.finish())
    assert [row[0] for row in rest] == [56, 64, 72] and made.stray == 20


def test_what_is_alike_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "MAX_ALIKE", 3)
    monkeypatch.setattr(waiting, "MAX_ALIKE", 3)
    made = RequestMatcher()

    rows = rows_of(made.match(np.array([event(t, ISSUE, 0) for t in range(10)], EVENT)))
    bios = made.match(np.array([event(10 + t, QUEUE, 0) for t in range(10)], EVENT))

    assert [row[5] for row in rows] == list(range(7)) and not len(bios["dev"]) and made.stray == 7
    assert [row[5] for row in rows_of(made.finish())] == [7, 8, 9] and made.stray == 10


# ------------------------------------------------------------------------------------- flushes, other devices


def test_an_empty_flush_has_the_issue_of_the_one_that_the_kernel_sends_for_all() -> None:
    rows, made = match(
        event(1, QUEUE, 0, 0, "FWS", tid=1),
        event(2, GETRQ, 0, 0, "FWS", tid=1),
        event(3, QUEUE, 0, 0, "FWS", tid=2),
        event(4, GETRQ, 0, 0, "FWS", tid=2),
        event(5, ISSUE, 0, 0, "FF", tid=99),
        event(6, COMPLETE, (1 << 64) - 1, 0, "FF"),
        event(7, COMPLETE, 0, 0, "WS"),
        event(8, COMPLETE, 0, 0, "WS"),
        event(9, COMPLETE, 0, 0, "WS"),
    )

    flush = BlockOp.FLUSH | BlockOp.SYNC
    assert rows == [(0, 0, flush, 1, 1, 5, 7, 0), (0, 0, flush, 2, 3, 5, 8, 0)]
    assert (made.flushes, made.stray) == (2, 1)


@pytest.mark.parametrize(("asked", "issued"), [("WFS", "WS"), ("FWS", "WS"), ("FWFS", "WFS")])
def test_a_write_is_done_when_the_flush_after_it_is(asked: str, issued: str) -> None:
    rows, _ = match(
        event(1, QUEUE, 8, 8, asked),
        event(2, GETRQ, 8, 8, asked),
        event(3, ISSUE, 8, 8, issued),
        event(4, COMPLETE, 8, 8, issued),
        event(5, ISSUE, 0, 0, "FF"),
        event(6, COMPLETE, (1 << 64) - 1, 0, "FF"),
        event(7, COMPLETE, 8, 0, "WS"),
    )

    fua = BlockOp.FUA if "F" in asked[1:] else 0
    assert rows == [(8, 8, BlockOp.WRITE | BlockOp.SYNC | fua, 1, 1, 3, 7, 0)]


def test_a_device_that_writes_through_needs_no_flush_after() -> None:
    rows, _ = match(*life(8, rwbs="WFS"))

    assert rows == [(8, 8, BlockOp.WRITE | BlockOp.SYNC | BlockOp.FUA, 1, 0, 20, 30, 0)]


def test_a_write_whose_flush_is_not_seen_is_done_when_its_data_was() -> None:
    rows, _ = match(*life(8, rwbs="WFS")[:2], event(20, ISSUE, 8), event(30, COMPLETE, 8))

    assert rows == [(8, 8, BlockOp.WRITE | BlockOp.SYNC | BlockOp.FUA, 1, 0, 20, 30, 0)]


def test_a_bio_of_a_device_without_requests_is_a_row_without_an_issue() -> None:
    rows, _ = match(event(1, QUEUE, 8, tid=5), event(4, COMPLETE, 8, other=EIO))

    assert rows == [(8, 8, 1, 5, 1, NO_TIME, 4, EIO)]


def test_commands_that_pass_through_are_requests_of_another_operation() -> None:
    rows, _ = match(event(1, ISSUE, 0, 0, "R"), event(2, COMPLETE, 0, 0, "R"))

    assert rows == [(0, 0, BlockOp.OTHER, NO_TID, NO_TIME, 1, 2, 0)]


def test_a_bio_that_goes_on_to_another_device_is_a_request_there_and_arrived_when_it_did_above() -> None:
    moved = {"dev": OTHER_DISK}
    rows, made = match(
        event(1, QUEUE, 8, tid=5),
        event(2, REMAP, 808, tid=5, other=8, old_dev=DISK, **moved),
        *(event(t, kind, 808, tid=5, **moved) for t, kind in ((3, GETRQ), (4, ISSUE), (5, COMPLETE))),
    )

    assert rows == [(808, 8, 1, 5, 1, 4, 5, 0)]
    assert made.stray == 1, "the bio above, which tells its end under its new name"


def test_a_clone_that_is_queued_below_is_a_row_of_its_own() -> None:
    below = {"dev": OTHER_DISK}
    rows, made = match(
        event(1, QUEUE, 8, tid=5),
        event(2, REMAP, 808, tid=5, other=8, old_dev=DISK, **below),
        event(3, QUEUE, 808, tid=5, **below),
        *(event(t, kind, 808, tid=5, **below) for t, kind in ((4, GETRQ), (5, ISSUE), (6, COMPLETE))),
        event(7, COMPLETE, 8),
    )

    assert rows == [(808, 8, 1, 5, 3, 5, 6, 0), (8, 8, 1, 5, 1, NO_TIME, 7, 0)]
    assert made.stray == 1


def test_a_partition_is_no_device_of_its_own() -> None:
    partition = DISK + 1
    rows, made = match(event(0, REMAP, 2056, other=8, old_dev=partition), *life(2056, begin=1))

    assert rows == [(2056, 8, 1, 1, 1, 21, 31, 0)] and made.stray == 1


@pytest.mark.parametrize(
    ("rwbs", "nr", "op"),
    [
        ("R", 8, BlockOp.READ),
        ("RAM", 8, BlockOp.READ | BlockOp.READAHEAD | BlockOp.META),
        ("WSM", 8, BlockOp.WRITE | BlockOp.SYNC | BlockOp.META),
        ("FWFSM", 8, BlockOp.WRITE | BlockOp.FUA | BlockOp.SYNC | BlockOp.META),
        ("DS", 8, BlockOp.DISCARD | BlockOp.SYNC),
        ("DE", 8, BlockOp.DISCARD),
        ("NS", 8, BlockOp.OTHER | BlockOp.SYNC),
        ("WZ", 8, BlockOp.OTHER),
        ("ZA", 8, BlockOp.OTHER),
        ("FWS", 0, BlockOp.FLUSH | BlockOp.SYNC),
        ("R", 0, BlockOp.OTHER),
        ("", 0, BlockOp.OTHER),
    ],
)
def test_letters_are_operations(rwbs: str, nr: int, op: int) -> None:
    assert op_of(rwbs, empty=nr == 0) & 0xFF == op


# ------------------------------------------------------------------------------------- any interleaving


@st.composite
def requests(draw, slot: int):
    """The events of a request in one part of the disk, each but its time, and the row they make."""
    base, tid, rwbs = slot * 100_000, draw(st.integers(1, 3)), draw(st.sampled_from(["R", "W", "WS", "DS"]))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    begins = [base + 1000 + sum(sizes[:i]) for i in range(len(sizes))]
    first = draw(st.integers(0, len(sizes) - 1))
    lives = [(QUEUE, begins[first], sizes[first], tid, 0), (GETRQ, begins[first], sizes[first], tid, 0)]
    back, front = first + 1, first - 1
    while back < len(sizes) or front >= 0:
        behind = back < len(sizes) and (front < 0 or draw(st.booleans()))
        at, kind = (back, BACK) if behind else (front, FRONT)
        owner = draw(st.integers(1, 3))
        lives += [(QUEUE, begins[at], sizes[at], owner, 0), (kind, begins[at], sizes[at], owner, 0)]
        back, front = (back + 1, front) if behind else (back, front - 1)
    sector, total = begins[0], sum(sizes)
    for _ in range(draw(st.integers(0, 2))):
        lives += [(ISSUE, sector, total, 0, 0), (REQUEUE, sector, total, 0, 0)]
    issue = len(lives)
    lives.append((ISSUE, sector, total, 0, 0))
    error = draw(st.sampled_from([0, 0, EIO]))
    done = draw(st.integers(0, total - 1))
    if done:
        lives.append((COMPLETE, sector, done, 0, 0))
    lives.append((COMPLETE, sector + done, total - done, 0, error))
    op = op_of(rwbs, empty=False)
    return [(*each, op) for each in lives], (sector, total, op, tid, issue, error)


@st.composite
def bios(draw, slot: int):
    """The same of a bio that gets no request."""
    sector, nr, tid = slot * 100_000, draw(st.integers(1, 40)), draw(st.integers(1, 3))
    error, op = draw(st.sampled_from([0, EIO])), op_of("R", empty=False)
    lives = [(QUEUE, sector, nr, tid, 0, op), (COMPLETE, sector, nr, 0, error, op)]
    return lives, (sector, nr, op, tid, None, error)


@st.composite
def interleaved(draw):
    """Events of many requests, those of a part of the disk one after another; and their rows."""
    rng = draw(st.randoms(use_true_random=False))
    slots = []
    for slot in range(draw(st.integers(1, 5))):
        slots.append([draw(requests(slot)) for _ in range(draw(st.integers(1, 4)))])
    for slot in range(len(slots), len(slots) + draw(st.integers(0, 2))):  # of a device without requests
        slots.append([draw(bios(slot)) for _ in range(draw(st.integers(1, 4)))])
    turns = [slot for slot, each in enumerate(slots) for lives, _ in each for _ in lives]
    rng.shuffle(turns)
    times: dict[int, list[int]] = {}
    for t, slot in enumerate(turns):
        times.setdefault(slot, []).append(t)
    events, rows = [], []
    for slot, each in enumerate(slots):
        moments = iter(times[slot])
        for lives, (sector, total, op, tid, issue, error) in each:
            when = [next(moments) for _ in lives]
            issue_ns, dev = (NO_TIME, OTHER_DISK) if issue is None else (when[issue], DISK)
            rows.append((sector, total, op, tid, when[0], issue_ns, when[-1], error))
            events += [
                (t, kind, dev, at, nr, op, owner, other, 0)
                for t, (kind, at, nr, owner, other, op) in zip(when, lives, strict=True)
            ]
    return sorted(events), rows, draw(st.lists(st.integers(0, 30), max_size=6))


@settings(max_examples=100, deadline=None)
@given(interleaved())
def test_every_request_comes_out_once_with_its_times(drawn) -> None:
    events, expected, sizes = drawn

    rows, made = match(*events, sizes=sizes)

    assert sorted(rows) == sorted(expected)
    assert (made.fed, made.stray) == (len(events), 0)


def nothing_plain(events, taken, with_requests) -> Plain:
    return Plain(np.zeros(len(events), bool), blockio_columns([()] * 9), 0)


@settings(max_examples=100, deadline=None)
@given(interleaved())
def test_what_is_found_at_once_is_what_is_found_one_by_one(drawn) -> None:
    events, _, sizes = drawn
    rows, made = match(*events, sizes=sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher, "find_plain", nothing_plain)
        each, alone = match(*events, sizes=sizes)

    assert sorted(rows) == sorted(each)
    assert (made.stray, made.adopted, made.flushes) == (alone.stray, alone.adopted, alone.flushes)


def test_plain_requests_and_what_was_merged_behind_them_are_found_at_once() -> None:
    grown = [event(1, QUEUE, 0), event(2, GETRQ, 0), event(7, ISSUE, 0, 32), event(8, COMPLETE, 0, 32)]
    grown += [
        event(3 + i, kind, 8 + 8 * j, 8 + 8 * j, tid=2)
        for j in (0, 1)
        for i, kind in enumerate((QUEUE, BACK))
    ]
    again = [*life(800), *life(800, begin=100)]
    open_already, not_whole = life(1600), life(2400)[:3]
    events = np.array(sorted(grown + again + open_already + not_whole), EVENT)

    found = find_plain(events, {(DISK, 1600, BlockOp.WRITE)}, {DISK})

    assert sorted(rows_of(found.columns)) == [
        (0, 32, 1, 1, 1, 7, 8, 0),
        (800, 8, 1, 1, 0, 20, 30, 0),
        (800, 8, 1, 1, 100, 120, 130, 0),
    ]
    assert int(found.used.sum()) == len(grown) + len(again) and found.adopted == 2


def test_bios_of_a_device_without_requests_are_found_at_once() -> None:
    again = [event(t, kind, 8, dev=OTHER_DISK) for t, kind in enumerate((QUEUE, COMPLETE, QUEUE, COMPLETE))]
    failed = [event(9, QUEUE, 16, dev=OTHER_DISK), event(10, COMPLETE, 16, other=EIO, dev=OTHER_DISK)]
    of_a_disk = [event(11, QUEUE, 24), event(12, COMPLETE, 24)]
    events = np.array([*again, *failed, *of_a_disk], EVENT)

    found = find_plain(events, (), {DISK})

    assert sorted(rows_of(found.columns)) == [
        (8, 8, 1, 1, 0, NO_TIME, 1, 0),
        (8, 8, 1, 1, 2, NO_TIME, 3, 0),
        (16, 8, 1, 1, 9, NO_TIME, 10, EIO),
    ]
    assert found.used.tolist() == [True] * 6 + [False] * 2


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_events_are_all_accounted_for(data) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(BlockEvent)), max_size=60))
    rng = random.Random(data.draw(st.integers(0, 999)))
    events = [
        event(
            t,
            kind,
            rng.randrange(4) * 8,
            rng.choice([0, 8, 16]),
            rng.choice(["R", "W", "FWS", "WFS", "FF"]),
            rng.randrange(3),
            rng.randrange(4) * 8,
            old_dev=rng.choice([DISK, 1]),
        )
        for t, kind in enumerate(kinds)
    ]

    rows, made = match(*events, sizes=[rng.randrange(9) for _ in range(5)], lossy=rng.random() < 0.3)

    assert made.fed == len(events), "and finish() raises unless they balance"
    assert all(row[4] <= row[5] for row in rows if NO_TIME not in row[4:6])
    assert all(row[5] <= row[6] for row in rows if NO_TIME not in row[5:7])


def test_rows_are_rows_of_the_table(tmp_path: Path) -> None:
    columns = RequestMatcher().match(np.array(life(0), EVENT))

    with TraceWriter(tmp_path / "t.kdt") as writer:
        writer.append("blockio", columns)
        assert writer.rows == 1
