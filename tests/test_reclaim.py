"""Linux's two lists: against a model written apart from the engine, and against counts of a real kernel."""

from collections import OrderedDict

import numpy as np
import pytest
from builders import ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.replay import Flush, run_shadow


class TwoLists:
    """The rules of mm/vmscan.c and mm/workingset.c (v6.18) on ordered dictionaries, oldest first."""

    def __init__(self, capacity, current=True):
        self.capacity, self.current = capacity, current
        self.active, self.inactive = OrderedDict(), OrderedDict()
        self.young, self.referenced, self.shadow = set(), set(), {}
        self.age = self.refault_activations = self.seen = self.major = self.oom = 0
        self.frozen = (0, 0, 0)

    def stats(self):
        """Return what the statistics say: inactive, active, activations; of the start if never updated."""
        now = (len(self.inactive), len(self.active), self.refault_activations)
        return now if self.current else self.frozen

    def access(self, page):
        if page in self.active or page in self.inactive:
            self.young.add(page)
            return
        if len(self.active) + len(self.inactive) == self.capacity:
            self.reclaim()
        self.young.add(page)
        target = self.inactive
        if page in self.shadow:
            self.major += 1
            if self.age - self.shadow.pop(page) <= self.stats()[1]:
                target = self.active
                self.age += 1
                self.refault_activations += 1
        target[page] = True

    def reclaim(self):
        freed, priority = 0, 12
        while freed < 32 and (priority >= 0 or freed == 0):
            if priority == -16:  # the kernel would kill now
                self.frozen = (len(self.inactive), len(self.active), self.refault_activations)
                self.oom += 1
            freed += self.scan(max(priority, 0))
            priority -= 1
        self.seen = self.stats()[2]

    def scan(self, priority):
        inactive, active, activations = self.stats()
        deactivate = activations != self.seen or inactive < active
        todo_inactive = len(self.inactive) >> priority
        todo_active = (len(self.active) >> priority) if deactivate else 0
        freed = 0
        while (todo_inactive or todo_active) and freed < 32:
            freed += self.shrink_inactive(min(todo_inactive, 32))
            self.shrink_active(min(todo_active, 32))
            todo_inactive -= min(todo_inactive, 32)
            todo_active -= min(todo_active, 32)
        inactive, active, _ = self.stats()
        if inactive < active:
            self.shrink_active(32)
        return freed

    def shrink_inactive(self, n):
        freed = 0
        for page in list(self.inactive)[:n]:
            del self.inactive[page]
            if page not in self.young:
                self.referenced.discard(page)
                self.shadow[page] = self.age
                self.age += 1
                freed += 1
            elif page in self.referenced:
                self.active[page] = True
                self.age += 1
            else:
                self.referenced.add(page)
                self.inactive[page] = True
            self.young.discard(page)
        return freed

    def shrink_active(self, n):
        for page in list(self.active)[:n]:
            del self.active[page]
            self.young.discard(page)
            self.inactive[page] = True


CURRENT, NEVER = Flush(period_ns=0, phase_ns=0), Flush(phase_ns=2**62)


@pytest.mark.parametrize("flush", [CURRENT, NEVER], ids=["current", "never"])
@settings(max_examples=150, deadline=None)
@given(
    vpns=st.lists(st.integers(0, 150), min_size=1, max_size=1500),
    capacity=st.integers(2, 140),
)
def test_major_faults_are_those_of_the_rules(flush, vpns, capacity):
    model = TwoLists(capacity, current=flush is CURRENT)
    for vpn in vpns:
        model.access(vpn)
    assert run_shadow(workload(vpns), capacity, ssd(), "linux", flush).missed.sum() == model.major


def loop_beside_hot_pages():
    rng = np.random.default_rng(3)
    hot = rng.integers(0, 900, 40_000)
    loop = np.tile(np.arange(1000, 4000), 14)[: len(hot)]
    return np.stack([hot, loop], axis=1).ravel()


@pytest.mark.parametrize("flush", [CURRENT, NEVER], ids=["current", "never"])
def test_loops_and_hot_pages_in_a_larger_memory(flush):
    vpns = loop_beside_hot_pages()
    model = TwoLists(2500, current=flush is CURRENT)
    for vpn in vpns.tolist():
        model.access(vpn)
    missed = run_shadow(workload(vpns), 2500, ssd(), "linux", flush).missed
    assert missed.sum() == model.major > 10_000


def test_when_statistics_come_late_their_moment_matters():
    w = workload(loop_beside_hot_pages(), step_insns=20_000)
    phases = [Flush(phase_ns=n * 250_000_000) for n in range(8)]
    found = {int(run_shadow(w, 2500, ssd(), "linux", flush).missed.sum()) for flush in phases}
    assert len(found) > 1
    lru = {int(run_shadow(w, 2500, ssd(), "lru", flush).missed.sum()) for flush in phases}
    assert len(lru) == 1


@pytest.mark.parametrize(
    ("stride", "kernel"), [(3, (37_840, 37_840)), (7, (35_582, 35_880)), (64, (34_115, 34_115))]
)
def test_strided_loads_are_within_one_percent_of_the_kernel(stride, kernel):
    """60,000 pages written, then 40,000 strided loads, in 96 MiB at page-cluster 0 on Linux 6.18.

    The limit also holds the kernel's own memory for the program: its page tables and about 60 pages more.
    """
    n_pages = 60_000
    walk = np.concatenate([np.arange(start, n_pages, stride) for start in range(stride)])[:40_000]
    vpns = np.concatenate([np.arange(n_pages), walk])
    capacity = (96 << 20) // 4096 - n_pages // 512 - 60

    major = run_shadow(workload(vpns), capacity, ssd(), "linux").missed.sum()

    assert kernel[0] * 0.99 <= major <= kernel[1] * 1.01
