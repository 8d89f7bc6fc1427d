"""One round of measuring: each number of the cost model once, in the units of replay/devices.py.

Rounds are repeated and their medians taken, so that noise of the machine hits all numbers alike; within a
round it is means, for a program waits for the sum of its reads, the slow ones too. A round's
faults and reads are counted: where a touch was no major fault, or the device read more than was asked for,
somebody else swapped, and that part of the round counts as not measured (None).
"""

from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from typing import Self

import numpy as np

from kdtool.calibrate.numbers import MIN_REPEATS
from kdtool.calibrate.plan import LAYOUT
from kdtool.collect.blockreads import Reads, ReadTracer
from kdtool.collect.pageprobe import Pages, Touches, run_instructions
from kdtool.kernel.swap import Disk
from kdtool.rmt.packed import pack
from kdtool.rmt.steptime import step_program, time_steps

__all__ = ["Bench", "Round", "come_together", "device_ns", "queue_ns"]

SEED = 1


MATRIX_ROWS, MATRIX_COLUMNS, BLOCK_COLUMNS, TAPS = 1600, 5000, 500, 5
CACHED_ROWS = 24
CACHED_TIMES = 80
"""So often is the cached block filtered for each time that the large one is: as many instructions."""
DECISIONS = 1000
FRESH_EVERY = 8
"""Rounds from one that writes new pages to the next, once there were MIN_REPEATS: a virtual disk was busy
with what was written for long after, and the faults of the round behind took 90 µs where others took 69."""


@dataclass(frozen=True)
class Round:
    """What one round found; None where others came between, and of `cold_ns` and `reclaim_ns` in most rounds.

    major_faults, sleeps : how many there were, and in how many of them the thread slept
    batched : 1 where of reads that were submitted together the first ended in the later half of their time
    """

    latency_ns: int | None
    fault_ns: int | None
    major_faults: int
    sleeps: int
    service_ns: int | None
    transfer_ns: int | None
    merged_pages: int | None
    batched: int | None
    minor_ns: int | None
    cold_ns: int | None
    batch_ns: int
    range_ns: int
    reclaim_ns: int | None
    step_ps: int
    insn_ps: int


