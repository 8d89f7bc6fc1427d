"""The agent by hand: pages and what becomes of them, faults from a made-up ring, what the kernel is asked."""

import mmap
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from kdtool.deploy import agent
from kdtool.deploy import layout as at
from kdtool.deploy.agent import Placement
from kdtool.deploy.events import act
from kdtool.deploy.issue import _is_allowed, issue, turn_around
from kdtool.deploy.layout import new_arrays
from kdtool.deploy.loop import LEFT, NEW_PROCESS, STALE_MAPPINGS, STOPPED, UNSEEN, run
from kdtool.deploy.pages import follow, note_major, note_minor, place, place_of, state_of, want
from kdtool.deploy.processes import Processes
from kdtool.deploy.source import no_decisions
from kdtool.errors import CapabilityError
from kdtool.kernel import advise
from kdtool.kernel.cgroup import find_layout
from kdtool.live.policies import of_policy
from kdtool.replay import Flush
from kdtool.replay.agent import LEAD_NS, leave_to_agent, new_agent, read_decisions
from kdtool.replay.memory import PREDICTED, SWAPPED, new_memory
from kdtool.rmt import CONTEXT_FIELDS, Vm, pack, stride_program
from kdtool.rmt.agentrules import QUEUE_PAGES, keep_pace
from kdtool.rmt.numba_vm import decide
from kdtool.rmt.predictions import page_tag
from kdtool.rmt.vm import hash_key

MS = 1_000_000
NEVER = 1 << 62


def counts(arrays, *names):
    return [int(arrays.counters[getattr(at, name)]) for name in names]


# ------------------------------------------------------------------------------------------- pages


@pytest.fixture
def arrays():
    return new_arrays(len(CONTEXT_FIELDS))


def ask(arrays, key, now_ns):
    """Do to a wanted page what `issue` does when the kernel has it in swap."""
    follow(arrays.of_pages(), key, True, now_ns)


def test_a_page_is_wanted_once_asked_for_and_used(arrays):
    pages = arrays.of_pages()
    want(pages, 7, 1 * MS, NEVER)
    want(pages, 7, 2 * MS, NEVER)
    assert state_of(pages, 7) == at.QUEUED
    assert counts(arrays, "KNOWN", "DROPPED") == [1, 0]
    ask(arrays, 7, 3 * MS)
    want(pages, 7, 4 * MS, NEVER)
    assert counts(arrays, "KNOWN") == [2]

    assert note_minor(pages, 7)
    assert not note_minor(pages, 7)  # mapped now: whatever comes is another page's matter
    assert counts(arrays, "USED") == [1]
    assert state_of(pages, 7) == at.FREE


def test_a_major_fault_tells_an_evicted_page_from_one_that_faulted_first(arrays):
    pages = arrays.of_pages()
    for key in (1, 2, 3):
        ask(arrays, key, 100 * MS)
    note_major(pages, 1, 99 * MS)  # ended before we asked
    note_major(pages, 2, 104 * MS)  # the fault took 4 ms at most: it had begun
    note_major(pages, 3, 106 * MS)
    note_major(pages, 4, 106 * MS)  # never asked for
    assert counts(arrays, "OVERTAKEN", "EVICTED") == [2, 1]


def test_a_page_that_was_mapped_is_looked_at_again_after_20_ms(arrays):
    pages = arrays.of_pages()
    follow(pages, 5, False, 100 * MS)
    want(pages, 5, 119 * MS, NEVER)
    assert state_of(pages, 5) == at.LOOKED_AT
    want(pages, 5, 120 * MS, NEVER)
    assert state_of(pages, 5) == at.QUEUED
    assert not note_minor(pages, 5)  # touched while it waited: no prefetch of ours
    assert counts(arrays, "USED") == [0]


def test_a_page_that_was_asked_for_and_not_touched_is_asked_for_again_after_20_ms(arrays):
    pages = arrays.of_pages()
    ask(arrays, 6, 100 * MS)
    want(pages, 6, 119 * MS, NEVER)
    assert (state_of(pages, 6), counts(arrays, "KNOWN", "EXPIRED")) == (at.ASKED, [1, 0])
    want(pages, 6, 120 * MS, NEVER)
    assert (state_of(pages, 6), counts(arrays, "KNOWN", "EXPIRED")) == (at.QUEUED, [1, 1])
    want(pages, 6, 141 * MS, NEVER)  # what waits is known
    assert counts(arrays, "KNOWN", "EXPIRED") == [2, 1]
    ask(arrays, 6, 142 * MS)
    assert note_minor(pages, 6)
    assert counts(arrays, "USED", "EXPIRED", "EVICTED") == [1, 1, 0]


