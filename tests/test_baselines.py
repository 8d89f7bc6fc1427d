"""Golden cases of the baselines, from the kernel's rules and Leap's paper, worked by hand."""

import numpy as np
import pytest
from builders import ssd, workload

from kdtool.replay import Setting, load_policy
from kdtool.replay.engine import (
    CTX_PROCESS,
    CTX_SLOT,
    CTX_VMA,
    CTX_VMA_END,
    CTX_VMA_START,
    CTX_WORDS,
    NAMED_SLOT,
)
from kdtool.replay.policies.base import OUT_WORDS
from kdtool.replay.policies.leap import find_trend, prefetch_window
from kdtool.replay.policies.readahead import swapin_nr_pages


class Asker:
    """Ask one policy event by event, with every page swapped out and infinite memory."""

    def __init__(self, name, vma=(0, 1 << 40)):
        self.policy = load_policy(name)
        w = workload([1, 2])
        self.prepared = self.policy.prepare(Setting(w, 10, ssd(), np.zeros(2, np.uint8)))
        self.ctx, self.out = np.zeros(CTX_WORDS, np.int64), np.zeros(OUT_WORDS, np.int64)
        self.ctx[CTX_VMA_START], self.ctx[CTX_VMA_END] = vma
        self.ctx[CTX_VMA] = self.ctx[CTX_PROCESS] = 0
        self.cached = set()

    def fault(self, page):
        """Touch a page; return (major, set of pages read besides it)."""
        major = page not in self.cached
        self.ctx[0] = self.ctx[CTX_SLOT] = page
        self.ctx[5] = major
        n = self.policy.decide(self.prepared.params, self.prepared.state, self.ctx, self.out)
        pages = [NAMED_SLOT - p if p < 0 else p for p in self.out[:n].tolist()]
        new = {p for p in pages if p not in self.cached}
        self.cached |= {page, *new}
        return major, new


def test_the_window_rule_matches_its_table():
    table = [[int(swapin_nr_pages(0, 9, hits, 8, prev)) for prev in (0, 1, 2, 4, 8)] for hits in range(5)]
    adjacent = [int(swapin_nr_pages(8, 9, 0, 8, prev)) for prev in (0, 1, 2, 4, 8)]
    assert table == [[1, 1, 1, 2, 4], [4] * 5, [4] * 5, [8] * 5, [8] * 5]
    assert adjacent == [2, 2, 2, 2, 4]


# name: (pages, what each major fault reads besides its page; None = a hit)
VMA_GOLDEN = {
    "forward": (
        range(4112, 4133),
        {
            4112: {*range(4109, 4112), *range(4113, 4117)},
            4117: {*range(4118, 4125)},
            4125: {*range(4126, 4133)},
        },
    ),
    "backward": (
        range(4400, 4380, -1),
        {
            4400: {*range(4397, 4400), *range(4401, 4405)},
            4396: {*range(4389, 4396)},
            4388: {*range(4381, 4388)},
        },
    ),
    "stride 3": (
        range(5000, 5019, 3),
        {
            5000: {*range(4997, 5000), *range(5001, 5005)},
            5006: {5005, 5007, 5008},
            5009: {5010},
            5012: set(),
            5015: set(),
            5018: set(),
        },
    ),
    "far random": (
        [7000, 9100, 12000, 15000, 18100],
        {
            7000: {*range(6997, 7000), *range(7001, 7005)},
            9100: {9099, 9101, 9102},
            12000: {12001},
            15000: set(),
            18100: set(),
        },
    ),
    "PMD clamp": ([510, 511, 512], {510: {507, 508, 509, 511}, 512: {513, 514, 515}}),
}


@pytest.mark.parametrize("case", VMA_GOLDEN)
def test_linux_vma(case):
    pages, expected = VMA_GOLDEN[case]
    asker = Asker("linux-vma")
    found = {page: read for page in pages for major, read in [asker.fault(page)] if major}
    assert found == expected


def test_linux_vma_stays_inside_its_vma():
    asker = Asker("linux-vma", vma=(1000, 1003))
    assert asker.fault(1001) == (True, {1000, 1002})


def test_linux_cluster_reads_aligned_slots():
    asker = Asker("linux-cluster")
    expected = {
        13: {*range(8, 16)} - {13},
        100: {101, 102, 103},
        205: set(),
        3: set(),
        900: set(),
    }
    found = {}
    for offset in (13, 100, 101, 205, 3, 900):
        asker.cached.discard(offset)  # every one a miss, as in the golden case
        major, read = asker.fault(offset)
        assert major
        found[offset] = read
    assert {k: v for k, v in found.items() if k != 101} == expected
    assert found[101] == set()  # its pair, 100, is there already


def test_linux_cluster_never_reads_the_header_slot():
    asker = Asker("linux-cluster")
    assert asker.fault(5) == (True, {1, 2, 3, 4, 6, 7})


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


def test_leap_runs_ahead_of_a_stride():
    asker = Asker("leap-paper")
    majors = [page for page in range(1000, 1600, 7) if asker.fault(page)[0]]
    # 16 deltas until the trend is found, then windows of 1, 2, 4, 8 pages.
    assert len(majors) < 30
    assert asker.fault(majors[-1] + 7 * 200)[0]


def test_leap_without_a_trend_and_without_hits_reads_nothing():
    asker = Asker("leap-paper")
    rng = np.random.default_rng(3)
    assert all(asker.fault(int(page))[1] == set() for page in rng.integers(0, 2**30, 64))


def test_oracle_knows_every_next_fault():
    from kdtool.replay import replay, run_shadow

    rng = np.random.default_rng(0)
    w, device = workload([*range(300), *rng.permutation(300)]), ssd()
    result = replay(w, load_policy("oracle"), run_shadow(w, 100, device, "lru"), device)
    assert result.accuracy == 1.0
    assert result.coverage > 0.98
