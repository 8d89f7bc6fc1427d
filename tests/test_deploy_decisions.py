"""Decisions that come from the kernel, by hand: a made-up ring of them, and which source a run takes."""

import numpy as np
import pytest
from test_deploy import MS, Bench, counts

from kdtool.deploy import bpfsource
from kdtool.deploy import layout as at
from kdtool.deploy.bpfsource import choose_source
from kdtool.deploy.loop import NEW_PROCESS, STOPPED
from kdtool.errors import CapabilityError, ParameterError
from kdtool.live.policies import of_policy, of_program
from kdtool.rmt import stride_program

DEGREE = 4
RECORD = 128  # 7 words and DEGREE pages


class FakeDecisions:
    """A ring of 4 KiB in our own memory, as the kernel writes it."""

    SIZE = 4096

    def __init__(self):
        self.positions = np.zeros(2, np.int64)  # consumer, producer
        self.data = np.zeros(self.SIZE // 8, np.int64)
        self.row = np.zeros(at.RING_WORDS, np.int64)
        first = self.positions.ctypes.data
        names = [at.CONTROL_AT, at.HEAD_AT, at.DATA_AT, at.MASK, at.RECORD_BYTES, at.NEXT_NS]
        self.row[names] = first, first + 8, self.data.ctypes.data, self.SIZE - 1, RECORD, (1 << 63) - 1

    def put(self, t_ns, pid, vpn, pages, *, major=True, tid=None, ip=0x400):
        record = [t_ns, pid << 32 | (tid or pid), vpn << 1 | major, ip, 1, 1, len(pages), *pages]
        start = int(self.positions[1])
        assert start + RECORD - int(self.positions[0]) <= self.SIZE, "full"
        place = start % self.SIZE // 8
        self.data[place : place + len(record)] = record
        self.positions[1] = start + RECORD


@pytest.fixture
def bench():
    made = Bench(stride_program())
    made.kernel = FakeDecisions()
    made.decisions_row = made.kernel.row
    return made


def test_what_the_kernel_decided_is_acted_on_as_what_is_decided_here(bench):
    bench.adopt(500)
    pages = [bench.first + 9, bench.first + 12]
    bench.kernel.put(1000, 500, bench.first, [], tid=501, ip=0x777)
    bench.kernel.put(1001, 500, bench.first + 6, pages)
    bench.kernel.put(1002, 500, bench.first + 9, [bench.first + 12, 3], major=False)
    assert bench.run() == STOPPED

    contexts, decided = bench.decisions()
    assert contexts[0] == {
        "vpn": bench.first, "pid": 500, "tid": 501, "ip": 0x777, "region": bench.first >> 13, "major": 1,
    }  # fmt: skip
    assert [c["major"] for c in contexts] == [1, 1, 0]
    assert decided == [[], pages, [bench.first + 12, 3]]
    names = ("SAMPLES", "MAJOR", "FIRST_TOUCHES", "EVENTS", "DECISIONS", "DECIDED", "UNMAPPED")
    assert counts(bench.arrays, *names) == [3, 2, 1, 3, 2, 4, 1]


def test_decisions_are_read_around_the_ring_and_given_back(bench):
    bench.adopt(500)
    for lap in range(8):
        for i in range(30):  # of 32
            bench.kernel.put(1000 + i, 500, bench.first + i, [bench.first + lap])
        assert bench.run() == STOPPED
        consumer, producer = bench.kernel.positions.tolist()
        assert producer == consumer == 30 * RECORD * (lap + 1)
    contexts, decided = bench.decisions()
    assert [c["vpn"] - bench.first for c in contexts] == [*range(30)] * 8
    assert decided == [[bench.first + lap] for lap in range(8) for _ in range(30)]


def test_decisions_and_changes_of_mappings_come_in_order_of_time(bench):
    bench.adopt(500)
    bench.arrays.processes[0, at.READ_NS] = 100 * MS
    bench.kernel.put(140 * MS, 500, 5, [])  # outside, but they were read 40 ms ago
    bench.ring.side(10, 141 * MS, 500, 0, 0, 0, 0, 0, 0, 0)
    bench.kernel.put(139 * MS + 3 * MS, 500, 5, [])  # now known to have changed
    bench.run()
    assert counts(bench.arrays, "OUTSIDE") == [1]
    assert bench.arrays.processes[0, at.STALE] == 2


def test_a_decision_for_a_new_process_waits_for_it_and_is_no_loss_when_nobody_takes_it(bench):
    bench.kernel.put(1000, 500, bench.first, [bench.first + 3])
    assert bench.run() == NEW_PROCESS
    bench.adopt(500)
    assert bench.run() == STOPPED
    assert counts(bench.arrays, "SAMPLES", "MAJOR", "DECISIONS") == [1, 1, 1]
    bench.kernel.put(1001, 501, bench.first, [bench.first + 3])
    assert bench.run() == NEW_PROCESS
    assert bench.run() == STOPPED
    assert counts(bench.arrays, "STRANGERS", "DECISIONS") == [1, 1]


def test_a_page_that_the_kernel_predicted_and_we_asked_for_is_used_or_evicted(bench):
    bench.adopt(500)
    pages, key = bench.arrays.of_pages(), 1 << at.VPN_BITS | bench.first
    from kdtool.deploy.pages import follow

    follow(pages, key + 3, True, 1000)
    follow(pages, key + 6, True, 1000)
    bench.kernel.put(2000, 500, bench.first + 3, [], major=False)
    bench.kernel.put(1000 + 20 * MS, 500, bench.first + 6, [])
    assert bench.run() == STOPPED
    assert counts(bench.arrays, "USED", "EVICTED") == [1, 1]


class Fake:
    """A source that can be made, or is refused."""

    def __init__(self, refusal=None):
        self.refusal = refusal

    def __call__(self, cgroup, decider):
        if self.refusal:
            raise CapabilityError(self.refusal)
        return self


@pytest.mark.parametrize(
    ("name", "refusal", "is_bpf", "why"),
    [
        ("auto", None, True, "the kernel decides"),
        ("auto", "BPF map: refused", False, "BPF map: refused"),
        ("bpf", None, True, "asked for"),
        ("perf", None, False, "asked for"),
    ],
)
def test_the_kernel_decides_where_it_may_and_it_is_said_where_not(
    monkeypatch, tmp_path, name, refusal, is_bpf, why
):
    kernel, perf = Fake(refusal), Fake()
    monkeypatch.setattr(bpfsource, "BpfSource", kernel)
    monkeypatch.setattr(bpfsource, "PerfSource", perf)
    assert choose_source(tmp_path, of_program(stride_program()), name) == (kernel if is_bpf else perf, why)


def test_a_baseline_is_decided_by_the_agent(monkeypatch, tmp_path):
    perf = Fake()
    monkeypatch.setattr(bpfsource, "PerfSource", perf)
    stride = of_policy("stride")
    assert choose_source(tmp_path, stride, "auto") == (perf, "'stride' is no program for the kernel")
    with pytest.raises(ParameterError, match="policy 'stride' is no program, and only programs run in the"):
        choose_source(tmp_path, stride, "bpf")


def test_a_source_that_was_asked_for_and_is_refused_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(bpfsource, "BpfSource", Fake("BPF map: refused"))
    with pytest.raises(CapabilityError, match="BPF map: refused"):
        choose_source(tmp_path, of_program(stride_program()), "bpf")