class Bench:
    """All that is measured with, set up: pages in swap, the disk's tracepoints, a matrix, a program.

    Raises CapabilityError when something is missing.
    """

    def __init__(self, disk: Disk) -> None:
        with ExitStack() as stack:
            self._tracer = stack.enter_context(ReadTracer(disk))
            self._scattered = stack.enter_context(Pages(LAYOUT.scattered))
            self._neighbours = stack.enter_context(Pages(LAYOUT.neighbours))
            self._opened = stack.pop_all()
        self._rng = np.random.default_rng(SEED)
        self._program = pack(step_program(SEED))
        self._matrix = np.ones((MATRIX_ROWS, MATRIX_COLUMNS))
        self._sums = np.zeros((MATRIX_ROWS - TAPS + 1, BLOCK_COLUMNS))
        self._rounds = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def prepare(self) -> None:
        """Bring the pages into swap: in the order of their addresses, and in random order.

        The kernel hands slots out in the order in which pages are reclaimed, and a page that is only read
        keeps its slot: neighbours stay neighbours on the device and the others stay scattered.
        """
        for pages in (self._scattered, self._neighbours):
            pages.first_touch()
            pages.fill(SEED)
        self._scattered.page_out(self._rng.permutation(LAYOUT.scattered), 1)
        self._neighbours.page_out_all()
        time_steps(self._program, 1, SEED)  # compiles, or reads what was compiled

    def run(self) -> Round:
        """Measure everything once."""
        self._rounds += 1
        latency, fault, major, sleeps = self._faults()
        service, _, minor = self._burst(self._scattered, LAYOUT.burst, latency)
        transfer, merged, _ = self._burst(self._neighbours, LAYOUT.merged_burst, latency)
        batch, ranges = self._batches()
        cold, reclaim = self._fresh()
        return Round(
            latency, fault, major, sleeps, service, transfer, merged, self._window(), minor, cold, batch,
            ranges, reclaim, self._step(), self._instruction(),
        )  # fmt: skip

    def _faults(self) -> tuple[int | None, int | None, int, int]:
        """Touch pages one at a time at random, with the device's reads recorded.

        Returns the device's time, the whole fault's of the same touches, since the disk is not as fast at all
        times, the faults that were major, and how often we slept.
        """
        self._scattered.swap_out()
        chosen = self._rng.choice(LAYOUT.scattered, LAYOUT.touches, replace=False)
        with self._tracer.record() as recorded:
            touched = self._scattered.time_touches(chosen)
        times = device_ns(touched, recorded[0])
        latency, fault = times if times is not None else (None, None)
        return latency, fault, touched.spent.major_faults, touched.spent.sleeps

    def _burst(
        self, pages: Pages, n: int, latency_ns: int | None
    ) -> tuple[int | None, int | None, int | None]:
        """Read `n` pages ahead in one call, then touch them.

        Returns the device's time a page behind the first, pages a read, and the time of a touch.
        """
        pages.swap_out()
        first = int(self._rng.integers(pages.n - n + 1))
        with self._tracer.record() as recorded:
            pages.read_ahead([first], n)
            pages.wait_for(first, n)
        touched = pages.touch(np.arange(first, first + n))
        minor = touched.cpu_ns // n if not touched.major_faults else None
        gap = None if latency_ns is None else queue_ns(recorded[0], n, latency_ns)
        return gap, n // max(len(recorded[0].pages), 1), minor

    def _window(self) -> int | None:
        """Return whether the reads of windows, each window read by one call, come together."""
        self._scattered.swap_out()
        n, windows = LAYOUT.window, LAYOUT.batches
        places = self._rng.permutation(LAYOUT.scattered // n)[:windows] * n
        with self._tracer.record() as recorded:
            for place in places.tolist():
                self._scattered.read_ahead([place], n)
                self._scattered.wait_for(place, n)
        return come_together(recorded[0], n, windows)

    def _batches(self) -> tuple[int, int]:
        """Return the thread's time for a page that one call reads ahead more than another, and what it takes
        beyond that where each page is a range of its own, which is submitted by itself."""
        self._scattered.swap_out()
        n = LAYOUT.batch
        places = self._rng.permutation(LAYOUT.scattered // n)[: (2 + n) * LAYOUT.batches] * n
        one = many = apart = 0
        for single, several, *ranges in places.reshape(-1, 2 + n).tolist():
            one += self._scattered.read_ahead([single], 1).cpu_ns
            self._scattered.wait_for(single, 1)
            many += self._scattered.read_ahead([several], n).cpu_ns
            self._scattered.wait_for(several, n)
            apart += self._scattered.read_ahead(ranges, 1).cpu_ns
            for each in ranges:
                self._scattered.wait_for(each, 1)
        further = LAYOUT.batches * (n - 1)
        return (many - one) // further, (apart - many) // further

    def _fresh(self) -> tuple[int | None, int | None]:
        """Return the time of the first touch of a new page, and that of reclaiming one that is written.

        They are written first, and the disk is busy with that for a while: most rounds do without.
        """
        if self._rounds > MIN_REPEATS and self._rounds % FRESH_EVERY:
            return None, None
        with Pages(LAYOUT.fresh) as pages:
            cold = pages.first_touch()
            pages.fill(self._rounds)
            pages.swap_out()  # all written
            pages.touch(np.arange(LAYOUT.fresh))
            reclaim = pages.page_out_all()
            pages.swap_out()  # so that nothing is in flight when the next part begins
        return cold.cpu_ns // LAYOUT.fresh, reclaim.cpu_ns // LAYOUT.fresh

    def _step(self) -> int:
        steps, cpu_ns = time_steps(self._program, DECISIONS, self._rounds)
        return cpu_ns * 1000 // steps

    def _instruction(self) -> int:
        """Return the time of an instruction, half of them on more memory than caches hold, half on little."""
        block = self._rounds % (MATRIX_COLUMNS // BLOCK_COLUMNS) * BLOCK_COLUMNS
        columns = self._matrix[:, block : block + BLOCK_COLUMNS]
        large, took = run_instructions(columns, self._sums, TAPS, 1)
        small, took_small = run_instructions(columns[:CACHED_ROWS], self._sums, TAPS, CACHED_TIMES)
        return (took.cpu_ns + took_small.cpu_ns) * 1000 // (large + small)


def device_ns(touches: Touches, reads: Reads) -> tuple[int, int] | None:
    """Return the mean time of reads that a touch had to itself, one of one page, and of these touches.

    None if that is less than half of the touches: others read then, or not all touches were major faults.
    """
    times = []
    for begin_ns, end_ns in zip(touches.begin_ns.tolist(), touches.end_ns.tolist(), strict=True):
        inside = reads.within(begin_ns, end_ns)
        if inside.pages.tolist() == [1]:
            times.append((int(inside.complete_ns[0] - inside.issue_ns[0]), end_ns - begin_ns))
    if 2 * len(times) < len(touches.begin_ns):
        return None
    read, touch = (int(mean(each)) for each in zip(*times, strict=True))
    return read, touch


def come_together(reads: Reads, n: int, windows: int) -> int | None:
    """Return 1 if most windows of `n` reads have the first end in the later half of their time, else 0.

    None if these are not the windows' reads alone, each of one page.
    """
    if reads.pages.tolist() != [1] * (n * windows):
        return None
    issue, complete = reads.issue_ns.reshape(windows, n).min(1), reads.complete_ns.reshape(windows, n)
    late = 2 * (complete.min(1) - issue) > complete.max(1) - issue
    return int(2 * int(late.sum()) > windows)


def queue_ns(reads: Reads, n: int, latency_ns: int) -> int | None:
    """Return the time between the ends of queued reads, a page: what lies beyond the first one's latency.

    The inverse of replay's submit_io() (replay/blockqueue.py) for `n` pages asked for at once. None if other
    pages than these were read, or less.
    """
    if int(reads.pages.sum()) != n:
        return None
    return int(reads.complete_ns.max() - reads.issue_ns.min() - latency_ns) // (n - 1)
