"""One round of measuring what reads from swap take: what of the cost model drifts with the disk.

Within a round it is means, for a program waits for the sum of its reads, the slow ones too. A round's
faults and reads are counted: where a touch was no major fault, or the device read more than was asked for,
somebody else swapped, and that part of the round counts as not measured (None).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from typing import Self

import numpy as np

from kdtool.calibrate.plan import LAYOUT, Layout
from kdtool.collect.blockreads import Reads, ReadTracer
from kdtool.collect.pageprobe import Pages, Touches
from kdtool.kernel.swap import Disk

__all__ = [
    "ReadBench",
    "ReadRound",
    "are_synchronous",
    "come_together",
    "device_ns",
    "less",
    "queue_ns",
    "read_samples",
]

SEED = 1


@dataclass(frozen=True, kw_only=True)
class ReadRound:
    """What one round found, in the units of replay/devices.py; None where others came between.

    fault_ns : a whole major fault, the device's latency_ns included
    major_faults, sleeps : how many there were, and in how many of them the thread slept
    merged_pages : pages a read, of neighbours
    batched : 1 where of reads that were submitted together the first ended in the later half of their time
    batch_ns : of a further page in a call that reads ahead
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
    batch_ns: int
    range_ns: int


class ReadBench:
    """Pages in swap, as many as `layout` has, and the disk's tracepoints.

    Raises CapabilityError when something is missing.
    """

    def __init__(self, disk: Disk, layout: Layout = LAYOUT) -> None:
        self._layout = layout
        with ExitStack() as stack:
            self._tracer = stack.enter_context(ReadTracer(disk))
            self._scattered = stack.enter_context(Pages(layout.scattered))
            self._neighbours = stack.enter_context(Pages(layout.neighbours))
            self._opened = stack.pop_all()
        self._rng = np.random.default_rng(SEED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the pages, and take the tracepoints down."""
        self._opened.close()

    def prepare(self) -> None:
        """Bring the pages into swap: in the order of their addresses, and in random order.

        The kernel hands slots out in the order in which pages are reclaimed, and a page that is only read
        keeps its slot: neighbours stay neighbours on the device and the others stay scattered.
        """
        for pages in (self._scattered, self._neighbours):
            pages.first_touch()
            pages.fill(SEED)
        self._scattered.page_out(self._rng.permutation(self._layout.scattered), 1)
        self._neighbours.page_out_all()

    def run(self) -> ReadRound:
        """Measure everything once; nothing is written meanwhile."""
        latency, fault, major, sleeps = self._faults()
        service, _, minor = self._burst(self._scattered, self._layout.burst, latency)
        transfer, merged, _ = self._burst(self._neighbours, self._layout.merged_burst, latency)
        batch, ranges = self._batches()
        return ReadRound(
            latency_ns=latency,
            fault_ns=fault,
            major_faults=major,
            sleeps=sleeps,
            service_ns=service,
            transfer_ns=transfer,
            merged_pages=merged,
            batched=self._window(),
            minor_ns=minor,
            batch_ns=batch,
            range_ns=ranges,
        )

    def _faults(self) -> tuple[int | None, int | None, int, int]:
        """Touch pages one at a time at random, with the device's reads recorded.

        Returns the device's time, the whole fault's of the same touches, since the disk is not as fast at all
        times, the faults that were major, and how often we slept.
        """
        self._scattered.swap_out()
        first, n = self._layout.first_touches, self._layout.touches
        chosen = self._rng.choice(self._layout.scattered, first + n, replace=False)
        self._scattered.touch(chosen[:first])
        with self._tracer.record() as recorded:
            touched = self._scattered.time_touches(chosen[first:])
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
        n, windows = self._layout.window, self._layout.batches
        places = self._rng.permutation(self._layout.scattered // n)[:windows] * n
        with self._tracer.record() as recorded:
            for place in places.tolist():
                self._scattered.read_ahead([place], n)
                self._scattered.wait_for(place, n)
        return come_together(recorded[0], n, windows)

    def _batches(self) -> tuple[int, int]:
        """Return the thread's time for a page that one call reads ahead more than another, and what it takes
        beyond that where each page is a range of its own, which is submitted by itself."""
        self._scattered.swap_out()
        n = self._layout.batch
        places = self._rng.permutation(self._layout.scattered // n)[: (2 + n) * self._layout.batches] * n
        one = many = apart = 0
        for single, several, *ranges in places.reshape(-1, 2 + n).tolist():
            one += self._scattered.read_ahead([single], 1).cpu_ns
            self._scattered.wait_for(single, 1)
            many += self._scattered.read_ahead([several], n).cpu_ns
            self._scattered.wait_for(several, n)
            apart += self._scattered.read_ahead(ranges, 1).cpu_ns
            for each in ranges:
                self._scattered.wait_for(each, 1)
        further = self._layout.batches * (n - 1)
        return (many - one) // further, (apart - many) // further


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


def are_synchronous(rounds: Sequence[ReadRound]) -> bool:
    """Tell whether the faulting thread does the reads itself: it seldom sleeps."""
    return 2 * sum(r.sleeps for r in rounds) < sum(r.major_faults for r in rounds)


def read_samples(rounds: Sequence[ReadRound]) -> dict[str, list[int | None]]:
    """Return the numbers of the cost model that lie in reads, each as each round found it."""
    synchronous = are_synchronous(rounds)
    zeros: list[int | None] = [0] * len(rounds)
    return {
        "latency_ns": [r.latency_ns for r in rounds],
        "service_ns": zeros if synchronous else [r.service_ns for r in rounds],
        "transfer_ns": zeros if synchronous else [r.transfer_ns for r in rounds],
        "synchronous": [int(synchronous)] * len(rounds),
        "batched": zeros if synchronous else [r.batched for r in rounds],
        "major_ns": [less(r.fault_ns, r.latency_ns) for r in rounds],
        "minor_ns": [r.minor_ns for r in rounds],
        "prefetch_ns": [less(r.batch_ns, r.latency_ns) if synchronous else r.batch_ns for r in rounds],
        "range_ns": [r.range_ns for r in rounds],
    }


def less(whole: int | None, part: int | None) -> int | None:
    """Return what is left of `whole` without `part`; None where one of them was not measured."""
    return None if whole is None or part is None else whole - part