def test_the_oldest_page_expires_when_more_are_asked_for_than_are_followed(arrays):
    arrays.settings[at.ASKED_PAGES] = 3
    pages = arrays.of_pages()
    for key in (1, 2, 3):
        ask(arrays, key, key * MS)
    assert note_minor(pages, 1)
    ask(arrays, 4, 4 * MS)  # 1 makes room, used as it was
    assert counts(arrays, "EXPIRED") == [0]
    ask(arrays, 5, 5 * MS)  # 2 was never touched
    assert counts(arrays, "EXPIRED", "USED") == [1, 1]
    assert [state_of(pages, key) for key in (2, 3, 4, 5)] == [at.FREE, at.ASKED, at.ASKED, at.ASKED]


def test_a_full_queue_drops(arrays):
    pages = arrays.of_pages()
    for key in range(QUEUE_PAGES + 5):
        want(pages, key, MS, NEVER)
    assert counts(arrays, "DROPPED") == [5]
    assert arrays.scratch[at.QUEUE_COUNT] == QUEUE_PAGES


def test_a_page_more_than_a_set_holds_takes_the_place_of_the_oldest(arrays):
    pages = arrays.of_pages()
    of_set = [key for key in range(1_000_000) if place(arrays.keys, key) == -1][: at.WAYS + 1]
    for i, key in enumerate(of_set):
        ask(arrays, key, MS + i)
    assert state_of(pages, of_set[0]) == at.FREE
    assert all(state_of(pages, each) == at.ASKED for each in of_set[1:])


# ------------------------------------------------------------------- faults, decisions, the kernel


