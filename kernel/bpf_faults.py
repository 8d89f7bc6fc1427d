"""Page faults by a BPF program: the software events run it, it writes 32 bytes into a ring of its CPU.

    page-faults-min, -maj (perf, a cgroup, a CPU) --> program --> BPF ring of that CPU   or, when that is
                                                                                         full, its lost += 1

The events select by cgroup and count, exactly as without a program; only the way into user space is shorter:
no sample is written, no record prepared, nobody woken. The reader comes by every few milliseconds. Each CPU
and kind has its own program, so that no ring is shared and the kind is a constant in it.
"""

import mmap
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError
from kdtool.kernel.bpf import ARRAY, MMAPABLE, PERF_EVENT, RINGBUF, create_map, load_program
from kdtool.kernel.bpf_asm import R0, R1, R2, R3, R6, R7, Assembler
from kdtool.kernel.fault_events import CPU, SIDE_RING_BYTES, Block, ring_share, sum_counts
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
from kdtool.kernel.perf_records import Side, split_records
from kdtool.kernel.ringbuf import RingBuffer

__all__ = ["ADDRESS_OFFSET", "IP_OFFSET", "BpfFaults", "check_machine", "fault_program"]

KTIME_GET_NS, GET_CURRENT_PID_TGID, RINGBUF_RESERVE, RINGBUF_SUBMIT = 5, 14, 131, 132
"""enum bpf_func_id. bpf_ktime_get_ns is CLOCK_MONOTONIC."""
RB_NO_WAKEUP = 1
PAYLOAD_BYTES = 32
IP_OFFSET, ADDRESS_OFFSET = 128, 176
"""In struct bpf_perf_event_data of x86-64: regs.rip, and addr after the 21 registers and sample_period."""
INIT_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO in include/linux/proc_ns.h: bpf_get_current_pid_tgid says pids as of this namespace."""

Words = npt.NDArray[np.uint64]


class BpfFaults:
    """Faults by BPF, for the tasks in the cgroup directory `cgroup`. Arguments and errors as of PerfFaults.

    Also CapabilityError where BPF is refused, on CPUs other than x86-64, and in a pid namespace.
    """

    path = "bpf"

    def __init__(self, cgroup: Path, ring_bytes: int | None = None) -> None:
        check_machine()
        self._events: list[Event] = []
        self._side_rings: list[Ring] = []
        self._rings: list[RingBuffer] = []
        self._fds: list[int] = []
        self._lost: mmap.mmap | None = None
        self._cpus = online_cpus()
        self._ring_bytes = ring_share(len(self._cpus), ring_bytes)
        self._fds.append(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
        try:
            lost = self._keep(create_map(ARRAY, 4, 8 * len(self._cpus), 1, MMAPABLE))
            self._lost = mmap.mmap(lost, mmap.PAGESIZE, prot=mmap.PROT_READ)
            for number, cpu in enumerate(self._cpus):
                self._open_cpu(number, cpu, lost)
        except BaseException:
            self.close()
            raise

    @property
    def ring_bytes(self) -> int:
        """Return the size of each CPU's ring."""
        return self._ring_bytes

    def enable(self, pids: Sequence[int]) -> None:
        """Begin to count and to record."""
        for event in self._events:
            event.enable()

    def disable(self) -> None:
        """Stop counting and recording."""
        for event in self._events:
            event.disable()

    def fds(self) -> list[int]:
        """Return nothing: a BPF ring without wakeups is looked at by the clock."""
        return []

    def drain(self) -> list[Block]:
        """Return what every ring holds; rings of faults first, those of the dummies after them."""
        rings: list[RingBuffer | Ring] = [*self._rings, *self._side_rings]
        return [(at, words) for at, ring in enumerate(rings) if (words := ring.drain()) is not None]

    def decode(self, block: Block) -> tuple[Words, list[Side]]:
        """Return the records as they are: the program wrote the columns of FAULT_WORDS, but for the CPU."""
        at, words = block
        if at >= len(self._rings):
            return split_records(words)[0][:, :0].reshape(0, 5), split_records(words)[1]
        words[:, CPU] = self._cpus[at]
        return words, []

    def faults(self) -> Counts:
        """Return what the events counted, and how many reservations failed."""
        assert self._lost is not None, "closed"
        lost = np.frombuffer(self._lost, np.uint64, len(self._cpus))
        return Counts(sum_counts(self._events, PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ).counted, int(lost.sum()))

    def side(self) -> Counts:
        """Return counted and lost of the dummy events."""
        return sum_counts(self._events, DUMMY)

    def close(self) -> None:
        """Take events, rings, programs and maps down."""
        for ring in self._rings:
            ring.close()
        for side_ring in self._side_rings:
            side_ring.close()
        for event in self._events:
            event.close()
        if self._lost is not None:
            self._lost.close()
        for fd in self._fds:
            os.close(fd)
        self._rings, self._side_rings, self._events, self._fds, self._lost = [], [], [], [], None

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _open_cpu(self, number: int, cpu: int, lost_fd: int) -> None:
        """Open a CPU's two fault events with their programs and ring, and its dummy with a perf ring."""
        whose = OfCgroup(self._fds[0])
        ring_fd = self._keep(create_map(RINGBUF, 0, 0, self._ring_bytes))
        self._rings.append(RingBuffer(ring_fd, self._ring_bytes, PAYLOAD_BYTES))
        for config in (PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ):
            code = fault_program(ring_fd, lost_fd, 8 * number, is_major=config == PAGE_FAULTS_MAJ)
            event = Event(config, whose, cpu, fields=0)
            self._events.append(event)
            event.run(self._keep(load_program(PERF_EVENT, code)))
        dummy = Event(DUMMY, whose, cpu, watermark_bytes=SIDE_RING_BYTES // 4)
        self._events.append(dummy)
        self._side_rings.append(Ring(dummy, SIDE_RING_BYTES))


def fault_program(ring_fd: int, lost_fd: int, lost_offset: int, *, is_major: bool) -> bytes:
    """Return the program of one event: time, task, ip and page into the ring; then perf writes nothing."""
    asm = Assembler()
    asm.alu_register("mov", R6, R1)
    asm.map(R1, ring_fd)
    asm.alu("mov", R2, PAYLOAD_BYTES)
    asm.alu("mov", R3, 0)
    asm.call(RINGBUF_RESERVE)
    asm.jump_if(R0, "==", 0, "full")
    asm.alu_register("mov", R7, R0)
    asm.call(KTIME_GET_NS)
    asm.store(R7, 0, R0)
    asm.call(GET_CURRENT_PID_TGID)
    asm.store(R7, 8, R0)
    asm.load(R1, R6, IP_OFFSET)
    asm.store(R7, 16, R1)
    asm.load(R1, R6, ADDRESS_OFFSET)
    asm.alu("rsh", R1, 12)
    asm.alu("lsh", R1, 1)
    asm.alu("or", R1, int(is_major))
    asm.store(R7, 24, R1)
    asm.alu_register("mov", R1, R7)
    asm.alu("mov", R2, RB_NO_WAKEUP)
    asm.call(RINGBUF_SUBMIT)
    asm.jump("end")
    asm.label("full")
    asm.map_value(R1, lost_fd, lost_offset)
    asm.alu("mov", R2, 1)
    asm.atomic_add(R1, 0, R2)
    asm.label("end")
    asm.alu("mov", R0, 0)
    asm.exit()
    return asm.assemble()


def check_machine() -> None:
    """Raise where the program would not say the truth."""
    if platform.machine() != "x86_64":
        raise CapabilityError(f"faults by BPF: not for {platform.machine()}: use perf's rings")
    if Path("/proc/self/ns/pid").stat().st_ino != INIT_PID_NAMESPACE:
        raise CapabilityError(
            "faults by BPF: pids of this pid namespace are not known to it: use perf's rings"
        )
