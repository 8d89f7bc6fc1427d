"""The guards of a live run: when a program may act, what a trial says, when it steps back."""

import mmap
import os

import pytest

from kdtool.deploy import statistics
from kdtool.deploy.governor import ACTIVE, ASLEEP, BACK, TRYING, Floors, Governor, Progress
from kdtool.deploy.processes import FaultCounter
from kdtool.deploy.trial import GAINS, LOSES, NOTHING, Trial


def seen(majors, used, wasted=0, evicted=0):
    return Progress(majors=majors, issued=used + wasted, used=used, wasted=wasted, evicted=evicted)


def trial_of(*rates):
    """Hold a trial of pairs of windows with so many faults a second; return the verdict and the pairs."""
    trial, now_s, faults = Trial(0.0, 0), 0.0, 0
    for pair, both in enumerate(rates, 1):
        for on, rate in zip((False, True), both, strict=True):
            assert trial.on is on
            while trial.on is on:
                now_s, faults = now_s + 0.05, faults + rate // 20
                verdict = trial.tick(now_s, faults)
                if verdict:
                    return verdict, pair
    return None, len(rates)


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        (((8000, 11_000), (8000, 11_000)), (GAINS, 2)),
        (((8000, 6000), (8000, 16_000)), (GAINS, 2)),  # it had yet to get ahead
        (((8000, 3900),), (None, 1)),
        (((8000, 6000), (8000, 6000)), (LOSES, 2)),
        # Something else had the CPU for a while.
        (((8000, 9000), (8000, 2000), (8000, 12_000)), (None, 3)),
        (((8000, 9000), (8000, 9000), (8000, 9000), (8000, 9000)), (GAINS, 4)),
        (((8000, 8100), (8000, 8100), (8000, 8100), (8000, 8100)), (LOSES, 4)),
        (((20, 20),), (NOTHING, 1)),
    ],
)
def test_a_trial_compares_windows_in_turn(rates, verdict):
    assert trial_of(*rates) == verdict


def test_what_was_prefetched_in_vain_is_no_progress():
    assert Progress(10, 0, 0, wasted=30, evicted=0, faults=100).pace == 70


class Workload:
    """A workload of 8000 swap-ins a second: what a governor is told of it, at every tick."""

    def __init__(self, governor, *, faster=1.0, covered=0.9, wasted=0.0, stall_ns=(0, 0)):
        self.governor, self.faster, self.covered, self.wasted_share = governor, faster, covered, wasted
        self.stall_ns = stall_ns  # a fault, without the program and with it
        self.now_s = 0.0
        self.counts = Progress(0, 0, 0, 0, 0)
        governor.tick(0.0, self.counts)

    def tick(self):
        self.now_s += 0.05
        on, was = self.governor.active, self.counts
        touched = int(400 * (self.faster if on else 1))
        used = int(touched * self.covered) if on else 0
        wasted = int(used * self.wasted_share)
        self.counts = Progress(
            was.majors + touched - used,
            was.issued + used + wasted,
            was.used + used,
            was.wasted + wasted,
            was.evicted,
            was.faults + touched,
            was.stall_ns + touched * self.stall_ns[on],
        )
        self.governor.tick(self.now_s, self.counts)

    def until(self, state, most_s=60.0):
        """Go on until the governor is in a state; return how long that took."""
        began_s = self.now_s
        while self.governor.state != state:
            self.tick()
            assert self.now_s - began_s < most_s
        return self.now_s - began_s


def test_a_program_that_gains_is_let_act_after_two_pairs_and_tried_again_in_time():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    assert workload.until(ACTIVE) == pytest.approx(0.35, abs=0.06)
    assert governor.gain == pytest.approx(1.5)
    trusted = []
    for _ in range(3):
        trusted.append(workload.until(TRYING))
        workload.until(ACTIVE)
    assert trusted == pytest.approx([2, 4, 8], abs=0.06)
    assert (governor.steps_back, governor.trials) == (0, 4)


def test_a_program_by_which_faults_stall_much_less_acts_after_one_pair():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.01, stall_ns=(50_000, 30_000))
    assert workload.until(ACTIVE) == pytest.approx(0.15, abs=0.06)
    slower = Governor(16, Floors(0.5))
    workload = Workload(slower, faster=0.9, stall_ns=(50_000, 30_000))
    assert workload.until(BACK) > 0.6  # a shorter stall alone is no gain


def test_the_degree_falls_while_too_much_is_wrong_and_grows_again():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    workload.until(ACTIVE)
    degrees = []
    for share in (0.4, 0.15, 0.05):  # accuracies of 0.71, 0.87 and 0.95
        workload.wasted_share = share
        for _ in range(4):  # two windows, of which the first may have begun before
            workload.tick()
        degrees.append(governor.degree)
    assert degrees[0] < 16 and degrees[1] <= degrees[0] and degrees[2] > degrees[1]


def test_a_program_that_loses_steps_back_for_longer_and_longer():
    governor = Governor(16, Floors(0.5))
    workload, stays = Workload(governor, faster=0.6), []
    for _ in range(4):
        workload.until(BACK)
        assert not governor.active
        stays.append(workload.until(ASLEEP))
    assert stays == pytest.approx([0.5, 1.0, 2.0, 4.0], abs=0.06)
    assert governor.steps_back == 4
    assert governor.active_s < 0.15 * workload.now_s


