"""Where the agent's events come from. Today: perf's rings, with the decisions made here by the Numba VM.

A source turns faults into prefetches until Python is needed. One that decides in the kernel (BPF) would read
decisions from its ring instead of faults, and share the rest: pages.py, issue.py, processes, guards, result.
"""

import os
from collections.abc import Sequence
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

__all__ = ["Decider", "PerfSource", "Source"]

Int64Array = npt.NDArray[np.int64]
RING_BYTES = 4 << 20
"""A CPU's ring: 0.1 s of the highest rate measured (0.6 M faults/s, 56 bytes each)."""
OUT_WORDS = 128
POLLIN = 1
_LAST_NS = (1 << 63) - 1


@dataclass(frozen=True)
class Decider:
    """A policy as the loop calls it: what replay calls, with its arrays.

    decide : compiled, of signature rmt.numba_vm.DECIDE
    rate_pages, min_accuracy : the program's guards, which a request can only make stricter; None for a
        baseline, which has none
    context_words : what it is given; CONTEXT_FIELDS come first. process_word, clock_word: where it finds the
        process's row and the time in ns, -1 for none
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


class Source(Protocol):
    """One way of getting from faults to prefetches; made switched off."""

    path: str

    def sampling(self, on: bool) -> None:
        """Switch it on or off; off, the workload's faults cost nothing. Majors are counted all the time."""

    def run(self, arrays: Arrays) -> int:
        """Work until Python is needed, without the GIL; return why (see loop.py)."""

    def counted(self) -> Counts:
        """Return the faults that went through it and those that were lost, by the kernel."""

    def majors(self) -> int:
        """Return all major faults since the start, by the kernel."""

    def close(self) -> None:
        """Take everything down."""


class PerfSource:
    """Samples of page-faults-min and -maj for the tasks in the directory `cgroup`, decided by `decider`.

    Raises CapabilityError, with what to do, when the events or rings are refused.
    """

    path = "perf"

    def __init__(self, cgroup: Path, decider: Decider, ring_bytes: int | None = None) -> None:
        self._decider = decider
        self._out = np.zeros(OUT_WORDS, np.int64)
        self._stack = ExitStack()
        self._sampled: list[Event] = []
        self._counting: list[Event] = []
        self._dummies: list[Event] = []
        cpus = online_cpus()
        self._rings = np.zeros((len(cpus), RING_WORDS), np.int64)
        self._pollfds = np.zeros(len(cpus), np.int64)
        wanted = min(ring_share(len(cpus), ring_bytes), ring_bytes or RING_BYTES)
        with ExitStack() as opening:
            directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
            opening.callback(os.close, directory)
            opening.push(lambda kind, *_: self._stack.close() if kind is not None else None)
            for number, cpu in enumerate(cpus):
                self._open_cpu(number, OfCgroup(directory), cpu, wanted)

    def sampling(self, on: bool) -> None:
        """Switch the samples on or off. Mappings, forks and execs, and the count of majors, stay on."""
        for event in self._sampled:
            (event.enable if on else event.disable)()

    def start(self) -> None:
        """Begin to count majors and to see mappings, forks and execs."""
        for event in (*self._dummies, *self._counting):
            event.enable()

    def run(self, arrays: Arrays) -> int:
        """Run the loop until Python is needed."""
        decider = self._decider
        arrays.settings[[POLL_AT, POLL_FDS]] = self._pollfds.ctypes.data, len(self._pollfds)
        policy = (decider.params, decider.state, self._out)
        reason: int = run(decider.decide, self._rings, arrays.of_pages(), arrays.whole(), policy)
        return reason

    def counted(self) -> Counts:
        """Return what the sampled events counted, and lost for want of room."""
        return sum_counts(self._sampled, PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ)

    def majors(self) -> int:
        """Return the major faults counted since the start, sampled or not."""
        return sum_counts(self._counting, PAGE_FAULTS_MAJ).counted

    def close(self) -> None:
        """Take events and rings down."""
        self._stack.close()

    def _open_cpu(self, number: int, whose: OfCgroup, cpu: int, ring_bytes: int) -> None:
        """Open a CPU's events; the sampled ones and the dummy share a ring."""
        events = [
            self._keep(Event(config, whose, cpu, watermark_bytes=ring_bytes // 2))
            for config in (PAGE_FAULTS_MAJ, PAGE_FAULTS_MIN, DUMMY)
        ]
        ring = Ring(events[0], ring_bytes)
        self._stack.callback(ring.close)
        for event in events[1:]:
            event.write_to(events[0])
        self._sampled += events[:2]
        self._dummies.append(events[2])
        self._counting.append(self._keep(Event(PAGE_FAULTS_MAJ, whose, cpu, fields=0)))
        control, data = ring.addresses
        row = self._rings[number]
        row[[CONTROL_AT, DATA_AT, MASK, MAJOR_ID, NEXT_NS]] = (
            control, data, ring.size_bytes - 1, events[0].id, _LAST_NS,
        )  # fmt: skip
        self._pollfds[number] = events[0].fd | POLLIN << 32

    def _keep(self, event: Event) -> Event:
        self._stack.callback(event.close)
        return event


def pids_in(cgroup: Path) -> Sequence[int]:
    """Return the processes that live in a cgroup and those below it."""
    pids: set[int] = set()
    for file in cgroup.rglob("cgroup.procs"):
        try:
            pids.update(int(word) for word in file.read_text().split())
        except OSError:
            continue  # removed while we looked
    return sorted(pids)
