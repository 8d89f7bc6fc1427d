"""Miss-ratio curves: one pass gives what the engine's LRU gives in every memory, unmapped pages included."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reduction import sad, workload_rows

from kdtool.errors import ParameterError
from kdtool.replay import load_workload
from kdtool.replay.curve import miss_curve
from kdtool.replay.distances import new_stack
from kdtool.replay.drive import CHUNK_ROWS
from kdtool.replay.run import replay_none
from kdtool.traces import Trace

EXAMPLE = Path(__file__).parent.parent / "examples" / "stencil.kdt"


@st.composite
def workloads(draw):
    """References to few pages, and moments at which some of these are unmapped."""
    vpns = draw(st.lists(st.integers(0, 40), min_size=1, max_size=400))
    w = workload(vpns)
    page = st.integers(0, len(w.keys) - 1)
    unmapped = sorted(draw(st.lists(st.tuples(st.integers(0, len(vpns)), page), max_size=60)))
    return unmapping(w, unmapped)


def unmapping(w, unmapped):
    rows, pages = np.array(unmapped, np.int64).reshape(-1, 2).T.copy()
    return replace(w, free_row=rows, free_page=pages)


def engine_lru(w, pages, from_row=0):
    """Return (major, cold) of the engine's LRU, which holds two pages at least."""
    result = replay_none(w, pages, ssd(), "lru", from_row=from_row)[1]
    return result.major_faults, result.cold_faults


@settings(max_examples=200, deadline=None)
@given(workloads(), st.data())
def test_every_size_has_the_faults_of_the_engines_lru(w, data):
    from_row = data.draw(st.integers(0, w.n_refs - 1))

    curve = miss_curve(w, from_row=from_row)

    for pages in range(2, len(w.keys) + 3):
        assert (curve.major_faults(pages), curve.cold_faults) == engine_lru(w, pages, from_row), pages
    assert curve.accesses == w.n_refs - from_row


def test_many_pages_and_many_unmappings_between_them():
    rng = np.random.default_rng(3)
    vpns = np.concatenate([np.arange(3000), (rng.random(20_000) ** 3 * 3000).astype(int), np.arange(3000)])
    unmapped = [(row, page) for row in range(5000, 26_000, 5) for page in rng.integers(0, 3000, 2)]
    w = unmapping(workload(vpns), unmapped)
    assert w.n_refs > 2 * 64 * len(new_stack(w).bits)  # the time slots are used up several times

    curve = miss_curve(w)

    for pages in (2, 3, 63, 64, 65, 500, 1000, 1700, 2000, 2500, 2900, 2999, 3000, 3001):
        assert (curve.major_faults(pages), curve.cold_faults) == engine_lru(w, pages), pages


def test_the_example_at_many_sizes():
    w = load_workload(Trace(EXAMPLE))
    curve = miss_curve(w, from_row=59_298)
    for pages in [*range(curve.exact_from_pages + 1, 9400, 401), curve.footprint_pages - 1]:
        assert (curve.major_faults(pages), curve.cold_faults) == engine_lru(w, pages, 59_298), pages
    assert curve.major_faults(curve.footprint_pages) == 0


def test_a_hand_worked_case():
    # Depths: a b c are new, a is 3 deep, c 2, c 1.
    curve = miss_curve(workload([1, 2, 3, 1, 3, 3]))
    assert curve.cold_faults == 3
    assert [curve.major_faults(pages) for pages in (1, 2, 3, 4)] == [2, 1, 0, 0]


def test_an_unmapped_page_makes_room():
    # With 3 unmapped, a memory of 2 holds 1 beside the new 4; without, 1 would have gone.
    vpns = [1, 3, 4, 1]
    assert miss_curve(workload(vpns)).major_faults(2) == 1
    assert miss_curve(unmapping(workload(vpns), [(2, 1)])).major_faults(2) == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=200), st.integers(1, 6))
def test_reduction_is_exact_from_k_pages_on_and_the_curve_says_so(vpns, k):
    full = workload(vpns)
    reduced = workload_rows(full, sad(vpns, k), k)

    whole, part = miss_curve(full), miss_curve(reduced)

    assert part.exact_from_pages == k
    for pages in range(k, len(full.keys) + 1):
        assert whole.major_faults(pages) == part.major_faults(pages)


def test_below_k_the_reduced_trace_has_too_few_faults():
    vpns = [1, 2, 1, 2, 1, 2]
    reduced = workload_rows(workload(vpns), sad(vpns, 2), 2)
    assert miss_curve(reduced).major_faults(1) < miss_curve(workload(vpns)).major_faults(1)


def test_the_document_holds_the_whole_curve():
    w = load_workload(Trace(EXAMPLE))
    curve = miss_curve(w)
    document = curve.to_document()
    sizes = np.array(document["memory_pages"])
    assert sizes[0] == 1
    assert len(sizes) < curve.footprint_pages / 2  # only where it changes
    for pages in range(1, curve.footprint_pages + 2):
        at = np.searchsorted(sizes, pages, side="right") - 1
        assert document["major_faults"][at] == curve.major_faults(pages)


@pytest.mark.parametrize("vpns", [range(100_000), [*range(50_000)] * 2], ids=["all new", "all twice"])
def test_a_stack_takes_at_most_16_bytes_an_access(vpns):
    w = workload(vpns)
    w = unmapping(w, [(w.n_refs, page) for page in range(len(w.keys))])
    stack = new_stack(w)
    assert sum(array.nbytes for array in vars(stack).values()) <= 16 * w.n_refs


def test_chunks_change_nothing_and_progress_counts_every_reference(monkeypatch):
    vpns = np.random.default_rng(0).integers(0, 50, 1000)
    whole, seen = miss_curve(workload(vpns)), []
    assert CHUNK_ROWS > 1000
    monkeypatch.setattr("kdtool.replay.curve.CHUNK_ROWS", 7)
    chunked = miss_curve(workload(vpns), progress=seen.append)
    assert chunked.to_document() == whole.to_document()
    assert sum(seen) == 1000


def test_sizes_and_rows_that_are_not_there_are_refused():
    w = workload([1, 2, 1])
    with pytest.raises(ParameterError, match="0 pages"):
        miss_curve(w).major_faults(0)
    with pytest.raises(ParameterError, match="rows 0 to 2"):
        miss_curve(w, from_row=3)
