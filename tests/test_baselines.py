"""The baselines' decisions: golden runs worked by hand, the kernel's and the papers' tables, plain models."""

import re
from pathlib import Path

import numpy as np
import pytest
from builders import ssd, workload

from kdtool.replay import BOUNDS, POLICIES, Flush, Setting, load_policy
from kdtool.replay.hook import (
    CTX_NOW_NS,
    CTX_PROCESS,
    CTX_SLOT,
    CTX_VMA,
    CTX_VMA_END,
    CTX_VMA_START,
    CTX_WORDS,
    FOUND,
    NAMED_SLOT,
)
from kdtool.replay.memory import new_memory
from kdtool.replay.policies.base import OUT_WORDS
from kdtool.replay.policies.leap import find_trend, prefetch_window
from kdtool.replay.policies.readahead import swapin_nr_pages

GOLDEN = Path(__file__).parent / "golden" / "swapin"


class Asker:
    """Ask one policy event by event: every page swapped out, its number its slot, and memory infinite."""

    def __init__(self, name, vma=(0, 1 << 40), n_processes=1):
        self.policy = load_policy(name)
        w = workload([1, 2] * n_processes, pids=np.repeat(np.arange(n_processes), 2))
        memory = new_memory(len(w.keys), len(w.keys), "lru", Flush())
        setting = Setting(w, 10, ssd(), np.zeros(w.n_refs, np.uint8), memory, lambda prepared: 0)
        self.prepared = self.policy.prepare(setting)
        self.ctx, self.out = np.zeros(CTX_WORDS, np.int64), np.zeros(OUT_WORDS, np.int64)
        self.ctx[CTX_VMA_START], self.ctx[CTX_VMA_END] = vma
        self.ctx[CTX_VMA] = 0

    def ask(self, page, major, ip=0, process=0, now_ns=0):
        """Return the pages that the policy asks for at one event besides its own."""
        self.ctx[0] = self.ctx[CTX_SLOT] = page
        self.ctx[3], self.ctx[5] = ip, major
        self.ctx[CTX_PROCESS], self.ctx[CTX_NOW_NS] = process, now_ns
        n = self.policy.decide(self.prepared.params, self.prepared.state, self.ctx, self.out)
        assert n <= self.policy.degree_pages
        named = [NAMED_SLOT - p if p < 0 else p for p in self.out[:n].tolist()]
        return [p for p in named if p != page]


def golden_cases():
    """Yield (policy, case, header, lines) of every file in tests/golden/swapin.

    `PAGE@IP: PAGES` is a miss and what is read besides its page, `PAGE@IP hit > PAGES` the first touch of
    a page that was read before; ranges are written 3-5, downward 5-3; `forget` swaps everything out.
    """
    for path in sorted(GOLDEN.glob("*.txt")):
        for block in re.split(r"^\[", path.read_text(), flags=re.MULTILINE)[1:]:
            title, *lines = block.strip().splitlines()
            case, header = title.split("]")
            yield path.stem, case, header.strip(), lines


def numbers(text):
    """Return the numbers of a list with ranges."""
    found = []
    for part in text.split():
        first, _, last = part.partition("-")
        step = 1 if int(last or first) >= int(first) else -1
        found += range(int(first), int(last or first) + step, step)
    return found


LINE = re.compile(r"(?P<pages>[\d-]+)(@(?P<ip>\d+))?(?P<kind>:| hit >| hit)(?P<read>[\d\s-]*)")


CASES = list(golden_cases())


@pytest.mark.parametrize(
    ("name", "case", "header", "lines"), CASES, ids=[f"{name}: {case[:40]}" for name, case, *_ in CASES]
)
def test_a_golden_run(name, case, header, lines):
    vma = re.fullmatch(r"vma=(\d+)-(\d+)", header)
    asker = Asker(name, tuple(int(n) for n in vma.groups()) if vma else (0, 1 << 40))
    cached = set()
    for line in lines:
        if line == "forget":
            cached.clear()
            continue
        parts = LINE.fullmatch(line)
        assert parts, f"{name}, {case}: {line!r}"
        for page in numbers(parts["pages"]):
            major = parts["kind"] == ":"
            assert major or page in cached, f"{case}: {line}: {page} was never read"
            if major:
                cached.discard(page)
            asked = asker.ask(page, major, ip=int(parts["ip"] or 0))
            cached.add(page)
            read = [other for other in asked if other not in cached]
            assert read == numbers(parts["read"]), f"{case}: {line}"
            cached.update(read)