def test_a_program_that_covers_nothing_acts_in_two_windows():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, covered=0.05)
    workload.until(BACK)
    assert governor.active_s == pytest.approx(0.1)
    assert workload.until(ASLEEP) == pytest.approx(8.0, abs=0.06)


def test_two_bad_windows_in_a_row_end_it():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    workload.until(ACTIVE)
    workload.wasted_share = 1.5  # an accuracy of 0.4
    assert workload.until(BACK) == pytest.approx(0.2, abs=0.06)


def test_it_wakes_by_majors_and_sleeps_when_there_is_nothing_to_do():
    governor = Governor(16, Floors(0.5))
    governor.tick(0.05, seen(3, 0))
    assert governor.state == ASLEEP
    governor.tick(0.10, seen(7, 0))
    assert governor.state == TRYING
    governor.tick(0.30, seen(8, 0))
    assert governor.state == TRYING
    governor.tick(0.60, seen(8, 0))
    assert governor.state == ASLEEP
    assert governor.active_s == 0


def test_without_floors_it_acts_at_once_and_sleeps_when_there_is_nothing_to_do():
    governor = Governor(16, None)
    governor.tick(0.05, seen(7, 0))
    assert governor.state == ACTIVE
    governor.tick(0.30, seen(8, 0))
    assert governor.state == ACTIVE
    governor.tick(0.60, seen(8, 0))
    assert governor.state == ASLEEP
    assert governor.active_s == pytest.approx(0.55)


def test_faults_are_counted_but_for_those_of_new_pages():
    counter = FaultCounter()
    before = counter.count([os.getpid()])
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 1000 * mmap.PAGESIZE, flags=private) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(1000):
            fresh[page * mmap.PAGESIZE] = 1
        assert counter.count([os.getpid()]) - before < 100
        assert counter.count([]) == counter.count([])


def test_eviction_before_use_halves_the_degree_and_it_comes_back():
    governor = Governor(16, None)
    governor.tick(0.0, seen(0, 0))
    governor.tick(0.05, seen(10, 0))
    governor.tick(0.20, seen(10, 150, wasted=50, evicted=50))
    assert governor.degree == 8
    governor.tick(0.35, seen(10, 300, wasted=100, evicted=100))
    assert governor.degree == 4
    governor.tick(0.50, seen(10, 450, wasted=100, evicted=100))
    governor.tick(0.65, seen(10, 600, wasted=100, evicted=100))
    assert governor.degree == 16
    assert governor.state == ACTIVE


def stall_trial(*ratios, faster=1.0):
    """Hold a trial whose faults stall so many times as long with the program; return the verdict."""
    trial, now_s, faults, stall_ns = Trial(0.0, 0), 0.0, 0, 0
    for ratio in ratios:
        for on in (False, True):
            while trial.on is on:
                more = int(400 * (faster if on else 1))
                now_s, faults = now_s + 0.05, faults + more
                stall_ns += int(more * 50_000 * (ratio if on else 1))
                verdict = trial.tick(now_s, faults, stall_ns)
                if verdict:
                    assert trial.stall_a_fault >= 50_000
                    return verdict
    return None


@pytest.mark.parametrize(
    ("ratios", "faster", "verdict"),
    [
        ((1.5, 1.5), 1.1, LOSES),  # before the four pairs that faults a second would take
        ((1.2, 1.2, 1.2, 1.2), 1.1, GAINS),
        ((1.5, 1.0, 1.5, 1.0), 1.1, GAINS),  # not two in a row
        ((1.5, 1.5), 1.3, GAINS),  # several threads stall side by side, and it gets on
        ((0.3, 0.3), 0.7, LOSES),  # the faults stall less, but its CPU is gone
    ],
)
def test_a_trial_is_lost_where_faults_stall_longer_and_it_does_not_get_on_faster(ratios, faster, verdict):
    assert stall_trial(*ratios, faster=faster) == verdict


def test_windows_in_which_faults_stall_longer_than_in_the_last_trial_lead_to_another():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5, stall_ns=(50_000, 20_000))
    workload.until(ACTIVE)
    for _ in range(10):
        workload.tick()
    assert governor.state == ACTIVE
    workload.stall_ns = 50_000, 70_000
    assert 0.15 < workload.until(TRYING) < 0.35  # two windows, the first of which may have begun before
    workload.until(ACTIVE)  # it gets on faster all the same
    assert workload.until(TRYING) == pytest.approx(4, abs=0.06)  # and these stalls are no news
    assert governor.steps_back == 0


class Charged:
    """Stands in for the files of a memory cgroup: counts how often they are read, until it ends."""

    def __init__(self):
        self.reads, self.ended = 0, False

    def refresh(self):
        if self.ended:
            raise FileNotFoundError
        self.reads += 1


def test_statistics_are_those_of_the_cgroup_that_there_is(monkeypatch, tmp_path):
    (tmp_path / "cgroup.procs").write_text("")
    found = [None]
    monkeypatch.setattr(statistics, "memory_cgroup", lambda pids: found[0])
    fresh = statistics.FreshStatistics(tmp_path)
    fresh.tick()  # nobody lives in it yet

    first, second = Charged(), Charged()
    found[0] = ("/first", first)
    fresh.tick()
    fresh.tick()
    first.ended, found[0] = True, ("/second", second)
    fresh.tick()  # finds it gone
    fresh.tick()
    assert (first.reads, second.reads) == (2, 1)
