"""The multi-generational LRU: cases worked by hand from mm/vmscan.c, v6.18, and a model written apart."""

from builders import Plug, end_of_run, holding, instant, ssd, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtool.replay import load_policy, replay, run_shadow
from kdtool.replay.generations import add_generation, set_back
from kdtool.replay.memory import GEN_PAGES, WORKINGSET, WRITTEN, Flush, new_memory
from kdtool.replay.run import replay_none


class Generations:
    """Anonymous pages in generations: lists of pages, oldest first, by their seq; the device writes at once.

    `at` is the list that a page lies on, `seq` its generation: promoted, it stays where it lies.
    """

    def __init__(self, capacity, pages):
        self.capacity = capacity
        self.tables = {}
        for page in sorted(pages):
            self.tables.setdefault(page // 512, []).append(page)
        self.filters, self.aged, self.held = [set(), set()], False, set()
        self.max, self.min = 3, {"anon": 0, "file": 0}
        self.lists = {seq: [] for seq in range(4)}
        self.seq, self.shadow = {}, {}
        self.young, self.once, self.workingset, self.dirty = set(), set(), set(), set()
        self.unmapped, self.queued, self.swapped, self.plug = set(), [], set(), Plug(max(pages) + 1)
        self.refaulted, self.evicted, self.protected = [0, 0], [0, 0], [0, 0]
        self.avg_refaulted, self.avg_total = [0, 0], [0, 0]
        self.major = self.written = 0
        self.zeros = set()  # pages that hold nothing else

    def access(self, page, store, zeros=False):
        if page not in self.seq:
            for _ in range(1000):
                if len(self.seq) < self.capacity:
                    break
                self.reclaim()
            self.major += page in self.shadow
            if store and page in self.shadow:
                self.plug.free(page)
            seen, was_working = self.shadow.pop(page, (-9, False))
            if self.max - seen < 4:
                self.refaulted[was_working] += 1
                if was_working:
                    self.workingset.add(page)
            if seen < 0:
                self.dirty.add(page)
            self.add(page, self.max - 1 + (page in self.workingset))
        if store and page in self.unmapped and page not in self.queued:
            self.plug.free(page)
        self.unmapped.discard(page)
        self.young.add(page)
        if store:
            self.dirty.add(page)
            self.swapped.discard(page)
        self.zeros.discard(page)
        if zeros:
            self.zeros.add(page)

    def add(self, page, seq):
        self.seq[page] = max(seq, self.min["anon"])
        self.lists[self.seq[page]].append(page)

    def move(self, page, seq):
        for pages in self.lists.values():
            if page in pages:
                pages.remove(page)
        self.add(page, seq)

    def found_again(self, page):
        self.young.discard(page)
        if page in self.once or page in self.workingset:
            self.once.discard(page)
            self.workingset.add(page)
            return True
        self.once.add(page)
        return False

    def seen_young(self, pages):
        """Those that a walk finds accessed: mapped, and on a list."""
        return [p for p in pages if p in self.young and p in self.seq and p not in self.unmapped | self.held]

    def walk(self):
        looked_at, self.filters[1 - self.max % 2] = self.filters[self.max % 2], set()
        for table, pages in self.tables.items():
            if not self.aged or table in looked_at:
                young = self.seen_young(pages)
                for page in young:
                    if self.found_again(page):
                        self.seq[page] = self.max
                if len(young) * 8 >= pages[-1] - pages[0] + 1:
                    self.filters[1 - self.max % 2].add(table)
        self.aged = True

    def look_around(self, page):
        self.young.discard(page)
        pages = self.tables[page // 512]
        start, end = pages[0], pages[-1] + 1
        if end - start > 64:
            start = min(max(page - 32, start), end - 64)
            end = start + 64
        young = self.seen_young([p for p in pages if start <= p < end])
        for other in young:
            if self.found_again(other) and self.seq[other] != self.max:
                self.move(other, self.max)
        if (len(young) + 1) * 8 >= end - start:
            self.filters[self.max % 2].add(page // 512)

    def increase(self, page):
        self.once.discard(page)
        self.seq[page] = self.min["anon"] + 1

    def carry(self):
        for tier in (0, 1):
            total = self.protected[tier] + self.evicted[tier]
            self.avg_refaulted[tier] = (self.avg_refaulted[tier] + self.refaulted[tier]) // 2
            self.avg_total[tier] = (self.avg_total[tier] + total) // 2
        self.refaulted, self.evicted, self.protected = [0, 0], [0, 0], [0, 0]

    def age(self):
        self.walk()
        if self.max - self.min["anon"] == 3:
            oldest = self.min["anon"]
            for page in self.lists.pop(oldest):
                self.protected[page in self.workingset] += 1
                if self.seq[page] == oldest:
                    self.increase(page)
                self.lists[self.seq[page]].insert(0, page)
            self.carry()
            self.min["anon"] += 1
        if self.max - self.min["file"] == 3:
            self.min["file"] += 1
        self.max += 1
        self.lists[self.max] = []

    def drop_empty(self):
        new, keep = dict(self.min), self.max - 2
        while new["anon"] <= keep and not self.lists[new["anon"]]:
            new["anon"] += 1
        new["file"] = max(new["file"], keep + 1)
        if new["anon"] > keep > new["file"]:
            new["anon"] = keep
        elif new["file"] > keep > new["anon"]:
            new["file"] = keep
        went = new != self.min and any(new[kind] > self.min[kind] for kind in new)
        if new["anon"] > self.min["anon"]:
            self.carry()
        self.min = {kind: max(new[kind], self.min[kind]) for kind in new}
        self.lists = {seq: pages for seq, pages in self.lists.items() if seq >= self.min["anon"]}
        return went

    def protects(self):
        back = self.avg_refaulted[1] + self.refaulted[1]
        total = self.avg_total[1] + self.protected[1] + self.evicted[1]
        first_back = self.avg_refaulted[0] + self.refaulted[0]
        first_total = self.avg_total[0] + self.protected[0] + self.evicted[0]
        return back >= 64 and back * (first_total + 64) * 2 > (first_back + 1) * total * 3

    def complete(self):
        for page in self.queued:
            self.move(page, self.min["anon"])
            pages = self.lists[self.seq[page]]
            pages.insert(0, pages.pop())
        self.queued = []

    def judge(self, page):
        """Return the generation that a page which stays goes to, None for one that was freed."""
        if page in self.young:
            self.look_around(page)
            if self.found_again(page):
                return self.max
            return self.max - (3 - (page in self.workingset) if page in self.swapped else 1)
        if page in self.dirty:
            self.dirty.discard(page)
            if self.writes(page):
                return self.max - 1
        self.free(page)
        return None

    def free(self, page):
        was_working = page in self.workingset
        self.evicted[was_working] += 1
        self.shadow[page] = (self.min["anon"], was_working)
        for pages in self.lists.values():
            if page in pages:
                pages.remove(page)
        del self.seq[page]
        self.swapped.add(page)
        for marks in (self.young, self.once, self.workingset, self.unmapped):
            marks.discard(page)

    def writes(self, page):
        """Queue the write of a dirty page, and return True; a page full of zeros gets a slot, no more."""
        if page in self.zeros:
            self.plug.take(page)
            return False
        self.unmapped.add(page)
        self.swapped.add(page)
        if self.plug.is_full_before(page):
            self.queued, self.pending = self.queued + self.pending, []
        self.pending.append(page)
        self.written += 1
        return True

    def isolate(self, n):
        oldest = self.min["anon"]
        if self.max - oldest == 1:
            return 0, []
        limit, left, candidates, scanned = self.protects(), min(n, 4096), [], 0
        while left and len(candidates) < 64 and self.lists[oldest]:
            page = self.lists[oldest][0]
            left, scanned = left - 1, scanned + 1
            if self.seq[page] != oldest:
                self.move(page, self.seq[page])
            elif page in self.workingset and limit:
                self.protected[1] += 1
                self.increase(page)
                self.move(page, oldest + 1)
            elif page in self.queued or page in self.pending:
                self.increase(page)
                self.move(page, oldest + 1)
            else:
                candidates.append(self.lists[oldest].pop(0))
        return (scanned if candidates or not left else 0), candidates

    def judge_batch(self, candidates):
        self.held = set(candidates)
        verdicts = [(page, self.judge(page)) for page in candidates]
        self.held = set()
        written = set(self.queued)
        self.complete()
        freed = 0
        for page, verdict in verdicts:
            if verdict is None:
                freed += 1
            elif page in written:
                self.free(page)
                freed += 1
            elif verdict > self.min["anon"] or verdict == self.max:
                self.move(page, verdict)
            else:
                self.once.discard(page)
                self.move(page, self.max - 1 + (page in self.workingset))
        return freed

    def shrink(self, priority):
        scanned = freed = 0
        self.pending = []
        while True:
            spare = self.max - 2 - min(self.min.values())
            if spare <= 0 and priority < 12:
                self.age()
                break
            n = len(self.seq) >> priority if spare >= 0 else 0
            if not n:
                break
            self.complete()
            looked_at, candidates = self.isolate(n)
            looked_at += self.drop_empty()
            if min(self.min.values()) + 2 > self.max:
                looked_at = 0
            gone = self.judge_batch(candidates)
            freed, scanned = freed + gone, scanned + looked_at
            if not looked_at or scanned >= n:
                break
        self.queued, self.plug.requests = self.queued + self.pending, []
        return freed

    def reclaim(self):
        freed = 0
        for priority in range(12, -1, -1):
            if freed >= 32:
                break
            freed += self.shrink(priority)


@settings(max_examples=100, deadline=None)
@given(
    refs=st.lists(st.tuples(st.integers(0, 150), st.booleans()), min_size=1, max_size=1500),
    capacity=st.integers(2, 140),
    apart=st.sampled_from([1, 2, 11]),
)
def test_major_faults_are_those_of_the_model(refs, capacity, apart):
    refs = [(vpn * apart, store) for vpn, store in refs]
    model = Generations(capacity, {vpn for vpn, _ in refs})
    for vpn, store in refs:
        model.access(vpn, store)

    vpns, stores = zip(*refs, strict=True)
    shadow = run_shadow(workload(vpns, kinds=stores), capacity, instant(), "mglru")

    assert shadow.missed.sum() == model.major


@settings(max_examples=100, deadline=None)
@given(
    refs=st.lists(st.tuples(st.integers(0, 150), st.booleans(), st.booleans()), min_size=1, max_size=1500),
    capacity=st.integers(2, 140),
)
def test_pages_full_of_zeros_are_freed_without_a_write(refs, capacity):
    """The third of a reference is what its store leaves in the page."""
    model, content = Generations(capacity, {vpn for vpn, *_ in refs}), {}
    for vpn, store, zeros in refs:
        content[vpn] = zeros if store else content.get(vpn, False)
        model.access(vpn, store, content[vpn])

    state, missed = end_of_run(holding(refs), capacity, instant(), "mglru")

    assert missed.sum() == model.major
    assert state.counters[WRITTEN] == model.written


def counts_after(*more):
    """Return (major, minor) of touching 101 new pages in a memory of 100, and then `more`."""
    device = instant().having({"request_pages": 32})
    _, result = replay_none(workload([*range(101), *more]), 100, device, "mglru")
    assert result.cold_faults == 101
    return result.major_faults, result.minor_faults


def test_a_first_reclaim_worked_by_hand():
    """All 100 pages are of generation 2 of 0 to 3, accessed and dirty, when room is wanted for one more.

    Priorities 12 to 7 scan 100 >> priority = 0 pages; 6 finds generations 0 and 1 empty and lets them go. 5
    and 4 age, to 2 to 5: every page is found accessed once. 3 writes 12 pages; 2 frees those and writes 13
    more, 25 in all; 1 frees these and writes 31 of 44; 0 judges 64: frees 31, in all 56, and writes 33, of
    which 32, one request, go to the device when the last comes; one short of 32, it goes on, frees these and
    writes the last 11.
    """
    assert counts_after(*range(50)) == (50, 0)
    assert counts_after(*range(88, 101)) == (0, 12)
    assert counts_after(86, 87, 88, 89) == (2, 2)


@settings(max_examples=60, deadline=None)
@given(
    refs=st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=1, max_size=600),
    capacity=st.integers(10, 140),
)
def test_counts_balance_with_readahead_and_no_memory_beats_belady(refs, capacity):
    vpns, stores = zip(*refs, strict=True)
    w = workload(vpns, kinds=stores)
    shadow = run_shadow(w, capacity, ssd(), "mglru")
    result = replay(w, load_policy("linux-vma"), shadow, ssd())
    faults = result.minor_faults + result.major_faults + result.cold_faults
    assert result.accesses == result.hits + faults
    assert result.minor_faults == result.prefetch_used + result.cache_hits
    used = result.prefetch_used + result.prefetch_wasted + result.prefetch_unresolved
    assert result.prefetch_issued == used
    best = replay(w, load_policy("belady"), shadow, ssd())
    assert best.major_faults <= shadow.missed.sum()


def test_what_an_agent_has_read_lies_in_an_old_generation():
    """A fault's page comes to generation 2 of 0 to 3, of the working set to 3; madvise's to 0 and to 1."""
    memory = new_memory(8, 8, "mglru", Flush())
    arrays, generation, scalars = memory.arrays(), memory.pages["evicted_at"], memory.scalars
    memory.pages["marks"][5] = WORKINGSET
    for page in (4, 5):
        add_generation(page, arrays)
    assert generation[[4, 5]].tolist() == [2, 3]

    for page in (4, 5):
        set_back(page, arrays)

    assert generation[[4, 5]].tolist() == [0, 1]
    assert scalars[GEN_PAGES : GEN_PAGES + 4].tolist() == [1, 1, 0, 0]
