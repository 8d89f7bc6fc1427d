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


def trial_of(rate_off, rate_on, stalls=(0, 0), **facts):
    """Hold a trial of so many faults a second without the program and with it; return verdict and pairs.

    A rate is a number, or a function of the number of the tick. stalls : of a fault, in ns
    """
    trial, now_s, faults, stall_ns = Trial(0.0, 0, **facts), 0.0, 0, 0
    for window in range(1000):
        rate = rate_on if trial.on else rate_off
        now_s += trial.window_s
        new = int((rate(window) if callable(rate) else rate) * trial.window_s)
        faults, stall_ns = faults + new, stall_ns + new * stalls[trial.on]
        if verdict := trial.tick(now_s, faults, stall_ns):
            return verdict, (window + 1) // 2
    raise AssertionError("no verdict")


@pytest.mark.parametrize(
    ("off", "on", "verdict"),
    [
        (8000, 13_000, (GAINS, 4)),
        (8000, 10_000, (GAINS, 8)),
        (8000, 9000, (GAINS, 16)),
        (8000, 8100, (LOSES, 16)),
        (8000, 2000, (LOSES, 16)),
        (10, 10, (NOTHING, 16)),
        # A rate that doubles on the way, and one that comes and goes, are nobody's merit.
        (lambda n: 8000 + 250 * n, lambda n: 8000 + 250 * n, (LOSES, 16)),
        (lambda n: 16_000 if n % 4 < 2 else 400, lambda n: 16_000 if n % 4 < 2 else 400, (LOSES, 16)),
    ],
)
def test_a_trial_compares_windows_in_turn(off, on, verdict):
    assert trial_of(off, on) == verdict


def test_a_program_that_has_acted_stays_unless_it_is_clearly_slower():
    assert trial_of(8000, 7600) == (LOSES, 16)
    assert trial_of(8000, 7600, acted=True) == (GAINS, 16)
    assert trial_of(8000, 6800, acted=True) == (LOSES, 16)


@pytest.mark.parametrize(
    ("off", "on", "stalls", "verdict"),
    [
        (20_000, 20_400, (50_000, 20_000), (GAINS, 2)),
        (8000, 8160, (50_000, 20_000), (GAINS, 4)),  # two pairs have too few faults
        (20_000, 20_400, (50_000, 30_000), (LOSES, 16)),
        (20_000, 19_000, (50_000, 20_000), (LOSES, 16)),
    ],
)
def test_a_program_with_which_faults_stall_half_as_long_acts_early_if_it_gets_on(off, on, stalls, verdict):
    assert trial_of(off, on, stalls) == verdict


def test_windows_are_longer_where_faults_are_rare():
    trial = Trial(0.0, 0)
    lengths, now_s = [], 0.0
    for window in range(1, 9):
        now_s += trial.window_s
        trial.tick(now_s, 10 * window)
        lengths.append(trial.window_s)
    assert lengths[:3] == pytest.approx([0.015, 0.0225, 0.03375]) and lengths[-1] == pytest.approx(0.1)


def test_what_was_prefetched_in_vain_is_no_progress():
    assert Progress(10, 0, 0, wasted=30, evicted=0, faults=100).pace == 70


class Workload:
    """A workload of `rate` swap-ins a second: what a governor is told of it, at every tick."""

    def __init__(self, governor, *, faster=1.0, covered=0.9, wasted=0.0, stall_ns=(0, 0)):
        self.governor, self.faster, self.covered, self.wasted_share = governor, faster, covered, wasted
        self.stall_ns = stall_ns  # a fault, without the program and with it
        self.rate = 8000
        self.now_s = 0.0
        self.counts = Progress(0, 0, 0, 0, 0)
        governor.tick(0.0, self.counts)

    def tick(self):
        tick_s = self.governor.tick_s
        self.now_s += tick_s
        on, was = self.governor.active, self.counts
        touched = int(self.rate * tick_s * (self.faster if on else 1))
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


def test_a_program_that_gains_is_let_act_and_tried_again_in_time():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    assert workload.until(ACTIVE) == pytest.approx(0.05 + 8 * 0.01, abs=0.02)
    assert governor.gain == pytest.approx(1.5)
    trusted = []
    for _ in range(3):
        trusted.append(workload.until(TRYING))
        workload.until(ACTIVE)
    assert trusted == pytest.approx([2, 4, 8], abs=0.06)
    assert (governor.steps_back, governor.trials) == (0, 4)


