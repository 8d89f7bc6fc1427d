"""Switches to and from a thread alternate: what is missing is put in where perf saw it, else counted."""

import numpy as np

from kdtool.collect.schedrows import ROW
from kdtool.collect.seenswitches import SEEN_IN
from kdtool.collect.switchpairs import SwitchPairs
from kdtool.collect.threads import Lifetimes
from kdtool.traces import UNTOLD, SchedEvent

SWITCH, WAKING, *_ = SchedEvent
SLEEP, MINE, OTHER = 1, 500, 600


def rows_of(*events: tuple[int, int, int, int]) -> np.ndarray:
    """Rows of (event, tid, next_tid, prio), a microsecond apart, on CPU 1."""
    rows = np.zeros(len(events), ROW)
    rows["ts_ns"] = 1000 * np.arange(1, len(events) + 1)
    rows["cpu"] = 1
    rows["state"] = SLEEP
    for column, values in zip(("event", "tid", "next_tid", "prio"), zip(*events, strict=True), strict=True):
        rows[column] = values
    return rows


def pairs_of(*tids: int) -> SwitchPairs:
    lifetimes = Lifetimes()
    for tid in tids:
        lifetimes.born(tid, 1)
    return SwitchPairs(lifetimes)


def test_a_switch_that_only_perf_saw_is_put_in_with_the_thread_s_priority() -> None:
    pairs = pairs_of(MINE)
    rows = rows_of(
        (SWITCH, 0, MINE, 110),
        (SEEN_IN, 0, MINE, 0),  # the same again
        (SWITCH, MINE, OTHER, 120),
        (SEEN_IN, OTHER, OTHER + 1, 0),  # others
        (WAKING, OTHER, MINE, 100),
        (SEEN_IN, OTHER, MINE, 0),  # of this one the tracepoint did not tell
        (SWITCH, MINE, 0, 120),
    )

    found = pairs.complete(rows)

    assert found["event"].tolist() == [SWITCH, SWITCH, WAKING, SWITCH, SWITCH]
    assert found[3][["ts_ns", "cpu", "tid", "next_tid", "prio", "state"]].tolist() == (
        6000, 1, OTHER, MINE, 100, UNTOLD,
    )  # fmt: skip
    assert pairs.facts() == {"put_in": 1, "seen_again": 2, "unpaired": 0}


def test_what_is_put_in_follows_from_rows_of_batches_before() -> None:
    pairs = pairs_of(MINE)
    pairs.complete(rows_of((SWITCH, 0, MINE, 90), (SWITCH, MINE, 0, 120)))

    found = pairs.complete(rows_of((SEEN_IN, 0, MINE, 0), (SWITCH, MINE, 0, 120)))

    assert found[["event", "prio", "state", "target_cpu"]].tolist()[0] == (SWITCH, 90, 0, -1)
    assert pairs.unpaired == 0


def test_a_switch_that_nobody_saw_is_counted() -> None:
    pairs = pairs_of(MINE)

    found = pairs.complete(rows_of((SWITCH, 0, MINE, 90), (SWITCH, MINE, 0, 1), (SWITCH, MINE, 0, 1)))

    assert len(found) == 3
    assert pairs.facts() == {"put_in": 0, "seen_again": 0, "unpaired": 1}