def test_a_page_found_in_the_swap_cache_moves_the_address_of_linux_vma():
    asker = Asker("linux-vma")
    assert asker.ask(100, 1) == [97, 98, 99, 101, 102, 103, 104]
    assert asker.ask(200, FOUND) == []
    assert asker.ask(201, 1) == [202, 203, 204]  # else it would lie within its window, at 200


def test_a_page_found_in_the_swap_cache_is_no_hit_to_linux_cluster():
    asker = Asker("linux-cluster")
    asker.ask(100, 1)
    before = asker.prepared.state.tolist()
    assert asker.ask(200, FOUND) == []
    assert asker.prepared.state.tolist() == before


def test_every_policy_has_golden_runs():
    real = {policy.name for policy in POLICIES} - {bound.name for bound in BOUNDS}
    assert {name for name, *_ in CASES} == real


def test_the_window_rule_matches_its_table():
    previous = (0, 1, 2, 4, 8)
    table = [[int(swapin_nr_pages(0, 9, hits, 8, prev)) for prev in previous] for hits in (0, 1, 2, 3, 4, 63)]
    assert table == [[1, 1, 1, 2, 4], [4] * 5, [4] * 5, [8] * 5, [8] * 5, [8] * 5]
    for neighbour in (8, 10):
        adjacent = [int(swapin_nr_pages(neighbour, 9, 0, 8, prev)) for prev in previous]
        assert adjacent == [2, 2, 2, 2, 4]


def test_the_window_rule_knows_no_other_neighbours_than_the_two_next_pages():
    assert [int(swapin_nr_pages(prev, 9, 0, 8, 0)) for prev in (6, 7, 8, 9, 10, 11)] == [1, 1, 2, 1, 2, 1]


@pytest.mark.parametrize(("max_pages", "hits", "window"), [(2, 63, 2), (4, 63, 4), (32, 63, 32), (32, 9, 16)])
def test_the_window_rule_is_capped_by_page_cluster(max_pages, hits, window):
    assert int(swapin_nr_pages(0, 9, hits, max_pages, 0)) == window


def test_leap_window_matches_its_table():
    rows = [(0, False), (0, True), (1, False), (2, False), (3, False), (4, False), (9, False)]
    table = [[int(prefetch_window(c, trend, prev)) for prev in (0, 1, 2, 4, 8)] for c, trend in rows]
    assert table == [
        [0, 0, 1, 2, 4],
        [1, 1, 1, 2, 4],
        [2, 2, 2, 2, 4],
        [4] * 5,
        [4] * 5,
        [8] * 5,
        [8] * 5,
    ]


def test_leap_finds_the_trend_of_the_papers_example():
    pages = [0x48, 0x45, 0x42, 0x3F, 0x3C, 2, 4, 6, 8, 0xA, 0xC, 0x10, 0x39, 0x12, 0x14, 0x16]
    ring, found = np.zeros(8, np.int64), []
    for t, (page, before) in enumerate(zip(pages, [0, *pages], strict=False)):
        ring[t % 8] = page - before
        ok, delta = find_trend(ring, t % 8, t + 1)
        found.append(int(delta) if ok else None)
    assert found == [None] * 3 + [-3] * 3 + [None] * 2 + [2] * 8


@pytest.mark.parametrize("name", ["leap-paper", "stride", "ghb", "markov"])
def test_random_pages_are_hardly_ever_followed_by_anything(name):
    rng = np.random.default_rng(3)
    asker = Asker(name)
    assert sum(len(asker.ask(int(page), True)) for page in rng.integers(0, 2**30, 4000)) <= 4
