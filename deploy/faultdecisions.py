"""Decisions in the kernel, at the page faults of one cgroup: only what was decided comes to user space.

    page-faults-maj, -min (perf, the cgroup, every CPU) --> BPF: registers, features, tables, rollout --> ring

Which faults are events of mm.swapin, and what is counted when two CPUs fault at once: rmt/bpf/fault.py. The
software events fire when a fault is done, not when it begins: only then is it known to be major. Nothing is
prefetched here: the agent's loop reads the ring and does (bpfsource.py). Without this object the events are
gone, however its process ends.
"""

import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from kdtool.kernel.bpf import (
    ARRAY,
    MMAPABLE,
    PERF_EVENT,
    ProgramInfo,
    create_map,
    program_info,
)
from kdtool.kernel.bpf_asm import Assembler
from kdtool.kernel.bpf_faults import ADDRESS_OFFSET, IP_OFFSET, check_machine
from kdtool.kernel.bpf_loops import load_looping_program
from kdtool.kernel.fault_events import sum_counts
from kdtool.kernel.perf import PAGE_FAULTS_MAJ, PAGE_FAULTS_MIN, Event, OfCgroup, online_cpus
from kdtool.kernel.sharedring import SharedRing
from kdtool.rmt import Program, require_hook
from kdtool.rmt.bpf import (
    ASKED_BYTES,
    RECORD_WORDS,
    RING_DATA,
    RING_READ,
    RING_WRITTEN,
    SHARED_BYTES,
    SHARED_COUNTERS,
    FaultWrapper,
    Layout,
    emit_fault,
    shape_of,
)
from kdtool.verify.build import require_proof
from kdtool.verify.policyslot import PolicySlot

__all__ = ["Counters", "DecisionBatch", "FaultDecisions"]

RING_BYTES = 4 << 20
LOOK_S = 0.001
"""How long `batches` sleeps while there are no decisions."""
LOW_32 = 0xFFFF_FFFF

Int64Array = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Counters:
    """What has happened so far.

    majors, minors : faults of the cgroup while it was enabled, counted by perf
    major_events, minor_events : faults that were decided on; majors = major_events + major_contended
    decisions : of those, the ones that predict a page
    lost : records that found no room in the ring
    major_contended, minor_contended : events that were not decided on, since another CPU was deciding
    """

    majors: int
    minors: int
    major_events: int
    minor_events: int
    decisions: int
    lost: int
    major_contended: int
    minor_contended: int


@dataclass(frozen=True)
class DecisionBatch:
    """Decisions in order of time, arrays of shape (n,), int64.

    t_ns : CLOCK_MONOTONIC; event : the number of the event, from 1 on; version : whose decision it was
    pages : (n, degree_pages), of which n_pages count
    """

    t_ns: Int64Array
    pid: Int64Array
    tid: Int64Array
    vpn: Int64Array
    major: Int64Array
    ip: Int64Array
    event: Int64Array
    version: Int64Array
    n_pages: Int64Array
    pages: Int64Array

    def __len__(self) -> int:
        return len(self.t_ns)


