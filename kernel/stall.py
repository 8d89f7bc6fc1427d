"""How long the major faults of a cgroup take, each from its begin to its end, added up by BPF.

    page-faults (perf, at the begin) ──► begun[tid] = now
    page-faults-maj    (at the end)  ──► stall += now - begun[tid], stalls += 1   without a begin: missed += 1

The first event comes where the fault handler of the architecture begins, before it takes any lock; the other
where mm_account_fault() finds that the fault is done, and was major: it had to read, or to wait for a page
that was being read (v6.18: mm/memory.c; arch/x86/mm/fault.c). So what is counted is the reading or waiting,
the reclaim that the fault had to do first, the handler's own work, and the wait for a CPU afterwards. Minor
faults are not counted: nobody waits in them for a device.

`begun` is direct-mapped by the thread's number. A thread whose slot was taken by another meanwhile, or whose
fault began before the clock was switched on, is missed and counted so. Only sums cross to user space.
"""

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdtool.kernel.bpf import ARRAY, MMAPABLE, PERF_EVENT, create_map, load_program
from kdtool.kernel.bpf_asm import R0, R1, R2, R3, R4, R6, R7, Assembler
from kdtool.kernel.perf import PAGE_FAULTS, PAGE_FAULTS_MAJ, Event, OfCgroup, online_cpus

__all__ = ["Stall", "StallClock"]

KTIME_GET_NS, GET_CURRENT_PID_TGID = 5, 14
"""enum bpf_func_id. bpf_ktime_get_ns is CLOCK_MONOTONIC."""
SLOTS, SLOT_SHIFT = 1 << 16, 4
TID, BEGUN = 0, 8
"""Of a slot."""
STALL, STALLS, MISSED, SINCE = range(0, 32, 8)
"""Of the sums; SINCE is when the clock was switched on."""


@dataclass(frozen=True)
class Stall:
    """stall_ns : what `stalls` major faults took together; missed : major faults whose begin was not seen."""

    stall_ns: int
    stalls: int
    missed: int


class StallClock:
    """Times the major faults of the tasks in the cgroup directory `cgroup`; made switched off.

    Raises CapabilityError, with what to do, where perf events or BPF are refused.
    """

    def __init__(self, cgroup: Path) -> None:
        self._events: list[Event] = []
        self._fds: list[int] = []
        self._shared: mmap.mmap | None = None
        try:
            begun = self._keep(create_map(ARRAY, 4, SLOTS << SLOT_SHIFT, 1))
            sums = self._keep(create_map(ARRAY, 4, 32, 1, MMAPABLE))
            self._shared = mmap.mmap(sums, mmap.PAGESIZE)
            whose = OfCgroup(self._keep(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)))
            for config, code in ((PAGE_FAULTS, _begin(begun)), (PAGE_FAULTS_MAJ, _end(begun, sums))):
                program = self._keep(load_program(PERF_EVENT, code))
                for cpu in online_cpus():
                    event = Event(config, whose, cpu, fields=0)
                    self._events.append(event)
                    event.run(program)
        except BaseException:
            self.close()
            raise

    def read(self) -> Stall:
        """Return the sums so far."""
        return Stall(*map(int, self._words()[:3]))

    def switch(self, on: bool) -> None:
        """Switch it on or off; off, faults take no longer than without it. The sums stay."""
        if on:
            self._enable(PAGE_FAULTS)
            # What a thread left in its slot before is no begin of a fault that ends from now on.
            self._words()[3] = time.monotonic_ns()
            self._enable(PAGE_FAULTS_MAJ)
        else:
            for event in self._events:
                event.disable()

    def close(self) -> None:
        """Take events, programs and maps down. A second time does nothing."""
        for event in self._events:
            event.close()
        if self._shared is not None:
            self._shared.close()
        for fd in self._fds:
            os.close(fd)
        self._events, self._fds, self._shared = [], [], None

    def _words(self) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        assert self._shared is not None, "closed"
        return np.frombuffer(self._shared, np.uint64, 4)

    def _enable(self, config: int) -> None:
        for event in self._events:
            if event.config == config:
                event.enable()

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd


def _begin(begun: int) -> bytes:
    """Return the program that runs where a fault begins."""
    asm = Assembler()
    _find_slot(asm, begun)
    asm.store(R4, TID, R6)
    asm.store(R4, BEGUN, R7)
    _leave(asm)
    return asm.assemble()


def _end(begun: int, sums: int) -> bytes:
    """Return the program that runs where a major fault ends."""
    asm = Assembler()
    _find_slot(asm, begun)
    asm.load(R2, R4, TID)
    asm.jump_if_register(R2, "!=", R6, "missed")
    asm.load(R3, R4, BEGUN)
    asm.store_constant(R4, TID, 0)
    asm.map_value(R1, sums, 0)
    asm.load(R2, R1, SINCE)
    asm.jump_if_register(R3, "<", R2, "missed")
    asm.alu_register("sub", R7, R3)
    asm.atomic_add(R1, STALL, R7)
    asm.alu("mov", R2, 1)
    asm.atomic_add(R1, STALLS, R2)
    asm.jump("out")
    asm.label("missed")
    asm.map_value(R1, sums, MISSED)
    asm.alu("mov", R2, 1)
    asm.atomic_add(R1, 0, R2)
    asm.label("out")
    _leave(asm)
    return asm.assemble()


def _find_slot(asm: Assembler, begun: int) -> None:
    """R6 = the thread's number, R7 = the time, R4 = the thread's slot."""
    asm.call(GET_CURRENT_PID_TGID)
    asm.alu_register("mov", R6, R0)
    asm.alu("and", R6, 0x7FFF_FFFF)  # a thread's number, never as large
    asm.call(KTIME_GET_NS)
    asm.alu_register("mov", R7, R0)
    asm.alu_register("mov", R3, R6)
    asm.alu("and", R3, SLOTS - 1)
    asm.alu("lsh", R3, SLOT_SHIFT)
    asm.map_value(R4, begun, 0)
    asm.alu_register("add", R4, R3)


def _leave(asm: Assembler) -> None:
    asm.alu("mov", R0, 0)
    asm.exit()
