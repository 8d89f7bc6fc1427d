"""The table-driven baselines against models of the same papers on dictionaries and lists."""

from collections import OrderedDict, deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_baselines import Asker

from kdtool.replay.policies.best_offset import OFFSETS
from kdtool.replay.policies.readahead import swapin_nr_pages

EVENTS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 12), st.integers(0, 3000).map(lambda n: n * 3)),
        st.booleans(),
        st.sampled_from([7, 8, 9, 7 + (1 << 18)]),
        st.integers(0, 1),
        st.integers(0, 60_000),
    ),
    min_size=100,
    max_size=300,
)


def compare(name, model, events):
    """Ask policy and model at the same events; what is no page or the event's own is no answer."""
    asker, now_ns = Asker(name, n_processes=2), 0
    for page, major, ip, process, wait_ns in events:
        now_ns += wait_ns
        asked = asker.ask(page, major, ip=ip, process=process, now_ns=now_ns)
        expected = model.event(page=page, major=major, ip=ip, process=process, now_ns=now_ns)
        assert asked == [other for other in expected if other >= 0 and other != page]


class PlainStride:
    def __init__(self):
        self.entries = {}

    def event(self, page, ip, process, **_):
        index = (ip ^ (ip >> 9) ^ (process + 1)) % 512
        owner, last, stride, state = self.entries.get(index, (None, 0, 0, ""))
        if owner != (ip, process):
            self.entries[index] = ((ip, process), page, 0, "initial")
            return []
        if page == last + stride:
            state = "transient" if state == "no prediction" else "steady"
        elif state == "steady":
            state = "initial"
        else:
            state = "transient" if state == "initial" else "no prediction"
            stride = page - last
        self.entries[index] = (owner, page, stride, state)
        reach = {"steady": 8, "no prediction": 0}.get(state, 1) if stride else 0
        return [page + i * stride for i in range(1, reach + 1)]


class PlainMarkov:
    def __init__(self):
        self.sets, self.last = {}, {}

    def event(self, page, process, **_):
        if process in self.last:
            row = self.row(self.last[process], process, True)
            if page in row:
                row.remove(page)
            row.insert(0, page)
            del row[4:]
        self.last[process] = page
        return list(self.row(page, process, False) or [])

    def row(self, page, process, may_replace):
        rows = self.sets.setdefault((page ^ (page >> 12) ^ (process + 1)) % 4096, OrderedDict())
        if (process, page) in rows:
            rows.move_to_end((process, page))
        elif may_replace:
            if len(rows) == 4:
                rows.popitem(last=False)
            rows[process, page] = []
        return rows.get((process, page))


class PlainGhb:
    def __init__(self):
        self.buffer, self.owners = deque(maxlen=256), {}

    def event(self, page, ip, process, **_):
        index = (ip ^ (ip >> 8) ^ (process + 1)) % 256
        if self.owners.get(index) != (ip, process):
            self.owners[index] = (ip, process)
            # Whoever lost the index entry begins anew: its pages in the buffer are found no more.
            lost = ((None if owner == (ip, process) else owner, p) for owner, p in self.buffer)
            self.buffer = deque(lost, maxlen=256)
        self.buffer.append(((ip, process), page))
        pages = [p for owner, p in self.buffer if owner == (ip, process)]
        deltas = [int(d) for d in np.diff(pages)]
        for at in range(len(deltas) - 2, 0, -1):
            if deltas[at - 1 : at + 1] == deltas[-2:]:
                after = deltas[at + 1 :]
                steps = np.cumsum([after[i % len(after)] for i in range(4)])
                return [page + int(s) for s in steps if s]
        return []


class PlainBestOffset:
    def __init__(self):
        self.recent, self.flying, self.scores = {}, deque(), dict.fromkeys(OFFSETS, 0)
        self.offset, self.tests = 1, 0

    def event(self, page, now_ns, **_):
        while self.flying and self.flying[0][1] <= now_ns:
            base, _ = self.flying.popleft()
            self.recent[self.index(base)] = (base >> 8) % 4096
        tested = page - OFFSETS[self.tests % len(OFFSETS)]
        if self.recent.get(self.index(tested)) == (tested >> 8) % 4096:
            self.scores[OFFSETS[self.tests % len(OFFSETS)]] += 1
        self.tests += 1
        if self.tests % len(OFFSETS) == 0:
            best = max(OFFSETS, key=lambda offset: (self.scores[offset], -offset))
            if self.scores[best] >= 31 or self.tests == 100 * len(OFFSETS):
                self.offset = best if self.scores[best] > 1 else None
                self.tests, self.scores = 0, dict.fromkeys(OFFSETS, 0)
        if len(self.flying) < 64:
            self.flying.append((page, now_ns + 46_000))
        return [] if self.offset is None else [page + self.offset]

    @staticmethod
    def index(page):
        return (page ^ (page >> 8)) % 256


