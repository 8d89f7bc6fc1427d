"""Where the agent's events come from, and who decides: perf's rings and the Numba VM, or BPF in the kernel.

    perf  every fault of the cgroup ─► ring of its CPU ─► events, decisions: loop.py
    bpf   faults ─► events, decisions: in the kernel ─► one ring ─► loop.py       (bpfsource.py)

Both share what reports mappings, forks and execs, the count of majors, and all that follows a decision.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kdtool.deploy.layout import (
    CONTROL_AT,
    DATA_AT,
    MAJOR_ID,
    MASK,
    NEXT_NS,
    POLL_AT,
    POLL_FDS,
    RING_WORDS,
    Arrays,
)
from kdtool.deploy.loop import run
from kdtool.deploy.rings import LAST_NS
from kdtool.kernel.fault_events import ring_share, sum_counts
from kdtool.kernel.perf import (
    DUMMY,
    PAGE_FAULTS_MAJ,
    PAGE_FAULTS_MIN,
    Counts,
    Event,
    OfCgroup,
    Ring,
    online_cpus,
)
from kdtool.rmt import Program

__all__ = ["Decider", "PerfSource", "Source", "Watch", "no_decisions"]

Int64Array = npt.NDArray[np.int64]
RING_BYTES = 4 << 20
"""A CPU's ring: 0.1 s of the highest rate measured (0.6 M faults/s, 56 bytes each)."""
OUT_WORDS = 128
POLLIN = 1


@dataclass(frozen=True)
class Decider:
    """A policy as the loop calls it: what replay calls, with its arrays.

    decide : compiled, of signature rmt.numba_vm.DECIDE
    rate_pages, min_accuracy : the program's guards, which a request can only make stricter; None for a
        baseline, which has none
    context_words : what it is given; CONTEXT_FIELDS come first. process_word, clock_word: where it finds the
        process's row and the time in ns, -1 for none
    program : from which the kernel can decide; None for a baseline
    """

    name: str
    version: str
    degree_pages: int
    decide: Any
    params: Int64Array
    state: Int64Array
    context_words: int
    process_word: int = -1
    clock_word: int = -1
    rate_pages: int | None = None
    min_accuracy: float | None = None
    program: Program | None = None


class Source(Protocol):
    """One way of getting from faults to prefetches; made switched off."""

    path: str

    def watch(self, on: bool) -> None:
        """Begin to count majors and to see mappings, forks and execs, or stop it."""

    def sampling(self, on: bool) -> None:
        """Switch it on or off; off, the workload's faults cost nothing."""

    def run(self, arrays: Arrays) -> int:
        """Work until Python is needed, without the GIL; return why (see loop.py)."""

    def counted(self) -> Counts:
        """Return the faults that went through it and those that were lost, by the kernel."""

    def minors(self) -> int:
        """Return all minor faults while it was on, by the kernel."""

    def majors(self) -> int:
        """Return all major faults while it watched, by the kernel."""

    def close(self) -> None:
        """Take everything down."""


class Watch:
    """A CPU's events that are on when it does not sample, too: mappings, forks, execs (a dummy), majors.

    The kernel takes what is on off and on at each switch between a thread of the cgroup and another, 0.7 us.
    Base of both sources. `stack` holds what is to be taken down, `rings` is what the loop reads.
    """

    def __init__(self, cgroup: Path, decider: Decider) -> None:
        self._decider = decider
        self._out = np.zeros(OUT_WORDS, np.int64)
        self._stack = ExitStack()
        self._counting: list[Event] = []
        self._dummies: list[Event] = []
        self._cpus = online_cpus()
        self._rings = np.zeros((len(self._cpus), RING_WORDS), np.int64)
        self._decisions = no_decisions()
        self._pollfds = np.zeros(len(self._cpus), np.int64)
        self._directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        self._stack.callback(os.close, self._directory)

    def watch(self, on: bool) -> None:
        """Begin to count majors and to see mappings, forks and execs, or stop it."""
        for event in (*self._dummies, *self._counting):
            (event.enable if on else event.disable)()

    def run(self, arrays: Arrays) -> int:
        """Run the loop until Python is needed."""
        decider = self._decider
        arrays.settings[[POLL_AT, POLL_FDS]] = self._pollfds.ctypes.data, len(self._pollfds)
        policy = (decider.params, decider.state, self._out)
        reason: int = run(
            decider.decide, self._rings, self._decisions, arrays.of_pages(), arrays.whole(), policy
        )
        return reason

    def majors(self) -> int:
        """Return the major faults counted while it watched, sampled or not."""
        return sum_counts(self._counting, PAGE_FAULTS_MAJ).counted

    def close(self) -> None:
        """Take events and rings down."""
        self._stack.close()

    def _open_cpu(self, number: int, ring_bytes: int, *sampled: int) -> list[Event]:
        """Open a CPU's events; the `sampled` ones, which are returned, and the dummy share a ring."""
        cpu, whose = self._cpus[number], OfCgroup(self._directory)
        events = [
            self._keep(Event(config, whose, cpu, watermark_bytes=ring_bytes // 2))
            for config in (*sampled, DUMMY)
        ]
        ring = Ring(events[0], ring_bytes)
        self._stack.callback(ring.close)
        for event in events[1:]:
            event.write_to(events[0])
        self._dummies.append(events[-1])
        self._counting.append(self._keep(Event(PAGE_FAULTS_MAJ, whose, cpu, fields=0)))
        control, data = ring.addresses
        self._rings[number, [CONTROL_AT, DATA_AT, MASK, MAJOR_ID, NEXT_NS]] = (
            control, data, ring.size_bytes - 1, events[0].id, LAST_NS,
        )  # fmt: skip
        self._pollfds[number] = events[0].fd | POLLIN << 32
        return events[:-1]

    def _keep(self, event: Event) -> Event:
        self._stack.callback(event.close)
        return event


class PerfSource(Watch):
    """Samples of page-faults-min and -maj for the tasks in the directory `cgroup`, decided by `decider`.

    Raises CapabilityError, with what to do, when the events or rings are refused.
    """

    path = "perf"

    def __init__(self, cgroup: Path, decider: Decider, ring_bytes: int | None = None) -> None:
        super().__init__(cgroup, decider)
        self._sampled: list[Event] = []
        wanted = min(ring_share(len(self._cpus), ring_bytes), ring_bytes or RING_BYTES)
        try:
            for number in range(len(self._cpus)):
                self._sampled += self._open_cpu(number, wanted, PAGE_FAULTS_MAJ, PAGE_FAULTS_MIN)
        except BaseException:
            self.close()
            raise

    def sampling(self, on: bool) -> None:
        """Switch the samples on or off. Mappings, forks and execs, and the count of majors, stay on."""
        for event in self._sampled:
            (event.enable if on else event.disable)()

    def counted(self) -> Counts:
        """Return what the sampled events counted, and lost for want of room."""
        return sum_counts(self._sampled, PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ)

    def minors(self) -> int:
        """Return the minor faults that were sampled or lost."""
        return sum_counts(self._sampled, PAGE_FAULTS_MIN).counted


def no_decisions() -> Int64Array:
    """Return the row of a ring of decisions that is not there."""
    row = np.zeros(RING_WORDS, np.int64)
    row[NEXT_NS] = LAST_NS
    return row
