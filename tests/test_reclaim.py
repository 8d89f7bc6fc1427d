"""Linux's two lists: against a model written apart from the engine, and against counts of a real kernel."""

from collections import OrderedDict
from statistics import median

import numpy as np
import pytest
from builders import Plug, end_of_run, holding, instant, ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.replay import Flush, load_policy, load_workload, replay, run, run_shadow
from kdtool.replay.memory import AGE, MOST_AGE, WRITTEN, new_memory
from kdtool.traces import Trace


class TwoLists:
    """The rules of mm/vmscan.c and mm/workingset.c (v6.18) on ordered dictionaries, oldest first.

    Every first touch and store dirties a page; the device writes at once what is submitted to it.
    """

    def __init__(self, capacity, n_pages, current=True):
        self.capacity, self.current, self.plug = capacity, current, Plug(n_pages)
        self.active, self.inactive = OrderedDict(), OrderedDict()
        self.young, self.referenced, self.dirty, self.workingset = set(), set(), set(), set()
        self.unmapped, self.queued, self.sent, self.shadow = set(), [], [], {}
        self.age = self.refault_activations = self.seen = self.cost = 0
        self.major = self.rescued = self.oom = self.written = 0
        self.zeros = set()  # pages that hold nothing else
        self.frozen = (0, 0, 0)

    def stats(self):
        """Return what the statistics say: inactive, active, activations; of the start if never updated."""
        return self.now() if self.current else self.frozen

    def now(self):
        return (len(self.inactive), len(self.active), self.refault_activations)

    def access(self, page, store, zeros=False):
        self.touch(page, store)
        self.zeros.discard(page)
        if zeros:
            self.zeros.add(page)

    def touch(self, page, store):
        if page not in self.active and page not in self.inactive:
            self.fault(page, store)
        self.rescued += page in self.unmapped
        if store and page in self.unmapped and page not in self.queued and page not in self.sent:
            self.plug.free(page)
        self.unmapped.discard(page)
        self.young.add(page)
        if store:
            self.dirty.add(page)

    def fault(self, page, store):
        vain = 0
        while len(self.active) + len(self.inactive) >= self.capacity:
            vain = 0 if self.reclaim() else vain + 1
            if vain > 16:  # the kernel would kill now
                self.frozen = self.now()
                self.oom += 1
        target = self.inactive
        if page not in self.shadow:
            self.dirty.add(page)
        else:
            self.major += 1
            if store:
                self.plug.free(page)
            age, was_active = self.shadow.pop(page)
            if self.age - age <= self.stats()[1]:
                target = self.active
                self.age += 1
                self.refault_activations += 1
                if was_active:
                    self.workingset.add(page)
                    self.note_cost(32)
        target[page] = True

    def note_cost(self, cost):
        self.cost += cost
        if self.cost > sum(self.stats()[:2]) // 4:
            self.cost //= 2

    def reclaim(self):
        freed = 0
        for force in (False, True):
            self.skipped = False
            for priority in range(12, -1, -1):
                freed += self.scan(priority, force)
                if freed >= 32:
                    break
            self.seen = self.stats()[2]
            if freed or not self.skipped:
                break
        return freed

    def target(self, pages, priority):
        if priority == 0:
            return pages
        anon = 60 * (3 * self.cost + 1) // (2 * self.cost + 1)
        file = 140 * (3 * self.cost + 1) // (self.cost + 1)
        return (pages >> priority) * anon // (anon + file)

    def scan(self, priority, force):
        inactive, active, activations = self.stats()
        deactivate = force or activations != self.seen or inactive < active
        todo_inactive = self.target(len(self.inactive), priority)
        todo_active = self.target(len(self.active), priority)
        freed = 0
        while todo_inactive and freed < 32:
            freed += self.shrink_inactive(min(todo_inactive, 32))
            if deactivate:
                self.shrink_active(min(todo_active, 32))
            elif todo_active:
                self.skipped = True
            todo_inactive -= min(todo_inactive, 32)
            todo_active -= min(todo_active, 32)
        self.submit()
        inactive, active, _ = self.stats()
        if inactive < active:
            self.shrink_active(32)
        return freed

    def submit(self):
        self.sent, self.queued, self.plug.requests = self.sent + self.queued, [], []

    def complete(self):
        for page in self.sent:
            self.inactive.move_to_end(page, last=False)
        self.sent = []

    def shrink_inactive(self, n):
        freed = written = scanned = 0
        self.complete()
        for _ in range(n):
            if not self.inactive:
                break
            page = next(iter(self.inactive))
            scanned += 1
            if page in self.queued or page in self.sent:
                self.submit()
                self.complete()
            del self.inactive[page]
            if page in self.young:
                target = self.active if page in self.referenced else self.inactive
                self.age += target is self.active
                self.referenced.add(page)
                self.young.discard(page)
                target[page] = True
                continue
            self.referenced.discard(page)
            if page in self.dirty:
                self.dirty.discard(page)
                written += 1
                if self.writes(page):
                    self.inactive[page] = True
                    continue
            self.unmapped.discard(page)
            self.shadow[page] = (self.age, page in self.workingset)
            self.workingset.discard(page)
            self.age += 1
            freed += 1
        if written or scanned - freed:
            self.note_cost(32 * written + scanned - freed)
        return freed

    def writes(self, page):
        """Queue the write of a dirty page, and return True; a page full of zeros gets a slot, no more."""
        if page in self.zeros:
            self.plug.take(page)
            return False
        self.unmapped.add(page)
        if self.plug.is_full_before(page):
            self.sent, self.queued = self.sent + self.queued, []
        self.queued.append(page)
        self.written += 1
        return True

    def shrink_active(self, n):
        for page in list(self.active)[:n]:
            del self.active[page]
            self.young.discard(page)
            self.workingset.add(page)
            self.inactive[page] = True


