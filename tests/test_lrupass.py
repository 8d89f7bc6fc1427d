"""An LRU whose misses are found before: all that a replay says is what it is with the lists."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from test_file_pages import one_file

from kdtool.replay import drive as drive_module
from kdtool.replay import load_device, load_policy, run_shadow
from kdtool.replay import replay as replay_
from kdtool.replay.lrupass import LruPass
from kdtool.replay.run import replay_none

NONE = load_policy("none")


@st.composite
def workloads(draw):
    """Return one of up to three threads, with stores and unmappings, some before a page comes again."""
    n = draw(st.integers(1, 200))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    tids = column(st.integers(0, draw(st.integers(0, 2))))
    steps = column(st.sampled_from([1, 100, 50_000, 9_000_000]))
    insns, own = [], [0] * 3
    for who, step in zip(tids, steps, strict=True):
        own[who] += step
        insns.append(own[who])
    w = workload(
        column(st.integers(0, draw(st.integers(0, 40)))),
        kinds=column(st.integers(0, 1)),
        tids=tids,
        insns=insns,
    )
    rows = sorted(draw(st.lists(st.integers(0, n), max_size=20)))
    freed = [draw(st.integers(0, w.n_pages - 1)) for _ in rows]
    return replace(w, free_row=np.array(rows, np.int64), free_page=np.array(freed, np.int64))


def both(w, pages, device, from_row):
    """Return what the shadow's run and one more beside it say, and where they miss."""
    shadow, scored = replay_none(w, pages, device, "lru", from_row=from_row)
    again = replay_(w, NONE, shadow, device, from_row=from_row)
    # A shadow that misses elsewhere: what is counted as pollution is counted alike.
    other = replay_(w, NONE, replace(shadow, missed=1 - shadow.missed), device, from_row=from_row)
    return [replace(each, replay_s=0.0) for each in (scored, again, other)], shadow.missed.tolist()


@settings(max_examples=300, deadline=None)
@given(data=st.data(), w=workloads(), pages=st.integers(2, 20), chunk=st.integers(1, 300))
def test_a_replay_over_the_faults_alone_is_the_one_with_lists(data, w, pages, chunk):
    device = load_device(data.draw(st.sampled_from(["ssd", "zram"])))
    from_row = data.draw(st.integers(0, w.n_refs - 1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(drive_module, "CHUNK_ROWS", chunk)
        found = both(w, pages, device, from_row)
        patched.setattr(drive_module, "_misses_go_by_order", lambda *_: False)
        assert found == both(w, pages, device, from_row)


@settings(max_examples=100, deadline=None)
@given(w=workloads(), pages=st.integers(2, 20), chunk=st.integers(1, 300))
def test_faults_are_found_as_plain_python_finds_them(w, pages, chunk):
    held, rows, victims = [], [], []
    for row, page in enumerate(w.page.tolist()):
        unmapped = w.free_page[w.free_row == row].tolist()
        held = [each for each in held if each not in unmapped]
        if page in held:
            held.remove(page)
        else:
            rows.append(row)
            if len(held) == pages:
                victims.append((row, held.pop(0)))
        held.append(page)

    lru, found = LruPass.at_start(w, pages, chunk), []
    for start in range(0, w.n_refs, chunk):
        stop = min(start + chunk, w.n_refs)
        *part, end = lru.find(start, stop).tolist()
        assert end == stop
        found += part
        gone = [page for row, page in victims if start <= row < stop]
        assert lru.victims[: len(gone)].tolist() == gone
    assert found == rows


VPNS = [*range(80), *range(80)]
FILE_AND_OWN = workload([*range(0x1000, 0x1004), *VPNS], maps=one_file(4), files="all")


@pytest.mark.parametrize(
    ("policy", "reclaim", "device", "w", "by_order"),
    [
        ("none", "lru", ssd(), workload(VPNS), True),
        ("none", "linux", ssd(), workload(VPNS), False),
        ("none", "mglru", ssd(), workload(VPNS), False),
        ("stride", "lru", ssd(), workload(VPNS), False),
        ("leap-paper", "lru", ssd().by_agent(1), workload(VPNS), False),
        ("belady", "lru", ssd(), workload(VPNS), False),
        ("none", "lru", ssd(), FILE_AND_OWN, False),
    ],
)
def test_lists_are_kept_where_a_clock_or_a_prefetch_has_a_say(
    policy, reclaim, device, w, by_order, monkeypatch
):
    shadow, finds, find = run_shadow(w, 40, ssd(), reclaim), [], LruPass.find
    monkeypatch.setattr(LruPass, "find", lambda *given: finds.append(1) or find(*given))
    replay_(w, load_policy(policy), shadow, device)
    assert bool(finds) == by_order
