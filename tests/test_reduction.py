"""Reduction changes nothing: replays of whole and of reduced references, for every policy."""

import os
from dataclasses import replace

import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.replay import POLICIES, ProgramPolicy, replay, run_shadow
from kdtool.rmt import stride_program

EVERY_POLICY = (*POLICIES, ProgramPolicy(stride_program()))
EXAMPLES = int(os.environ.get("KDTOOL_EXAMPLES", "40"))
"""Traces a policy; 2000 take a quarter of an hour."""
COUNTS = (
    "major_faults",
    "minor_faults",
    "late_hits",
    "prefetch_issued",
    "prefetch_wasted",
    "pollution_faults",
)
TIMES = ("stall_ns", "runtime_ns")


def score(w, policy, pages):
    return replay(w, policy, run_shadow(w, pages, ssd(), "lru"), ssd())


def sad(vpns, k):
    """Drop references as the recorder does: the middle of three, with < k distinct others between."""
    kept = list(range(len(vpns)))
    last = {}
    for at in range(len(vpns)):
        page = vpns[at]
        if page in last and len(last[page]) == 2:
            first, middle = last[page]
            between = {vpns[i] for i in range(first + 1, at)} - {page}
            if len(between) < k:
                kept.remove(middle)
                last[page] = [first, at]
                continue
            last[page] = [middle, at]
        else:
            last.setdefault(page, []).append(at)
    return kept


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda p: p.name)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_reduction_is_exact_within_the_bound_for_every_policy(policy, data):
    """The claim of exact_pages: k * (1 + degree) + 1 pages are enough, prefetching included."""
    k = data.draw(st.integers(1, 3))
    n_pages = max(46, 3 * (1 + policy.degree_pages))
    visit = st.tuples(st.integers(0, n_pages - 1), st.integers(0, 5), st.integers(1, 3))
    visits = data.draw(st.lists(visit, min_size=30, max_size=100))
    # A few pages around each one, several times over: that is what reduction drops.
    vpns = [*range(n_pages), *(page + near for page, near, n in visits for near in [0, near] * n)]
    full = workload(vpns)
    kept = sad(vpns, k)
    reduced = workload_rows(full, kept, k)
    pages = k * (1 + policy.degree_pages) + 1 + data.draw(st.integers(0, 3))

    a, b = score(full, policy, pages), score(reduced, policy, pages)

    assert len(kept) < len(vpns) or k == 1
    for key in (*COUNTS, *(() if policy.name == "belady" else TIMES)):
        assert getattr(a, key) == getattr(b, key), key


def test_reduction_keeps_beladys_faults_but_not_what_it_evicts():
    """It goes by next uses, of which reduction drops some: as few faults, but other victims to write."""
    [belady] = (policy for policy in POLICIES if policy.name == "belady")
    near_the_start = [1, 1, 4, 5, 1, 2, 1, 3, 1, 1, *[0] * 50]
    full = workload([*range(46), *near_the_start])
    kept = sad([*range(46), *near_the_start], 3)

    a, b = score(full, belady, 4), score(workload_rows(full, kept, 3), belady, 4)

    assert all(getattr(a, key) == getattr(b, key) for key in COUNTS)
    assert a.runtime_ns != b.runtime_ns


def workload_rows(w, rows, k):
    return replace(
        w,
        page=w.page[rows],
        insns=w.insns[rows],
        store=w.store[rows],
        thread=w.thread[rows],
        ip=w.ip[rows],
        k=k,
    )
