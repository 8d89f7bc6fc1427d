"""What becomes of prefetched pages: each is used, wasted or still there, also when it came back and reclaim
moves it between its lists before anyone touches it."""

import numpy as np
import pytest
from builders import callable_part, list_pages, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.replay import load_device, load_policy, replay, run_shadow, shrink
from kdtool.replay import run as run_module
from kdtool.replay.lists import ACTIVE_LIST, INACTIVE_LIST, push_newest
from kdtool.replay.memory import (
    ACTIVE,
    ACTIVE_COUNT,
    COUNT,
    DIRTY,
    PREDICTED,
    PREFETCHED,
    READAHEAD,
    RECLAIMS,
    REFERENCED,
    UNMAPPED,
    WORKINGSET,
    Flush,
    new_memory,
)

RUNS = (
    ("leap-repo", 0),
    ("leap-paper", 0),
    ("stride", 0),
    ("stride", 1_000),
    ("stride", 300_000),
)
"""Policies, and how late their agents are in ns (0: the kernel). Leap's agents read next to nothing here."""


def walked(n_pages, walks):
    """Return touches of all pages, then walks of (first, stride, length) that come back to them."""
    touches = [*range(n_pages)]
    for first, stride, length in walks:
        touches += [(first + stride * i) % n_pages for i in range(length)]
    return touches


@st.composite
def walked_traces(draw):
    """Return a trace of walks, and a memory of two thirds of its pages."""
    n_pages = draw(st.integers(30, 80))
    walk = st.tuples(st.integers(0, n_pages - 1), st.integers(1, 3), st.integers(2, 20))
    touches = walked(n_pages, draw(st.lists(walk, min_size=20, max_size=60)))
    stored = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 2, len(touches))
    return workload(touches, kinds=stored), n_pages * 2 // 3


def check_books(w, policy, shadow, device, from_row=0):
    """Refuse counts that do not balance, and pages that are counted as unresolved and are not there."""
    r = replay(w, policy, shadow, device, from_row=from_row)
    assert r.prefetch_issued == r.prefetch_used + r.prefetch_wasted + r.prefetch_unresolved
    assert 0 <= r.prefetch_unresolved <= r.memory_pages
    assert r.minor_faults == r.prefetch_used + r.cache_hits
    assert r.late_hits <= r.prefetch_used
    if not r.agent_ns:  # an agent marks what it is about to ask for, too
        assert r.prefetch_unresolved == untouched_pages(w, policy, shadow, device)
    return r


def untouched_pages(w, policy, shadow, device):
    """Return how many pages are in memory at the end that the policy asked for and nobody has touched."""
    state = run_module._run(w, policy, shadow, device, np.zeros(w.n_refs, np.uint8), 0, None)
    in_memory = np.isin(state.pages["status"], [PREFETCHED, UNMAPPED])
    return (in_memory & (state.pages["marks"] & PREDICTED != 0)).sum()


@pytest.mark.parametrize("reclaim", RECLAIMS)
@pytest.mark.parametrize(("policy", "agent_ns"), RUNS)
@settings(max_examples=30)
@given(case=walked_traces(), device=st.sampled_from(["ssd", "hdd"]), counts_half=st.booleans())
def test_the_books_hold(policy, agent_ns, reclaim, case, device, counts_half):
    (w, pages), device = case, load_device(device).by_agent(agent_ns)
    check_books(
        w,
        load_policy(policy),
        run_shadow(w, pages, device, reclaim),
        device,
        from_row=counts_half * w.n_refs // 2,
    )


@pytest.mark.parametrize(("policy", "agent_ns"), RUNS)
def test_the_books_hold_where_prefetched_pages_lie_long_and_are_refaults(policy, agent_ns):
    device, n_pages = load_device("hdd").by_agent(agent_ns), 60
    used = wasted = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        walks = zip(
            *(random.integers(low, high, 50) for low, high in ((0, 60), (1, 4), (2, 20))), strict=True
        )
        touches = walked(n_pages, [tuple(map(int, walk)) for walk in walks])
        w = workload(touches, kinds=random.integers(0, 2, len(touches)))
        r = check_books(w, load_policy(policy), run_shadow(w, 40, device), device)
        used, wasted = used + r.prefetch_used, wasted + r.prefetch_wasted
    assert used > 300
    assert wasted > 300


def test_a_page_that_is_deactivated_before_its_first_touch_is_still_the_policys():
    memory = new_memory(2, 2, "linux", Flush())
    arrays, marks = memory.arrays(), memory.pages["marks"]
    # Page 0 was prefetched and is a refault, so it came active; page 1 was touched.
    memory.pages["status"][0] = PREFETCHED
    marks[:2] = ACTIVE | PREDICTED | REFERENCED | DIRTY, ACTIVE | READAHEAD
    for page in range(2):
        push_newest(ACTIVE_LIST, page, arrays)
    memory.scalars[COUNT] = memory.scalars[ACTIVE_COUNT] = 2

    callable_part(shrink._shrink_active_list)(np.int64(2), 0, arrays)

    assert list_pages(arrays, INACTIVE_LIST) == [0, 1]
    assert marks[:2].tolist() == [PREDICTED | REFERENCED | DIRTY | WORKINGSET, READAHEAD | WORKINGSET]