class PlainLeapRepo:
    def __init__(self):
        self.deltas, self.last, self.hits, self.window = [0] * 32, None, 4, 0

    def event(self, page, major, **_):
        delta = 0 if self.last is None else page - self.last
        self.deltas, self.last = [delta, *self.deltas[:-1]], page
        if not major:
            self.hits += 1
            return []
        self.window = int(swapin_nr_pages(0, page, max(self.hits, 1), 8, self.window))
        self.hits = 0
        for width in (8, 16, 32):
            newest = self.deltas[:width]
            trend = max(newest, key=newest.count)
            if newest.count(trend) > width // 2:
                slots = [page + i * trend for i in range(self.window)]
                break
        else:
            start = page - page % self.window
            slots = list(range(start, start + self.window))
        return [slot for slot in slots if slot != page and slot > 0]


MODELS = {
    "stride": PlainStride,
    "markov": PlainMarkov,
    "ghb": PlainGhb,
    "best-offset": PlainBestOffset,
    "leap-repo": PlainLeapRepo,
}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None)
@given(events=EVENTS)
def test_a_policy_answers_as_its_model(name, events):
    compare(name, MODELS[name](), events)


@pytest.mark.parametrize("name", MODELS)
def test_a_policy_answers_as_its_model_over_long_runs(name):
    rng = np.random.default_rng(2)
    walks = [np.arange(0, 6000, 3), rng.integers(0, 1 << 20, 2000), 4096 * np.tile(np.arange(9), 300),
             np.cumsum(np.tile([1, 1, 8], 1500)), rng.integers(0, 300, 3000)]  # fmt: skip
    pages = np.concatenate(walks)
    ips, processes = rng.choice([7, 8, 7 + (1 << 18)], len(pages)), rng.integers(0, 2, len(pages))
    waits = rng.choice([0, 20_000, 90_000], len(pages))
    majors = rng.random(len(pages)) < 0.5
    compare(
        name, MODELS[name](), zip(*(a.tolist() for a in (pages, majors, ips, processes, waits)), strict=True)
    )


def phase(step_ns):
    """Walk with stride 3, `step_ns` apart, until a learning phase has ended; return the offset in use."""
    asker = Asker("best-offset")
    asked = [asker.ask(3 * i, True, now_ns=i * step_ns) for i in range(31 * len(OFFSETS) + 1)]
    assert all(answer == [3 * i + 1] for i, answer in enumerate(asked[: 31 * len(OFFSETS) - 1]))
    return asked[-1][0] - 3 * (len(asked) - 1)


@pytest.mark.parametrize(("step_ns", "offset"), [(100_000, 3), (23_000, 6), (20_000, 9), (5_000, 30)])
def test_best_offset_learns_the_first_offset_that_is_in_time(step_ns, offset):
    """A read takes 46 us: at one page every 20 us, page X - 9 has been read when X is asked for, X - 6 not.

    At 5 us ten pages pass; 30 = 3 * 10 is in the list.
    """
    assert phase(step_ns) == offset


def test_best_offset_turns_itself_off_on_random_pages_and_on_again():
    asker, rng = Asker("best-offset"), np.random.default_rng(1)
    random_pages = rng.integers(0, 1 << 20, 2 * 100 * len(OFFSETS))
    asked = [asker.ask(int(page), True, now_ns=i * 100_000) for i, page in enumerate(random_pages)]
    assert asked[-1] == []
    later = len(asked) * 100_000
    asked = [asker.ask(3 * i, True, now_ns=later + i * 100_000) for i in range(100 * len(OFFSETS))]
    assert asked[-1] == [3 * (len(asked) - 1) + 3]


def test_there_are_52_offsets():
    assert len(OFFSETS) == 52
    assert OFFSETS[:12] == (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16)
    assert OFFSETS[-5:] == (225, 240, 243, 250, 256)