def test_pages_that_are_not_used_leave_the_degree_as_it_is():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    workload.until(ACTIVE)
    workload.wasted_share = 0.4  # an accuracy of 0.71
    for _ in range(8):  # four windows
        workload.tick()
    assert (governor.state, governor.degree) == (ACTIVE, 16)


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


def test_a_program_that_covers_nothing_is_taken_off_within_the_trial():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, covered=0.05)
    workload.until(BACK)
    assert governor.active_s < 0.1
    assert workload.until(ASLEEP) == pytest.approx(8.0, abs=0.06)


def test_two_bad_windows_in_a_row_end_it():
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    workload.until(ACTIVE)
    workload.wasted_share = 1.5  # an accuracy of 0.4
    assert workload.until(BACK) == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(("rate", "within_s"), [(240, 1.2), (100, 2.7), (40, 6.6)])
@pytest.mark.parametrize("of_no_use", [{"wasted_share": 2.0}, {"covered": 0.05}])
def test_the_floors_hold_where_swap_ins_are_few(rate, within_s, of_no_use):
    governor = Governor(16, Floors(0.5))
    workload = Workload(governor, faster=1.5)
    for _ in range(4):  # later trials are 16 s apart
        workload.until(TRYING)
        workload.until(ACTIVE)
    workload.faster, workload.rate = 1.0, rate
    vars(workload).update(of_no_use)
    assert workload.until(BACK) <= within_s  # two windows of 128 swap-ins
    assert governor.trials == 4


def test_it_sleeps_after_half_a_second_of_few_swap_ins_though_its_window_goes_on():
    governor = Governor(16, None)
    governor.tick(0.0, seen(0, 0))
    governor.tick(0.05, seen(10, 0))
    for tick in range(1, 60):  # 40 swap-ins a second
        governor.tick(0.05 + 0.05 * tick, seen(10, 2 * tick))
        assert governor.state == ACTIVE
    for tick in range(1, 22):
        governor.tick(3.0 + 0.05 * tick, seen(10, 118))
    assert governor.state == ASLEEP


def test_it_wakes_by_majors_and_sleeps_when_there_is_nothing_to_do():
    governor = Governor(16, Floors(0.5))
    governor.tick(0.05, seen(3, 0))
    assert governor.state == ASLEEP
    governor.tick(0.10, seen(7, 0))
    assert governor.state == TRYING
    now_s = 0.1
    while governor.state == TRYING:  # and there are no more
        now_s += governor.tick_s
        governor.tick(now_s, seen(8, 0))
    assert governor.state == ASLEEP
    assert governor.steps_back == 0


def test_majors_wake_nobody_while_nothing_is_in_swap():
    governor = Governor(16, Floors(0.5))
    governor.tick(0.05, seen(100, 0), swapped=False)
    assert governor.state == ASLEEP
    governor.tick(0.10, seen(103, 0), swapped=True)
    assert governor.state == ASLEEP
    governor.tick(0.15, seen(107, 0), swapped=True)
    assert governor.state == TRYING


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
    fresh.tick(0.0, True)  # nobody lives in it yet

    first, second = Charged(), Charged()
    found[0] = ("/first", first)
    fresh.tick(0.1, True)
    fresh.tick(0.2, True)
    first.ended, found[0] = True, ("/second", second)
    fresh.tick(0.3, True)  # finds it gone
    fresh.tick(0.4, True)
    assert (first.reads, second.reads) == (2, 1)


def test_statistics_are_kept_up_to_date_while_the_program_acts_and_two_seconds_longer(monkeypatch, tmp_path):
    (tmp_path / "cgroup.procs").write_text("")
    charged = Charged()
    monkeypatch.setattr(statistics, "memory_cgroup", lambda pids: ("/it", charged))
    fresh = statistics.FreshStatistics(tmp_path)
    for tick in range(100):  # a trial
        fresh.tick(0.01 * tick, False)
    assert charged.reads == 0
    for tick in range(100):
        fresh.tick(1 + 0.01 * tick, True)
    assert charged.reads == pytest.approx(20, abs=4)
    for tick in range(1000):
        fresh.tick(2 + 0.01 * tick, False)
    assert charged.reads == pytest.approx(60, abs=10)
