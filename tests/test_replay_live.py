"""What surrounds an agent in replay: the kernel's own readahead beside it, and guards."""

from dataclasses import replace

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.deploy.governor import ACTIVE
from kdtool.live.governed import ReplayedGuards
from kdtool.replay import (
    DEVICE_FIELDS,
    Allowed,
    Flush,
    LiveSetting,
    ProgramPolicy,
    load_policy,
    replay,
    run_shadow,
)
from kdtool.replay.liststats import SWAP_CLUSTER_MAX
from kdtool.replay.mglru import MIN_LRU_BATCH
from kdtool.rmt import stride_program
from kdtool.rmt.agentrules import FREE_PAGES, LEAST_SHARE

AGENT_NS = 100_000
LATE = Flush()
STRIDED = np.concatenate([np.arange(6000), *(np.arange(first, 6000, 3) for first in range(3))])
STEP_INSNS = 100_000
"""31 us a page."""


class Says:
    """Guards that always say the same, at moments that are given in turn."""

    def __init__(self, watches, degree_pages, every_ns, flush=LATE):
        self._says, self._every_ns, self._flush, self.looks = (watches, degree_pages), every_ns, flush, []

    def look(self, now_ns, memory):
        self.looks.append(now_ns)
        every_ns = self._every_ns[len(self.looks) % len(self._every_ns)]
        return Allowed(*self._says, flush=self._flush, until_ns=now_ns + every_ns)


def score(w, policy, live=LiveSetting(), pages=3000, agent_ns=AGENT_NS):  # noqa: B008 - immutable
    device = ssd().by_agent(agent_ns)
    return replace(replay(w, policy, run_shadow(w, pages, device), device, live=live), replay_s=0)


def strided():
    return workload(STRIDED, step_insns=STEP_INSNS)


def stride(degree_pages=32):
    return ProgramPolicy(stride_program(degree_pages))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(100_000, 30_000_000), min_size=1, max_size=5))
def test_guards_that_allow_all_change_nothing_whenever_they_look(every_ns):
    w = workload(STRIDED[::3], step_insns=STEP_INSNS)
    guards = Says(True, 1000, every_ns)

    guarded = score(w, stride(), LiveSetting(guards=guards), pages=700)

    assert guarded == score(w, stride(), pages=700)
    assert len(guards.looks) > 3 and all(np.diff(guards.looks) > 0)


def test_guards_may_keep_the_statistics_up_to_date():
    rng = np.random.default_rng(6)
    w = workload(np.concatenate([np.arange(3000), rng.integers(0, 3000, 6000)]), step_insns=STEP_INSNS)
    device, current = ssd().by_agent(AGENT_NS), Flush(0, 0)
    late, always = (run_shadow(w, 1500, device, "linux", flush) for flush in (LATE, current))

    kept = replay(w, stride(), late, device, live=LiveSetting(guards=Says(True, 1000, [10_000_000], current)))

    asked = replay(w, stride(), always, device)
    assert (kept.major_faults, kept.runtime_ns) == (asked.major_faults, asked.runtime_ns)
    assert kept.major_faults != replay(w, stride(), late, device).major_faults


@pytest.mark.parametrize("readahead", ["none", "linux-vma", "linux-cluster"])
@pytest.mark.parametrize("watches", [False, True])
def test_an_agent_that_may_not_act_leaves_what_the_kernel_does_alone(readahead, watches):
    w, kernel = strided(), load_policy(readahead)
    alone = score(w, kernel)

    beside = score(w, load_policy("stride"), LiveSetting(kernel, Says(watches, 0, [10_000_000])))

    assert beside.major_faults == alone.major_faults > 1000
    assert (beside.prefetch_issued, beside.coverage) == (0, 0)
    if watches:  # at first touches of predicted pages, too, whoever read them
        assert beside.major_faults <= beside.decisions <= beside.major_faults + beside.minor_faults
    else:
        assert beside.decisions == 0
        assert (beside.runtime_ns, beside.minor_faults) == (alone.runtime_ns, alone.minor_faults)


def test_pages_that_the_kernel_reads_ahead_are_not_the_agents():
    w = workload(np.concatenate([np.arange(4000), np.arange(4000)]), step_insns=STEP_INSNS)
    kernel = load_policy("linux-vma")

    alone, beside = (score(w, stride(), live, 2000) for live in (LiveSetting(), LiveSetting(kernel)))

    # A stride of 3 is not there: its program asks for little, and the kernel's windows serve the scan.
    assert alone.prefetch_issued == 0 and beside.prefetch_issued < 300
    assert beside.major_faults < alone.major_faults / 3
    assert beside.minor_faults - beside.prefetch_used > 2 * beside.major_faults