class FakeRing:
    """A perf ring of 8 KiB in our own memory."""

    SIZE = 8192
    MAJOR, MINOR = 11, 12

    def __init__(self):
        self.control = np.zeros(512, np.int64)
        self.data = np.zeros(self.SIZE // 8, np.int64)
        row = np.zeros((1, at.RING_WORDS), np.int64)
        row[0, [at.CONTROL_AT, at.DATA_AT, at.MASK, at.MAJOR_ID, at.NEXT_NS]] = (
            self.control.ctypes.data, self.data.ctypes.data, self.SIZE - 1, self.MAJOR, (1 << 63) - 1,
        )  # fmt: skip
        self.rows = row

    def put(self, kind, misc, *body):
        words = [kind | misc << 32 | (8 * (1 + len(body))) << 48, *body]
        head = int(self.control[128])
        assert head + 8 * len(words) - int(self.control[129]) <= self.SIZE, "full"
        for i, word in enumerate(words):
            self.data[(head // 8 + i) % len(self.data)] = word
        self.control[128] = head + 8 * len(words)

    def fault(self, t_ns, pid, vpn, *, major, ip=0x400, tid=None):
        event = self.MAJOR if major else self.MINOR
        self.put(9, 0, event, ip, pid | (tid or pid) << 32, t_ns, vpn << 12 | 0x123, 0)

    def side(self, kind, t_ns, pid, *body, misc=0):
        self.put(kind, misc, pid | pid << 32, *body, pid | pid << 32, t_ns, 0, 1)


class Bench:
    """The loop over a fake ring, for `program`, with a mapping of this very process."""

    def __init__(self, program, n_pages=64):
        self.memory = mmap.mmap(-1, n_pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.first = np.frombuffer(self.memory, np.uint8).ctypes.data >> 12
        self.n_pages = n_pages
        self.arrays = new_arrays(len(CONTEXT_FIELDS), log_events=1000)
        self.arrays.settings[at.BATCH_PAGES] = 1
        packed = pack(program)
        self.policy = (packed.params, packed.new_state(), np.zeros(128, np.int64))
        self.ring, self.decisions_row = FakeRing(), no_decisions()

    def adopt(self, pid, row=0, serial=1):
        pidfd, pagemap = os.pidfd_open(os.getpid()), advise.open_pagemap(os.getpid())
        self.arrays.processes[row] = (pid, serial, pidfd, pagemap, 1, 0, 0)
        self.arrays.mappings[row, 0] = self.first, self.first + self.n_pages, at.OURS

    def run(self):
        """Run until the loop comes back; what it waits for, when nothing is left, is told to stop."""
        fds = os.pipe()
        pollfds = np.array([fds[0] | 1 << 32], np.int64)  # readable: poll returns at once
        os.write(fds[1], b"x")
        self.arrays.settings[[at.POLL_AT, at.POLL_FDS]] = pollfds.ctypes.data, 1
        try:
            import threading

            timer = threading.Timer(0.2, lambda: self.arrays.settings.__setitem__(at.STOP, 1))
            timer.start()
            work = self.arrays.of_pages(), self.arrays.whole(), self.policy
            reason = run(decide, self.ring.rows, self.decisions_row, *work)
            timer.cancel()
            self.arrays.settings[at.STOP] = 0
            return reason
        finally:
            for fd in fds:
                os.close(fd)

    def decisions(self):
        n = int(self.arrays.scratch[at.LOGGED])
        log, out = self.arrays.log[:n], self.arrays.log_out[:n]
        contexts = [dict(zip(CONTEXT_FIELDS, map(int, row), strict=True)) for row in log]
        return contexts, [out[i, 1 : 1 + out[i, 0]].tolist() for i in range(n)]


def test_faults_become_the_events_and_decisions_of_the_reference_vm():
    bench = Bench(stride_program())
    bench.adopt(500)
    first = bench.first
    for i, page in enumerate((0, 3, 6, 9, 1, 4, 7)):
        bench.ring.fault(1000 + i, 500, first + page, major=True, ip=0x400 + i, tid=501)
    bench.ring.fault(1010, 500, first + 40, major=False)  # a page that nobody asked for
    assert bench.run() == STOPPED

    contexts, decided = bench.decisions()
    assert [c["vpn"] - first for c in contexts] == [0, 3, 6, 9, 1, 4, 7]
    assert contexts[0] == {
        "vpn": first, "pid": 500, "tid": 501, "ip": 0x400, "region": first >> 13, "major": 1,
    }  # fmt: skip
    vm = Vm(stride_program())
    assert decided == [vm.decide(context) for context in contexts]
    assert decided[2] == [first + 9, first + 12, first + 15, first + 18]
    names = ("SAMPLES", "MAJOR", "FIRST_TOUCHES", "OTHER_MINOR", "STRANGERS", "OUTSIDE", "EVENTS")
    assert counts(bench.arrays, *names) == [8, 7, 0, 1, 0, 0, 7]
    # These pages were never touched: the kernel was not even asked.
    assert counts(bench.arrays, "ISSUED", "CALLS") == [0, 0]
    names = (
        "UNMAPPED",
        "KNOWN",
        "DROPPED",
        "LIMITED",
        "NOT_SWAPPED",
        "FORGOTTEN",
        "LATE",
        "REFUSED",
        "ISSUED",
    )
    assert sum(counts(bench.arrays, *names)) == counts(bench.arrays, "DECIDED")[0] > 0


def test_records_that_wrap_around_the_ring_are_read_whole():
    bench = Bench(stride_program())
    bench.adopt(500)
    for _ in range(4):
        for i in range(100):  # 5,600 of 8,192 bytes
            bench.ring.fault(1000 + i, 500, bench.first + i % 64, major=True)
        assert bench.run() == STOPPED
    assert counts(bench.arrays, "MAJOR") == [400]
    contexts, decided = bench.decisions()
    vm = Vm(stride_program())
    assert decided == [vm.decide(context) for context in contexts]
    assert [c["vpn"] - bench.first for c in contexts] == [i % 64 for i in range(100)] * 4


def test_the_first_touch_of_a_page_that_was_asked_for_is_an_event():
    bench = Bench(stride_program())
    bench.adopt(500)
    for i, page in enumerate((0, 3, 6)):  # and then 9, 12, 15, 18
        bench.ring.fault(1000 + i, 500, bench.first + page, major=True)
    assert bench.run() == STOPPED
    follow(bench.arrays.of_pages(), 1 << at.VPN_BITS | bench.first + 9, True, 1100)
    for t_ns, page in ((1200, 9), (1201, 9), (1202, 10)):
        bench.ring.fault(t_ns, 500, bench.first + page, major=False)
    assert bench.run() == STOPPED
    contexts, _ = bench.decisions()
    assert [(c["vpn"] - bench.first, c["major"]) for c in contexts[3:]] == [(9, 0)]
    assert counts(bench.arrays, "FIRST_TOUCHES", "USED", "OTHER_MINOR") == [1, 1, 2]


def test_a_predicted_page_is_known_by_the_hash_that_the_kernel_uses():
    for pid, vpn in ((1, 2), (4_194_303, (1 << 52) - 1), (77, 0)):
        assert int(page_tag(pid, vpn)) % 2**64 == (hash_key([pid]) + vpn) % 2**64


def test_pages_outside_the_mappings_are_not_asked_for():
    bench = Bench(stride_program(), n_pages=10)
    bench.adopt(500)
    soon_ns = time.monotonic_ns() + 60_000 * MS  # events of the past are due already
    soon_ns = time.monotonic_ns() + 60_000 * MS  # events of the past are due already
    for i, page in enumerate((0, 3, 6)):  # and then 9, 12, 15, 18
        bench.ring.fault(soon_ns + i, 500, bench.first + page, major=True)
    bench.run()
    assert counts(bench.arrays, "DECIDED", "UNMAPPED", "NOT_SWAPPED") == [4, 3, 1]


@pytest.mark.parametrize(
    ("vpn", "place"),
    [(9, 0), (10, 2), (19, 2), (20, 1), (24, 1), (25, 0), (29, 0), (30, 2), (34, 2), (35, 0)],
)
def test_mappings_are_half_open_ranges_of_a_kind(arrays, vpn, place):
    arrays.processes[0, at.N_MAPPINGS] = 3
    arrays.mappings[0, :3] = (10, 20, at.OURS), (20, 25, at.OTHERS), (30, 35, at.OURS)
    assert place_of(arrays.processes, arrays.mappings, 0, vpn) == place
    assert (at.NOT_MAPPED, at.OTHERS, at.OURS) == (0, 1, 2)


def test_the_loop_comes_back_for_a_new_process_and_counts_one_that_is_refused():
    bench = Bench(stride_program())
    bench.ring.fault(1000, 500, bench.first, major=True)
    assert bench.run() == NEW_PROCESS
    assert bench.arrays.scratch[at.WANTED_PID] == 500
    assert bench.run() == STOPPED  # nobody took it in
    assert counts(bench.arrays, "SAMPLES", "STRANGERS") == [1, 1]

    bench.ring.fault(1001, 501, bench.first, major=True)
    assert bench.run() == NEW_PROCESS
    bench.adopt(501)
    assert bench.run() == STOPPED
    assert counts(bench.arrays, "SAMPLES", "MAJOR") == [2, 1]


def test_the_loop_comes_back_when_mappings_may_have_changed():
    bench = Bench(stride_program())
    bench.adopt(500)
    bench.arrays.processes[0, at.READ_NS] = 100 * MS
    # Outside, but they were read 40 ms ago: a file's page. With a new mapping they are read again.
    bench.ring.fault(140 * MS, 500, 5, major=True)
    bench.ring.side(10, 141 * MS, 500, 0, 0, 0, 0, 0, 0, 0)
    bench.ring.fault(142 * MS, 500, 5, major=True)
    assert bench.run() == STALE_MAPPINGS
    assert counts(bench.arrays, "OUTSIDE") == [1]
    assert bench.arrays.processes[0, at.STALE] == 2


def test_a_fault_on_another_kind_of_mapping_is_no_sign_of_a_change():
    def reason_at(t_ns, vpn):
        bench = Bench(stride_program())
        bench.adopt(500)
        bench.arrays.processes[0, at.N_MAPPINGS] = 2
        bench.arrays.mappings[0, :2] = (1000, 1010, at.OTHERS), (bench.first, bench.first + 64, at.OURS)
        bench.arrays.processes[0, at.READ_NS] = 100 * MS
        bench.ring.fault(t_ns, 500, vpn, major=True)
        reason = bench.run()
        assert counts(bench.arrays, "OUTSIDE") == [int(reason == STOPPED)]
        return reason

    assert [reason_at(151 * MS, vpn) for vpn in (999, 1000, 1009, 1010)] == [
        STALE_MAPPINGS, STOPPED, STOPPED, STALE_MAPPINGS,
    ]  # fmt: skip
    assert reason_at(2101 * MS, 1005) == STALE_MAPPINGS  # but not for ever


def test_a_process_that_ends_or_execs_is_let_go_and_a_thread_is_not():
    bench = Bench(stride_program())
    bench.adopt(500)
    bench.ring.put(4, 0, 500 | 1 << 32, 777 | 1 << 32, 500 | 500 << 32, 1000, 0, 1)  # thread 777 exits
    bench.ring.side(3, 1001, 500, 0, 0)  # a new name only
    assert bench.run() == STOPPED
    bench.ring.side(3, 1002, 500, 0, 0, misc=1 << 13)  # exec
    assert bench.run() == LEFT
    bench.ring.put(4, 0, 500 | 1 << 32, 500 | 1 << 32, 500 | 500 << 32, 1003, 0, 1)
    assert bench.run() == LEFT


def test_lost_records_are_counted_and_who_lives_is_looked_at_again():
    bench = Bench(stride_program())
    bench.ring.put(2, 0, 1, 41, 500 | 500 << 32, 1000, 0, 1)
    assert bench.run() == UNSEEN  # the end of a process may be among them
    assert counts(bench.arrays, "LOST") == [41]
    assert bench.run() == STOPPED


def test_the_rate_limits_what_is_asked_for_and_a_dead_process_gets_nothing(arrays):
    pages, work = arrays.of_pages(), arrays.whole()
    want(pages, 3 << at.VPN_BITS | 5, MS, NEVER)  # no process has serial 3
    issue(pages, work[0], work[2], work[3])
    assert counts(arrays, "FORGOTTEN", "CALLS") == [1, 0]
    assert arrays.scratch[at.QUEUE_COUNT] == 0


@pytest.mark.parametrize("rate", [1, 2, 50, 99, 150, 199, 1000])
def test_in_no_second_are_more_pages_asked_for_than_the_rate(arrays, rate):
    arrays.settings[at.RATE_PAGES] = rate
    pages, s = arrays.of_pages(), 1000 * MS
    times_ns = np.arange(50 * s, 54 * s, 200_000)
    times_ns = times_ns[(times_ns < 51.5 * s) | (times_ns > 52.3 * s)]  # and a pause, for which none are owed
    asked_ns = times_ns[[_is_allowed(pages, now_ns) for now_ns in times_ns]]
    in_a_second = np.searchsorted(asked_ns, asked_ns + s) - np.arange(len(asked_ns))
    assert 0.96 * rate <= in_a_second.max() <= rate
    assert len(asked_ns) >= 0.96 * 3 * rate


def test_a_hundredth_of_a_seconds_pages_may_come_at_once(arrays):
    arrays.settings[at.RATE_PAGES] = 400_000
    pages, now_ns = arrays.of_pages(), 50_000 * MS
    assert sum(_is_allowed(pages, now_ns) for _ in range(5000)) == 4000
    assert sum(_is_allowed(pages, now_ns + 5 * MS) for _ in range(5000)) == 1980


def test_a_page_that_is_due_before_it_could_be_there_is_left_to_its_own_fault(arrays):
    pages, work = arrays.of_pages(), arrays.whole()
    key = 3 << at.VPN_BITS | 5
    work[0][0, at.PID], work[0][0, at.SERIAL], work[0][0, at.PAGEMAP] = 500, 3, -1
    arrays.scratch[at.LEAD_NS] = 1000 * MS
    due_ns = time.monotonic_ns()
    want(pages, key, MS, due_ns + 900 * MS)
    want(pages, key + 1, MS, due_ns + 60_000 * MS)
    issue(pages, work[0], work[2], work[3])
    assert counts(arrays, "LATE", "NOT_SWAPPED", "CALLS") == [1, 1, 0]  # there is no pagemap to look at
    assert state_of(pages, key) == at.FREE  # it may be asked for again
    assert 900 * MS < arrays.scratch[at.LEAD_NS] < 1000 * MS  # or calls that were slow once would end all


def test_pages_left_to_their_own_fault_give_those_behind_them_time():
    bench = Bench(stride_program())
    bench.adopt(500)
    pages, work = bench.arrays.of_pages(), bench.arrays.whole()
    bench.arrays.scratch[at.LEAD_NS] = 250 * MS
    bench.arrays.paces[0] = 0, 1 * MS, 100 * MS  # a hit takes 1 ms, a miss 100
    work[4][[2, 5]] = 0, 1  # thread 0, a major fault
    act(0, 8, bench.first + np.arange(8), time.monotonic_ns(), pages, work)
    assert counts(bench.arrays, "LATE") == [3]  # due after 1, 101 and 201 ms; the next one after 301
    waiting = [state_of(pages, 1 << at.VPN_BITS | bench.first + i) == at.QUEUED for i in range(8)]
    assert waiting == [False] * 3 + [True] * 5


def test_replays_agent_leaves_out_the_same_pages():
    rng, n_late = np.random.default_rng(3), []
    for _ in range(20):
        hit_ns, more_ns, lead = rng.integers(0, [4, 5, 20]).tolist()
        paces = np.array([[0, 100 * MS * hit_ns, 100 * MS * (hit_ns + more_ns)]])
        bench = Bench(stride_program())
        bench.adopt(500)
        pages, work = bench.arrays.of_pages(), bench.arrays.whole()
        bench.arrays.scratch[at.LEAD_NS] = lead_ns = (100 * lead + 50) * MS
        work[4][[2, 5]] = 0, 1  # thread 0, a major fault
        event_ns = time.monotonic_ns()
        paces[0, 0] = event_ns - paces[0, 2]  # it took as long as the others
        bench.arrays.paces[0] = paces[0]

        act(0, 8, bench.first + np.arange(8), event_ns, pages, work)

        agent, memory = new_agent(works=True), new_memory(8, 8, "linux", Flush())
        memory.pages["status"] = SWAPPED
        agent.words[LEAD_NS] = lead_ns
        agent.paces[0] = paces[0]
        leave_to_agent(8, 0, 1, event_ns, np.arange(8), agent.words, agent.unread, agent.paces)
        read_decisions(time.monotonic_ns(), memory.arrays(), agent.words, agent.unread, agent.queue)
        key = 1 << at.VPN_BITS | bench.first
        queued = [state_of(pages, key + i) == at.QUEUED for i in range(8)]
        assert (memory.pages["marks"] & PREDICTED != 0).tolist() == queued
        assert agent.words[LEAD_NS] == bench.arrays.scratch[at.LEAD_NS]
        waiting = bench.arrays.queue[: sum(queued)]
        assert agent.queue[: sum(queued), 1].tolist() == waiting[:, 1].tolist()
        n_late.append(8 - sum(queued))
    assert len(set(n_late)) > 4


def test_a_call_asks_for_what_is_due_last_first():
    ranges = np.array([10, 1, 20, 2, 30, 3, 0, 0])
    turn_around(ranges, 3)
    assert ranges.tolist() == [30, 3, 20, 2, 10, 1, 0, 0]


def test_the_pace_of_a_thread_is_the_mean_time_of_its_hits_and_of_its_misses(arrays):
    for i in range(200):
        first = keep_pace(arrays.paces, 7, i % 2, (1000 + 40 * i - 30 * (i % 2)) * MS // 1000)
        other = keep_pace(arrays.paces, 8, 0, (1000 + 5 * i) * MS // 1000)
    assert first == pytest.approx((70_000, 10_000), rel=0.1)
    assert other == pytest.approx((5_000, 0), rel=0.1)
    assert keep_pace(arrays.paces, 7, 1, 10**15)[1] < 1.2 * first[1]  # a pause is no pace


# ------------------------------------------------------------------------------------------ kernel


def test_advice_on_ourselves_is_taken_and_stops_where_nothing_is_mapped():
    memory = mmap.mmap(-1, 8 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[: 4 * 4096] = b"x" * (4 * 4096)
    first = np.frombuffer(memory, np.uint8).ctypes.data >> 12
    pidfd, pagemap = advise.open_process(os.getpid()), advise.open_pagemap(os.getpid())
    try:
        assert advise.will_need(pidfd, [(first, 2), (first + 5, 3)]) == 5
        assert advise.will_need(pidfd, [(first, 2), (5, 1), (first + 5, 3)]) == 2
        present = advise.read_pagemap(pagemap, first, 8) >> np.uint64(63)
        assert present.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    finally:
        os.close(pidfd)
        os.close(pagemap)


def test_a_process_that_has_ended_is_said_to_have():
    child = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = advise.open_process(child.pid)
    child.wait()
    with pytest.raises(ProcessLookupError):
        advise.will_need(pidfd, [(1, 1)])
    with pytest.raises(ProcessLookupError):
        advise.open_process(child.pid)
    with pytest.raises(ProcessLookupError):
        advise.open_pagemap(child.pid)
    os.close(pidfd)


@pytest.fixture
def processes(arrays):
    """Those of a cgroup that nobody is in."""
    events = find_layout().events
    if events is None:
        pytest.skip("no v2 cgroup hierarchy")
    return Processes(arrays, events.root / "kdtool-nobody")


def test_a_process_outside_the_cgroup_is_not_taken_in(processes, arrays):
    assert not processes.take(os.getpid())
    assert processes.taken == 0
    assert not arrays.processes.any()


def test_who_went_on_unseen_keeps_its_row_and_who_ended_or_began_another_program_does_not(
    processes, arrays, monkeypatch
):
    monkeypatch.setattr(Processes, "_is_member", lambda self, pid: True)
    script = "echo here; read word && exec sleep 100"
    ended, changed = (
        subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in "12"
    )
    for child in (ended, changed):
        child.stdout.readline()
    processes.renew([os.getpid(), ended.pid, changed.pid])
    before = {int(row[at.PID]): int(row[at.SERIAL]) for row in arrays.processes if row[at.PID]}
    assert before.keys() == {os.getpid(), ended.pid, changed.pid}

    ended.kill()
    ended.wait()
    changed.stdin.write(b"go\n")
    changed.stdin.flush()
    deadline = time.monotonic() + 20
    while not os.readlink(f"/proc/{changed.pid}/exe").endswith("sleep") and time.monotonic() < deadline:
        time.sleep(0.01)
    processes.renew([os.getpid(), changed.pid])
    after = {int(row[at.PID]): int(row[at.SERIAL]) for row in arrays.processes if row[at.PID]}
    assert after == {os.getpid(): before[os.getpid()], changed.pid: max(before.values()) + 1}
    stale = {int(row[at.PID]): int(row[at.STALE]) for row in arrays.processes if row[at.PID]}
    assert stale == {os.getpid(): 1, changed.pid: 0}

    processes.close()
    for child in (ended, changed):
        child.kill()
        child.communicate()


class NoSource:
    """Stands in for a source: nothing comes from it until it is told to stop."""

    path = "none"

    def __init__(self):
        self.runs = 0

    def watch(self, on):
        pass

    def sampling(self, on):
        pass

    def run(self, arrays):
        self.runs += 1
        return STOPPED

    def close(self):
        pass


REAL_TIME = Placement(real_time=True)


@pytest.mark.parametrize(
    ("placement", "said"),
    [(Placement(cpu=4096), "on CPU 4096"), (Placement(nice=-5), "nice -5"), (REAL_TIME, "real-time")],
)
def test_a_placement_that_is_refused_fails_before_the_command_may_run(monkeypatch, tmp_path, placement, said):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    source = NoSource()
    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(agent, "choose_source", lambda *_: (source, "for a test"))
    monkeypatch.setattr(agent, "check_advice", lambda: None)
    monkeypatch.setattr(agent, "Processes", lambda *_: SimpleNamespace(renew=list, close=list))
    made = agent.Agent(tmp_path, of_policy("stride"), placement=placement, stall=False)
    with pytest.raises(CapabilityError, match=said):
        made.begin()
    assert source.runs == 0
    made.close()


def test_of_too_many_mappings_those_that_are_asked_for_are_kept(processes, arrays, monkeypatch):
    arrays.processes[0, at.PID] = os.getpid()
    processes.read_mappings(os.getpid())
    n = arrays.processes[0, at.N_MAPPINGS]
    n_ours = int(np.count_nonzero(arrays.mappings[0, :n, 2] == at.OURS))
    assert n - 5 > n_ours > 1
    monkeypatch.setattr("kdtool.deploy.processes.MAX_MAPPINGS", n_ours - 1)
    processes.read_mappings(os.getpid())
    kept = arrays.mappings[0, : arrays.processes[0, at.N_MAPPINGS]]
    assert len(kept) == n_ours - 1
    assert (kept[:, 2] == at.OURS).all()
    assert (np.diff(kept[:, 0]) > 0).all()


def test_missing_rights_are_named(monkeypatch):
    monkeypatch.setattr(advise, "_effective_capabilities", lambda: 1 << 19)
    with pytest.raises(CapabilityError, match="needs CAP_SYS_NICE: run as root"):
        advise.check_advice()


def test_the_clock_of_events_is_pythons(arrays):
    from kdtool.deploy.issue import now

    before = time.monotonic_ns()
    assert before <= now(arrays.scratch) <= time.monotonic_ns()
