"""The bounds: Belady's MIN against every choice of victims, and oracles that no policy beats."""

import io
from dataclasses import replace

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kdtool.replay import BOUNDS, POLICIES, ProgramPolicy, load_device, load_policy, run_shadow
from kdtool.replay import replay as replay_policy
from kdtool.replay.future import first_uses, next_uses, plan_memory
from kdtool.replay.scoreboard import print_scoreboard
from kdtool.rmt import stride_program

POLICIES_ALONE = [policy for policy in POLICIES if policy not in BOUNDS]


def score(w, name, pages, device=None, reclaim="linux"):
    device = device or ssd()
    return replay_policy(w, load_policy(name), run_shadow(w, pages, device, reclaim), device)


@st.composite
def with_unmappings(draw, max_page, max_refs):
    """Return a workload, some of whose pages are unmapped between references."""
    vpns = draw(st.lists(st.integers(0, max_page), min_size=max_refs // 2, max_size=max_refs))
    w = workload(vpns)
    rows = draw(st.lists(st.integers(1, len(vpns)), max_size=3).map(sorted))
    freed = [draw(st.sampled_from(sorted(set(w.page[:row].tolist())))) for row in rows]
    return replace(w, free_row=np.array(rows, np.int64), free_page=np.array(freed, np.int64))


def fewest_misses(w, capacity):
    """Return the fewest misses of all that any choice of victims leads to: every choice is tried."""
    states = {frozenset(): 0}
    for row, page in enumerate(w.page.tolist()):
        unmapped = set(w.free_page[w.free_row == row].tolist())
        after = {}
        for state, misses in states.items():
            held = state - unmapped
            if page in held:
                choices = [(held, misses)]
            elif len(held) < capacity:
                choices = [(held | {page}, misses + 1)]
            else:
                choices = [(held - {victim} | {page}, misses + 1) for victim in held]
            for held_after, misses_after in choices:
                after[held_after] = min(after.get(held_after, misses_after), misses_after)
        states = after
    return min(states.values())


@settings(max_examples=80, deadline=None)
@given(w=with_unmappings(6, 24), capacity=st.integers(1, 5))
def test_belady_has_the_fewest_misses_of_all_choices(w, capacity):
    result = score(w, "belady", max(capacity, 2))
    assert result.cold_faults + result.major_faults == fewest_misses(w, max(capacity, 2))


def test_belady_by_hand():
    # Pages 1 2 3 1 2 3 in a memory of 2: 3 pushes 2 out, for 1 comes first; then 2 pushes out 1, done with.
    w = workload([1, 2, 3, 1, 2, 3])
    assert plan_memory(w, 2, 0).victims.tolist() == [1, 0]
    result = score(w, "belady", 2)
    assert (result.cold_faults, result.major_faults, result.hits) == (3, 1, 2)


@pytest.mark.parametrize("reclaim", ["linux", "lru"])
@settings(max_examples=30, deadline=None)
@given(w=with_unmappings(60, 400), capacity=st.integers(2, 50))
def test_no_reclaim_misses_less_than_belady(reclaim, w, capacity):
    none, belady = (score(w, name, capacity, reclaim=reclaim) for name in ("none", "belady"))
    assert belady.major_faults <= none.major_faults
    assert belady.cold_faults == none.cold_faults


@settings(max_examples=60, deadline=None)
@given(w=with_unmappings(10, 60))
def test_uses_are_found_in_both_directions(w):
    page, n = w.page.tolist(), w.n_refs
    uses, first = next_uses(w), first_uses(w)
    for row in range(n):
        freed = [int(r) for r, p in zip(w.free_row, w.free_page, strict=True) if p == page[row]]
        later = [other for other in range(row + 1, n) if page[other] == page[row]]
        earlier = [other for other in range(row) if page[other] == page[row]]
        comes_again = later and not any(row < r <= later[0] for r in freed)
        assert uses[row] == (later[0] if comes_again else n)
        assert first[row] == (not earlier or any(earlier[-1] < r <= row for r in freed))


class Follower:
    """A memory that does what a plan says and checks each step of it."""

    def __init__(self, w, capacity, depth):
        self.w, self.capacity, self.depth = w, capacity, depth
        self.plan = plan_memory(w, capacity, depth)
        self.victims = iter(self.plan.victims.tolist())
        self.held, self.waiting, self.next_use = set(), set(), {}

    def bring_in(self, page, use):
        """Make room for a page that is used at row `use`, by one that is used later."""
        if len(self.held) == self.capacity:
            victim = next(self.victims)
            assert victim in self.held - self.waiting
            assert self.next_use[victim] > use
            self.held.remove(victim)
        self.held.add(page)
        self.next_use[page] = use

    def follow(self):
        pages = self.w.page.tolist()
        uses, first = next_uses(self.w).tolist(), first_uses(self.w).tolist()
        early = {}
        for row, page in zip(self.plan.rows.tolist(), self.plan.pages.tolist(), strict=True):
            early.setdefault(row, []).append(page)
        for row, page in enumerate(pages):
            unmapped = set(self.w.free_page[self.w.free_row == row].tolist())
            assert not unmapped & self.waiting
            self.held -= unmapped
            event = page in self.waiting or (page not in self.held and not first[row])
            self.waiting.discard(page)
            if page not in self.held:
                self.bring_in(page, row)
            assert event or row not in early
            self.next_use[page] = row  # it is being brought in: nothing may take its place
            for other in early.get(row, []):
                assert other not in self.held
                use = pages.index(other, row + 1)
                assert not first[use]
                self.bring_in(other, use)
                self.waiting.add(other)
            assert len(self.waiting) <= self.depth
            self.next_use[page] = uses[row]
        assert not self.waiting
        assert next(self.victims, None) is None


@settings(max_examples=60, deadline=None)
@given(w=with_unmappings(20, 150), capacity=st.integers(2, 12), depth=st.integers(0, 6))
def test_a_plan_reads_nothing_in_vain_and_evicts_nothing_that_is_used_sooner(w, capacity, depth):
    Follower(w, capacity, depth).follow()


def test_the_unlimited_oracle_does_what_its_plan_says():
    rng = np.random.default_rng(4)
    result = score(workload(rng.integers(0, 300, 4000)), "oracle-unlimited", 90)
    assert result.prefetch_issued > 1000
    assert result.prefetch_wasted == result.prefetch_unresolved == result.pollution_faults == 0


LOOP = np.tile(np.arange(600), 6)


def test_oracle_asks_for_what_is_missing_now_not_for_the_faults_of_another_run():
    """Version 1 took the faults of the run without prefetching: what its prefetches evicted, it missed."""
    rng = np.random.default_rng(0)
    vpns = np.stack([rng.integers(0, 300, 6000), np.tile(np.arange(1000, 2000), 6)], axis=1).ravel()
    for reclaim in ("linux", "lru"):
        oracle = score(workload(vpns, step_insns=20_000), "oracle", 400, reclaim=reclaim)
        none = score(workload(vpns, step_insns=20_000), "none", 400, reclaim=reclaim)
        assert oracle.major_faults < 0.03 * none.major_faults
        assert oracle.pollution < 0.01
        assert oracle.coverage > 0.97


def test_oracle_on_a_loop_by_hand():
    # A loop over 600 pages in a memory of 100 under LRU: nothing is left when it comes again. The first
    # fault, at row 600, is the last: from there on the next 16 pages are always under way.
    result = score(workload(LOOP, step_insns=1_000_000), "oracle", 100, reclaim="lru")
    assert (result.major_faults, result.minor_faults, result.late_hits) == (1, 5 * 600 - 1, 0)
    assert result.prefetch_wasted == 0


def test_oracle_looks_no_further_than_memory_reaches():
    # After page 600 a scan of 300 new pages, more than fit: what comes behind it is not read before it.
    vpns = [*range(600), 0, *range(1000, 1300), *range(1, 40)]
    result = score(workload(vpns), "oracle", 100, reclaim="lru")
    assert result.prefetch_wasted == 0
    assert result.major_faults == 2


def test_an_oracle_does_not_ask_for_a_page_that_is_unmapped_before_its_use():
    w = workload([*range(300), *range(100)])
    gone = np.arange(50, dtype=np.int64)
    w = replace(w, free_row=np.full(50, 320, np.int64), free_page=gone)
    for name in ("oracle", "oracle-unlimited"):
        result = score(w, name, 100, reclaim="lru")
        assert result.cold_faults == 330
        assert result.prefetch_wasted == 0


@pytest.mark.parametrize("name", ["oracle", "oracle-unlimited"])
def test_oracles_know_every_next_fault(name):
    rng = np.random.default_rng(0)
    w = workload([*range(300), *rng.permutation(300)])
    result = score(w, name, 100, reclaim="lru")
    assert result.accuracy == 1.0
    assert result.coverage > 0.98


def battery():
    """Yield (name, pages referenced): what prefetchers like, what they do not, and mixtures."""
    rng = np.random.default_rng(0)
    yield "loop", LOOP
    yield "uniform", rng.integers(0, 600, 5000)
    yield "zipf", rng.permutation(900)[np.minimum(rng.zipf(1.3, 5000), 900) - 1]
    yield "stride", np.concatenate([np.arange(start, 900, 7) for start in range(7)] * 4)
    yield "loop and hot", np.stack([rng.integers(0, 100, 3000), 1000 + np.resize(LOOP, 3000)], axis=1).ravel()
    parts = [
        np.concatenate([np.tile(np.arange(i * 9, i * 9 + 9), 8), rng.integers(0, 700, 9)]) for i in range(60)
    ]
    yield "bursts", np.concatenate(parts)


@pytest.mark.parametrize("reclaim", ["linux", "lru"])
@pytest.mark.parametrize("device", ["ssd", "zram"])
@pytest.mark.parametrize(("name", "vpns"), list(battery()), ids=[name for name, _ in battery()])
def test_no_policy_is_faster_than_the_unlimited_oracle(name, vpns, device, reclaim):
    w, device = workload(vpns, step_insns=20_000, ips=vpns % 3), load_device(device)
    shadow = run_shadow(w, 200, device, reclaim)
    results = {
        p.name: replay_policy(w, p, shadow, device) for p in (*POLICIES, ProgramPolicy(stride_program()))
    }
    bound = results["oracle-unlimited"]
    assert bound.runtime_ns == min(result.runtime_ns for result in results.values())
    if not device.synchronous:  # there a fault costs less than a prefetch and its first touch
        assert bound.major_faults == min(result.major_faults for result in results.values()) <= 1
        real = [results[policy.name] for policy in POLICIES_ALONE]
        assert results["oracle"].runtime_ns < min(result.runtime_ns for result in real)
        assert results["oracle"].major_faults <= 0.1 * results["none"].major_faults
    assert results["belady"].major_faults <= results["none"].major_faults
    assert results["belady"].prefetch_issued == results["belady"].pollution_faults == 0


def test_bounds_are_not_marked_as_best():
    w, device = workload(LOOP), ssd()
    shadow = run_shadow(w, 200, device)
    names = ("none", "linux-vma", *(bound.name for bound in BOUNDS))
    console = Console(file=io.StringIO(), force_terminal=True, width=150)
    print_scoreboard([replay_policy(w, load_policy(name), shadow, device) for name in names], console)
    lines = {line.split()[0]: line for line in console.file.getvalue().splitlines() if line.split()}
    assert "*" in lines["linux-vma"]
    assert not any("*" in lines[bound.name] for bound in BOUNDS)
