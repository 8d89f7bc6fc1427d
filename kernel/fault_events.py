"""The page-fault events of a cgroup on every CPU, and how a fault gets from the kernel to us.

    PerfFaults   page-faults-min and -maj write samples into a perf ring a CPU
    BpfFaults    the same events run a BPF program, which writes into a BPF ring a CPU (bpf_faults.py)

Either way the events count every fault, and a dummy event beside them reports mappings, forks and execs in a
perf ring. Unit of work: a block, drained at once and decoded later, into rows of FAULT_WORDS.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdtool.kernel.perf import (
    DUMMY,
    PAGE_FAULTS_MAJ,
    PAGE_FAULTS_MIN,
    Counts,
    Event,
    OfCgroup,
    OfTask,
    Ring,
    online_cpus,
)
from kdtool.kernel.perf_records import Side, split_records

__all__ = ["CPU", "FAULT_WORDS", "IP", "PAGE", "TASK", "TIME", "Block", "FaultEvents", "PerfFaults"]

CPU, TIME, TASK, IP, PAGE = range(5)
FAULT_WORDS = 5
"""Of a fault: CPU, CLOCK_MONOTONIC ns, tgid << 32 | tid, instruction pointer, vpn << 1 | major."""

RING_BYTES = 16 << 20
"""A CPU's ring: 0.5 s of the highest rate measured (0.6 M faults/s, 56 bytes each)."""
RINGS_BYTES = 512 << 20
"""What all rings may take together, on machines with many CPUs."""
MIN_RING_BYTES = 64 << 10
SIDE_RING_BYTES = 1 << 20
ID_WORD, IP_WORD, PID_TID_WORD, TIME_WORD, ADDRESS_WORD, CPU_WORD = range(1, 7)
PAGE_SHIFT = np.uint64(12)
HALF = np.uint64(32)
LOW_32 = np.uint64(0xFFFF_FFFF)
ONE = np.uint64(1)

Words = npt.NDArray[np.uint64]
Block = tuple[int, Words]
"""Which ring it comes from, as its back end numbers them, and what was in it."""


class FaultEvents(Protocol):
    """One way of getting the faults of a cgroup; made disabled."""

    path: str

    @property
    def ring_bytes(self) -> int:
        """Return the size of each CPU's ring."""

    def enable(self, pids: Sequence[int]) -> None:
        """Begin to count and to record; `pids` are the processes that live now."""

    def disable(self) -> None:
        """Stop counting and recording; what is in the rings stays there."""

    def fds(self) -> list[int]:
        """Return what becomes readable when a ring fills up, to be polled."""

    def drain(self) -> list[Block]:
        """Return what every ring holds."""

    def decode(self, block: Block) -> tuple[Words, list[Side]]:
        """Return the faults of a block, shape (n, FAULT_WORDS), in order of time, and its other records."""

    def faults(self) -> Counts:
        """Return what was counted of the faults, and how many of them found no room in a ring."""

    def side(self) -> Counts:
        """Return the same of mappings, forks and execs."""

    def close(self) -> None:
        """Take events, rings and programs down."""


class PerfFaults:
    """Faults as samples in a perf ring a CPU, for the tasks in the cgroup directory `cgroup`.

    ring_bytes : of each CPU's ring, rounded down to a power of two; None: a share of RINGS_BYTES

    Raises CapabilityError, with what to do, when the events or the rings are refused.
    """

    path = "perf"

    def __init__(self, cgroup: Path, ring_bytes: int | None = None) -> None:
        self._events: list[Event] = []
        self._rings: list[Ring] = []
        cpus = online_cpus()
        wanted = ring_share(len(cpus), ring_bytes)
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for cpu in cpus:
                self._open_cpu([OfCgroup(directory)], cpu, wanted)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(directory)

    @property
    def ring_bytes(self) -> int:
        """Return the size of the smallest ring: less than asked for where locked memory is limited."""
        return min(ring.size_bytes for ring in self._rings)

    def enable(self, pids: Sequence[int]) -> None:
        """Begin to count and to sample."""
        for event in self._events:
            event.enable()

    def disable(self) -> None:
        """Stop counting and sampling."""
        for event in self._events:
            event.disable()

    def fds(self) -> list[int]:
        """Return the events' descriptors, readable when a ring is a quarter full."""
        return [event.fd for event in self._events]

    def drain(self) -> list[Block]:
        """Return what every ring holds."""
        return [(cpu, words) for cpu, ring in enumerate(self._rings) if (words := ring.drain()) is not None]

    def decode(self, block: Block) -> tuple[Words, list[Side]]:
        """Split samples from other records and put them into the columns of FAULT_WORDS."""
        samples, side = split_records(block[1])
        majors = [event.id for event in self._events if event.config == PAGE_FAULTS_MAJ]
        faults = np.empty((len(samples), FAULT_WORDS), np.uint64)
        faults[:, CPU] = samples[:, CPU_WORD] & LOW_32
        faults[:, TIME] = samples[:, TIME_WORD]
        faults[:, TASK] = samples[:, PID_TID_WORD] << HALF | samples[:, PID_TID_WORD] >> HALF
        faults[:, IP] = samples[:, IP_WORD]
        is_major = np.isin(samples[:, ID_WORD], np.array(majors, np.uint64))
        faults[:, PAGE] = samples[:, ADDRESS_WORD] >> PAGE_SHIFT << ONE | is_major
        return faults, side

    def faults(self) -> Counts:
        """Return counted and lost of both fault events, over all CPUs."""
        return sum_counts(self._events, PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ)

    def side(self) -> Counts:
        """Return counted and lost of the dummy events."""
        return sum_counts(self._events, DUMMY)

    def close(self) -> None:
        """Take them down."""
        for ring in self._rings:
            ring.close()
        for event in self._events:
            event.close()
        self._rings, self._events = [], []

    def _open_cpu(self, whose: Sequence[OfCgroup | OfTask], cpu: int, ring_bytes: int) -> None:
        """Open the three events of a CPU for everyone; all share one ring."""
        made: list[Event] = []
        for each in whose:
            for config in (PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ, DUMMY):
                made.append(Event(config, each, cpu, watermark_bytes=ring_bytes // 4))
                self._events.append(made[-1])
        self._rings.append(Ring(made[0], ring_bytes))
        for event in made[1:]:
            event.write_to(made[0])


def ring_share(n_cpus: int, asked_bytes: int | None) -> int:
    """Return the bytes of each CPU's ring, a power of two: what was asked for, or a share of RINGS_BYTES."""
    share = max(RINGS_BYTES // n_cpus, MIN_RING_BYTES)
    wanted = min(RING_BYTES, share) if asked_bytes is None else max(asked_bytes, mmap.PAGESIZE)
    return 1 << wanted.bit_length() - 1


def sum_counts(events: list[Event], *configs: int) -> Counts:
    """Return what the kernel counted and lost of some of the events, over all CPUs."""
    each = [event.read() for event in events if event.config in configs]
    return Counts(sum(counts.counted for counts in each), sum(counts.lost for counts in each))