CURRENT, NEVER = Flush(period_ns=0, phase_ns=0), Flush(phase_ns=2**62)


@pytest.mark.parametrize("flush", [CURRENT, NEVER], ids=["current", "never"])
@settings(max_examples=200, deadline=None)
@given(
    refs=st.lists(st.tuples(st.integers(0, 150), st.booleans()), min_size=1, max_size=1500),
    capacity=st.integers(2, 140),
)
def test_major_faults_are_those_of_the_rules(flush, refs, capacity):
    model = TwoLists(capacity, 151, current=flush is CURRENT)
    for vpn, store in refs:
        model.access(vpn, store)

    vpns, stores = zip(*refs, strict=True)
    shadow = run_shadow(workload(vpns, kinds=stores), capacity, instant(), "linux", flush)

    assert shadow.missed.sum() == model.major


@pytest.mark.parametrize("flush", [CURRENT, NEVER], ids=["current", "never"])
@settings(max_examples=200, deadline=None)
@given(
    refs=st.lists(st.tuples(st.integers(0, 150), st.booleans(), st.booleans()), min_size=1, max_size=1500),
    capacity=st.integers(2, 140),
)
def test_pages_full_of_zeros_are_freed_without_a_write(flush, refs, capacity):
    """The third of a reference is what its store leaves in the page."""
    model, content = TwoLists(capacity, 151, current=flush is CURRENT), {}
    for vpn, store, zeros in refs:
        content[vpn] = zeros if store else content.get(vpn, False)
        model.access(vpn, store, content[vpn])

    state, missed = end_of_run(holding(refs), capacity, instant(), "linux", flush)

    assert missed.sum() == model.major
    assert state.counters[WRITTEN] == model.written


def loop_beside_hot_pages():
    rng = np.random.default_rng(3)
    hot = rng.integers(0, 900, 40_000)
    loop = np.tile(np.arange(1000, 4000), 14)[: len(hot)]
    return np.stack([hot, loop], axis=1).ravel()


@pytest.mark.parametrize("flush", [CURRENT, NEVER], ids=["current", "never"])
def test_loops_and_hot_pages_in_a_larger_memory(flush):
    vpns = loop_beside_hot_pages()
    stores = np.random.default_rng(4).integers(0, 10, len(vpns)) == 0
    model = TwoLists(2500, 4000, current=flush is CURRENT)
    for vpn, store in zip(vpns.tolist(), stores.tolist(), strict=True):
        model.access(vpn, store)

    w = workload(vpns, kinds=stores.astype(np.uint8))
    shadow = run_shadow(w, 2500, instant(), "linux", flush)
    result = replay(w, load_policy("none"), shadow, instant())

    assert shadow.missed.sum() == result.major_faults == model.major > 10_000
    assert result.minor_faults == result.cache_hits == model.rescued