@pytest.mark.parametrize("reclaim", ["linux", "lru", "mglru"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_books_balance_with_readahead_beside(reclaim, data):
    passes = st.tuples(st.integers(0, 40), st.sampled_from([1, 3]))
    drawn = data.draw(st.lists(passes, min_size=3, max_size=12))
    vpns = [*range(60), *(page for first, step in drawn for page in range(first, 60, step))]
    stores = data.draw(st.lists(st.integers(0, 1), min_size=len(vpns), max_size=len(vpns)))
    device = ssd().by_agent(data.draw(st.sampled_from([1, 30_000, 200_000])))
    w = workload(vpns, kinds=stores, step_insns=data.draw(st.sampled_from([100, 300_000])))
    kernel = load_policy(data.draw(st.sampled_from(["linux-vma", "linux-cluster"])))

    r = replay(w, stride(4), run_shadow(w, 24, device, reclaim), device, live=LiveSetting(kernel))

    assert r.accesses == r.hits + r.minor_faults + r.major_faults + r.cold_faults
    assert r.prefetch_issued == r.prefetch_used + r.prefetch_wasted + r.prefetch_unresolved
    assert r.prefetch_unresolved >= 0
    assert r.late_hits <= r.prefetch_used <= r.minor_faults - r.cache_hits


def test_the_guards_of_deploy_try_a_program_and_let_it_act():
    w, device = strided(), ssd().by_agent(AGENT_NS)
    guards = ReplayedGuards(stride(), device, LATE)

    governed = score(w, stride(), LiveSetting(guards=guards))

    free, none = score(w, stride()), score(w, load_policy("none"))
    assert guards.governor.state == ACTIVE and guards.governor.trials == 1 and guards.governor.gain > 1.5
    # Half of the trial is without it: some hundred faults of which it would have covered all.
    assert free.major_faults + 100 < governed.major_faults < free.major_faults + 1000
    assert free.runtime_ns < governed.runtime_ns < 0.6 * none.runtime_ns


def test_the_guards_of_deploy_step_back_from_one_that_gives_nothing():
    rng = np.random.default_rng(4)
    w = workload(np.concatenate([np.arange(6000), rng.integers(0, 6000, 9000)]), step_insns=STEP_INSNS)
    guards = ReplayedGuards(stride(), ssd().by_agent(AGENT_NS), LATE)

    governed = score(w, stride(), LiveSetting(guards=guards))

    assert guards.governor.steps_back >= 1
    assert governed.major_faults == pytest.approx(score(w, load_policy("none")).major_faults, rel=0.01)


def test_an_agent_that_acts_costs_the_workload_something_for_each_page_from_swap():
    w, at = strided(), DEVICE_FIELDS.index("beside_ns")
    cheap, dear = (ssd().by_agent(AGENT_NS) for _ in range(2))
    cheap.values[at], dear.values[at] = 0, 1000
    quick, slow = (replay(w, stride(), run_shadow(w, 3000, d), d) for d in (cheap, dear))

    assert quick.prefetch_used > 5000 and slow.runtime_ns > quick.runtime_ns
    shadow, leap = run_shadow(w, 3000, cheap), load_policy("leap-paper")
    for degree_pages in (1000, 0):  # it may ask, and asks for nothing; it may not
        live = LiveSetting(guards=Says(True, degree_pages, [10_000_000]))
        quick, slow = (replay(w, leap, shadow, device, live=live) for device in (cheap, dear))
        assert quick.major_faults > 5000 and quick.prefetch_issued < 10
        cost_ns = 1000 * quick.major_faults if degree_pages else 0
        assert slow.runtime_ns - quick.runtime_ns == pytest.approx(cost_ns, rel=0.15)
    in_kernel = [replay(w, stride(), run_shadow(w, 3000, d), d.by_agent(0)).runtime_ns for d in (cheap, dear)]
    assert in_kernel[0] == in_kernel[1]


@pytest.mark.parametrize("reclaim", ["linux", "lru", "mglru"])
def test_an_agent_that_acts_keeps_room_in_a_memory_that_has_some_to_spare(reclaim):
    # The last pages are new: a program has nothing to ask for, and the workload need not reclaim for them.
    w = workload(np.arange(6000), step_insns=100 * STEP_INSNS)
    at, written = DEVICE_FIELDS.index("reclaim_ns"), DEVICE_FIELDS.index("beside_write_ns")
    times = {}
    for pages in (3000, LEAST_SHARE * FREE_PAGES - 1):
        for reclaim_ns in (0, 1000):
            device = ssd().by_agent(AGENT_NS)
            device.values[at], device.values[written] = reclaim_ns, 0
            shadow = run_shadow(w, pages, device, reclaim)
            times[pages, reclaim_ns] = replay(w, stride(), shadow, device).runtime_ns

    assert times[3000, 1000] == times[3000, 0]
    assert times[LEAST_SHARE * FREE_PAGES - 1, 1000] > times[LEAST_SHARE * FREE_PAGES - 1, 0]


@pytest.mark.parametrize(("reclaim", "n_read"), [("linux", 3000), ("lru", 3000), ("mglru", 0)])
def test_the_workload_pays_for_what_the_agent_has_written_out(reclaim, n_read):
    # New pages, for which the agent makes room; then they are only read, and what comes has its slot. Under
    # `mglru` what an agent has read is old already and goes first: some of the others would never be written.
    kinds = [1] * 6000 + [0] * n_read
    w = workload([*range(6000), *range(n_read)], kinds=kinds, step_insns=100 * STEP_INSNS)
    at = DEVICE_FIELDS.index("beside_write_ns")
    times = []
    for ns, agent_ns in ((0, AGENT_NS), (1000, AGENT_NS), (0, 0), (1000, 0)):
        device = ssd().by_agent(agent_ns)
        device.values[at] = ns
        times.append(replay(w, stride(), run_shadow(w, 3000, device, reclaim), device).runtime_ns)

    # At the end as much of memory is free as the agent keeps, and a batch more; clean pages have flushes too.
    spare = FREE_PAGES + SWAP_CLUSTER_MAX + MIN_LRU_BATCH
    assert (times[1] - times[0]) // 1000 == pytest.approx(3000 + n_read, abs=spare)
    assert times[3] == times[2]


def test_only_what_is_not_on_the_device_yet_is_written_out():
    at = DEVICE_FIELDS.index("writeout_ns")
    cheap, dear = ssd(), ssd()
    cheap.values[at], dear.values[at] = 0, 1000
    # 3 of 5 new pages are evicted, then the other 2; then pages that are only read, each with its slot.
    w = workload([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], kinds=[1] * 5 + [0] * 5)
    ran = [replay(w, load_policy("none"), run_shadow(w, 2, d, "lru"), d).runtime_ns for d in (cheap, dear)]

    assert ran[1] - ran[0] == 5 * 1000
