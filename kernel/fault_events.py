"""The page-fault events of a cgroup on every CPU, with a ring for each CPU that they share.

Per CPU: page-faults-min, page-faults-maj, and a dummy that reports mappings, forks and execs.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdtool.kernel.perf import DUMMY, PAGE_FAULTS_MAJ, PAGE_FAULTS_MIN, Counts, Event, Ring, online_cpus

__all__ = ["FaultEvents", "open_fault_events"]

CONFIGS = (PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ, DUMMY)
RING_BYTES = 4 << 20
"""A CPU's ring: 75,000 faults, 0.12 s of the highest rate measured (0.6 M/s, 56 bytes each)."""
RINGS_BYTES = 512 << 20
"""What all rings may take together, on machines with many CPUs."""
MIN_RING_BYTES = 64 << 10


class FaultEvents:
    """Made disabled, for the tasks in the cgroup directory `cgroup`; CapabilityError when refused.

    ring_bytes : of each CPU's ring, rounded down to a power of two; None: a share of RINGS_BYTES
    """

    def __init__(self, cgroup: Path, ring_bytes: int | None = None) -> None:
        self.events: list[Event] = []
        self.rings: list[Ring] = []
        try:
            self._open(cgroup, ring_bytes)
        except BaseException:
            self.close()
            raise

    @property
    def ring_bytes(self) -> int:
        """Return the size of the smallest ring: less than asked for where locked memory is limited."""
        return min(ring.size_bytes for ring in self.rings)

    def enable(self) -> None:
        """Begin to count and to sample."""
        for event in self.events:
            event.enable()

    def disable(self) -> None:
        """Stop counting and sampling."""
        for event in self.events:
            event.disable()

    def counts(self, *configs: int) -> Counts:
        """Return what the kernel counted and lost of some of the events, over all CPUs."""
        each = [event.read() for event in self.events if event.config in configs]
        return Counts(sum(counts.counted for counts in each), sum(counts.lost for counts in each))

    def close(self) -> None:
        """Take them down."""
        for ring in self.rings:
            ring.close()
        for event in self.events:
            event.close()
        self.rings, self.events = [], []

    def _open(self, cgroup: Path, asked_bytes: int | None) -> None:
        cpus = online_cpus()
        share = max(RINGS_BYTES // len(cpus), MIN_RING_BYTES)
        wanted = min(RING_BYTES, share) if asked_bytes is None else max(asked_bytes, mmap.PAGESIZE)
        ring_bytes = 1 << wanted.bit_length() - 1
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for cpu in cpus:
                made = []
                for config in CONFIGS:
                    made.append(Event(config, directory, cpu, watermark_bytes=ring_bytes // 4))
                    self.events.append(made[-1])
                self.rings.append(Ring(made[0], ring_bytes))
                for event in made[1:]:
                    event.write_to(made[0])
        finally:
            os.close(directory)


@contextmanager
def open_fault_events(cgroup: Path) -> Iterator[FaultEvents]:
    """Make them for a block."""
    events = FaultEvents(cgroup)
    try:
        yield events
    finally:
        events.close()