def test_where_the_age_of_the_lists_begins_changes_nothing(monkeypatch):
    """A page keeps 30 bits of it, which it passes here."""
    rng = np.random.default_rng(0)
    vpns = np.minimum(rng.zipf(1.2, 30_000), 3000)
    w = workload(vpns, kinds=rng.integers(0, 2, 30_000))

    def begun_at(age):
        def aged(*arguments):
            memory = new_memory(*arguments)
            memory.scalars[AGE] = age
            return memory

        monkeypatch.setattr(run, "new_memory", aged)
        return run.replay_none(w, 500, ssd(), "linux", CURRENT)[0].missed

    young = begun_at(0)
    assert young.sum() > 1500
    assert np.array_equal(begun_at(MOST_AGE - 1000), young)
    assert np.array_equal(begun_at(5 * (MOST_AGE + 1) - 1000), young)


def test_when_statistics_come_late_their_moment_matters():
    w = workload(loop_beside_hot_pages(), step_insns=20_000)
    phases = [Flush(phase_ns=n * 250_000_000) for n in range(8)]
    found = {int(run_shadow(w, 2500, ssd(), "linux", flush).missed.sum()) for flush in phases}
    assert len(found) > 1
    lru = {int(run_shadow(w, 2500, ssd(), "lru", flush).missed.sum()) for flush in phases}
    assert len(lru) == 1


KERNEL_PAGES = 13
"""What the kernel charged to a small C program besides its page tables (memory.kmem.usage_in_bytes)."""


def major_faults(vpns, stores, limit_pages):
    """Return the replays' major faults for a limit, at five moments of the statistics' 2 s."""
    capacity = limit_pages - int(vpns.max()) // 512 - KERNEL_PAGES
    w = workload(vpns, kinds=stores.astype(np.uint8), step_insns=1300)
    flushes = [Flush(phase_ns=phase * 400_000_000) for phase in range(5)]
    return [int(run_shadow(w, capacity, ssd(), "linux", flush).missed.sum()) for flush in flushes]


@pytest.mark.parametrize(
    ("stride", "kernel"),
    [(2, (40_008, 40_016)), (3, (37_609, 37_784)), (7, (35_829, 35_860)), (64, (34_094, 34_114))],
)
def test_strided_loads_are_within_one_percent_of_the_kernel(stride, kernel):
    """60,000 pages written, 40,000 strided loads by a table, in 96 MiB at page-cluster 0 on Linux 6.18."""
    n_pages, n_loads = 60_000, 40_000
    walk = np.concatenate([np.arange(start, n_pages, stride) for start in range(stride)])[:n_loads]
    table = n_pages + np.arange(n_loads) * 4 // 4096
    loads = np.stack([table[: len(walk)], walk], axis=1).ravel()
    vpns = np.concatenate([np.arange(n_pages), table, loads])
    stores = np.arange(len(vpns)) < n_pages + n_loads

    found = major_faults(vpns, stores, (96 << 20) // 4096)

    assert kernel[0] * 0.99 <= min(found) and max(found) <= kernel[1] * 1.01


@pytest.mark.parametrize(
    ("n_pages", "n_refs", "hot_percent", "store_percent", "limit_pages", "kernel"),
    [
        (40_000, 400_000, 60, 10, 20_480, (95_877, 98_165)),
        (40_000, 400_000, 80, 30, 14_000, (78_051, 79_207)),
        (40_000, 300_000, 0, 0, 25_000, (113_356, 113_798)),
        (60_000, 200_000, 50, 50, 30_000, (67_963, 69_577)),
    ],
)
def test_random_loads_and_stores_with_hot_pages_are_within_two_percent_of_the_kernel(
    n_pages, n_refs, hot_percent, store_percent, limit_pages, kernel
):
    """Pages written, then random references, many to a quarter of the pages; Linux 6.18, 4 runs each."""
    rng = np.random.default_rng(5)
    hot = rng.integers(0, n_pages // 4, n_refs) * 3
    drawn = np.where(rng.integers(0, 100, n_refs) < hot_percent, hot, rng.integers(0, n_pages, n_refs))
    vpns = np.concatenate([np.arange(n_pages), drawn])
    stores = np.concatenate([np.ones(n_pages), rng.integers(0, 100, n_refs) < store_percent])

    found = median(major_faults(vpns, stores, limit_pages))

    assert kernel[0] * 0.98 <= found <= kernel[1] * 1.02


@pytest.mark.parametrize(("flush", "kills"), [(Flush(phase_ns=500_000_000), 1), (Flush(0, 0), 0)])
def test_where_all_pages_are_active_and_statistics_old_the_kernel_would_kill(flush, kills):
    w, policy = load_workload(Trace("examples/stencil.kdt")), load_policy("linux-vma")
    assert replay(w, policy, run_shadow(w, 6000, ssd(), "linux", flush), ssd()).oom_kills == kills