class FaultDecisions:
    """Has `program` decide at the faults of the tasks in the cgroup directory `cgroup`, from `enable` on.

    others : programs that may `replace` it
    every : report the events without a prediction, too
    ring_bytes : a power of two of pages

    Raises ProgramError for programs that are not proved or of different shapes, CapabilityError, with what to
    do, where perf events or BPF are refused, on CPUs other than x86-64, and in a pid namespace.
    """

    def __init__(
        self,
        cgroup: Path,
        program: Program,
        *others: Program,
        version: int = 1,
        every: bool = False,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        check_machine()
        for each in (program, *others):
            require_hook(each.name, each.hook, "mm.swapin", "a page fault")
            require_proof(each)
        self.layout = Layout(shape_of(program, *others))
        self._fds: list[int] = []
        self._events: list[Event] = []
        self._programs: list[int] = []
        self._slot = PolicySlot(self.layout, program, version)
        self._ring: SharedRing | None = None
        self._shared: mmap.mmap | None = None
        self._counters: mmap.mmap | None = None
        try:
            maps = self._make_maps(ring_bytes)
            directory = self._keep(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
            for config in (PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ):
                is_major = config == PAGE_FAULTS_MAJ
                wrapper = FaultWrapper(is_major, every, ring_bytes, IP_OFFSET, ADDRESS_OFFSET)
                asm = Assembler()
                emit_fault(asm, self.layout, wrapper)
                self._programs.append(self._keep(load_looping_program(PERF_EVENT, asm.assemble(maps))))
                for cpu in online_cpus():
                    event = Event(config, OfCgroup(directory), cpu, fields=0)
                    self._events.append(event)
                    event.run(self._programs[-1])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def counters(self) -> Counters:
        """Return what has happened so far."""
        assert self._shared is not None, "closed"
        words = np.frombuffer(self._shared, np.uint64, 1 + len(SHARED_COUNTERS))[1:].tolist()
        majors, minors = (
            sum_counts(self._events, config).counted for config in (PAGE_FAULTS_MAJ, PAGE_FAULTS_MIN)
        )
        return Counters(majors, minors, **dict(zip(SHARED_COUNTERS, words, strict=True)))

    @property
    def ring(self) -> SharedRing:
        """Return the ring, for a reader other than `drain`: records of `layout.record_bytes`."""
        assert self._ring is not None, "closed"
        return self._ring

    @property
    def counted(self) -> dict[str, int]:
        """Return what the program's own counters have come to."""
        assert self._counters is not None, "closed"
        names = self.layout.shape.counters
        words = np.frombuffer(self._counters, np.uint64, len(names)).tolist()
        return dict(zip(names, words, strict=True))

    @property
    def info(self) -> tuple[ProgramInfo, ProgramInfo]:
        """Return what the kernel says of the programs of minor and of major faults."""
        minor, major = self._programs
        return program_info(minor), program_info(major)

    def enable(self) -> None:
        """Begin to decide."""
        for event in self._events:
            event.enable()

    def disable(self) -> None:
        """Stop deciding; registers, counters and what is in the ring stay."""
        for event in self._events:
            event.disable()

    def replace(self, program: Program, version: int) -> None:
        """Have each decision that begins after this made by `program`; the registers stay.

        Raises ProgramError when it is not proved, or has no room in the code that runs; the old one stays.
        """
        require_proof(program)
        self._slot.put(program, version)

    def drain(self) -> DecisionBatch:
        """Return the decisions that are there."""
        assert self._ring is not None, "closed"
        return _batch(self._ring.drain()[:, : RECORD_WORDS + self.layout.shape.degree_pages])

    def batches(self, timeout_s: float) -> Iterator[DecisionBatch]:
        """Yield decisions, looking every LOOK_S, until there are none for `timeout_s`."""
        last = time.monotonic()
        while time.monotonic() - last < timeout_s:
            if len(batch := self.drain()):
                yield batch
                last = time.monotonic()
            else:
                time.sleep(LOOK_S)

    def close(self) -> None:
        """Take events, programs and maps down."""
        for event in self._events:
            event.close()
        if self._ring is not None:
            self._ring.close()
        for mapped in (self._shared, self._counters):
            if mapped is not None:
                mapped.close()
        for fd in self._fds:
            os.close(fd)
        self._slot.close()
        self._events, self._fds, self._ring, self._shared, self._counters = [], [], None, None, None

    def _make_maps(self, ring_bytes: int) -> dict[str, int]:
        sizes = {
            "state": self.layout.state_bytes,
            "scratch": self.layout.scratch_bytes,
            "asked": ASKED_BYTES,
            "shared": SHARED_BYTES,
            "counters": self.layout.counter_bytes,
        }
        maps = {"policies": self._slot.fd}
        for name, size in sizes.items():
            flags = MMAPABLE if name in ("shared", "counters") else 0
            maps[name] = self._keep(create_map(ARRAY, 4, size, 1, flags))
        self._shared = mmap.mmap(maps["shared"], mmap.PAGESIZE, prot=mmap.PROT_READ)
        self._counters = mmap.mmap(maps["counters"], mmap.PAGESIZE, prot=mmap.PROT_READ)
        self._ring = SharedRing(
            ring_bytes,
            self.layout.record_stride,
            read_at=RING_READ,
            written_at=RING_WRITTEN,
            data_at=RING_DATA,
        )
        maps["ring"] = self._ring.fd
        return maps

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd


def _batch(words: Words) -> DecisionBatch:
    """Take records, shape (n, record words), apart."""
    columns = words.astype(np.int64)
    t_ns, task, page, ip, event, version, n_pages = (columns[:, i] for i in range(RECORD_WORDS))
    return DecisionBatch(
        t_ns=t_ns,
        pid=task >> 32,
        tid=task & LOW_32,
        vpn=page >> 1,
        major=page & 1,
        ip=ip,
        event=event,
        version=version,
        n_pages=n_pages,
        pages=columns[:, RECORD_WORDS:],
    )
