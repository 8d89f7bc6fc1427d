"""The third executor: a program runs in the kernel, over events in memory, by test runs of a socket filter.

    events (mapped) --test run, repeated--> the decision's code --> decisions (mapped)

Unit of work: a batch of events. Nothing is attached to anything; what is tested and timed here is the code
that runs at page faults (rmt/bpf/decision.py). Not for two threads at once.
"""

import mmap
import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from kdtool.kernel.bpf import (
    ARRAY,
    MMAPABLE,
    SOCKET_FILTER,
    ProgramInfo,
    create_map,
    program_info,
    run_program,
    update_map,
)
from kdtool.kernel.bpf_asm import Assembler
from kdtool.kernel.bpf_loops import load_looping_program
from kdtool.rmt import Program
from kdtool.rmt.bpf import Layout, decision_words, emit_batch, shape_of
from kdtool.verify.policyslot import PolicySlot

__all__ = ["BATCH_EVENTS", "Decisions", "KernelVm"]

BATCH_EVENTS = 4096
"""Events in the map: a power of two."""

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decisions:
    """What was decided at each event; a class is one number in the place of the pages.

    version, n_pages : int64 (n_events,); pages : int64 (n_events, degree_pages), of which n_pages count
    """

    version: Int64Array
    n_pages: Int64Array
    pages: Int64Array

    def to_lists(self) -> list[list[int]]:
        """Return the pages of each event, or its class, as `Vm.decide` does."""
        pages = self.pages.tolist()
        return [row[:n] for row, n in zip(pages, self.n_pages.tolist(), strict=True)]


class KernelVm:
    """Runs `program` in the kernel; versions that fit the room for it and `others` can replace it.

    decide : False leaves the decision out, to learn what everything else costs
    load_ns : CPU time in which the kernel verified and compiled the program

    Raises ProgramError when the programs are not of one shape or too large, CapabilityError when BPF is
    refused, RuntimeError when the kernel's verifier refuses the program: a bug of ours.
    """

    def __init__(self, program: Program, *others: Program, version: int = 1, decide: bool = True) -> None:
        self.layout = Layout(shape_of(program, *others))
        self._fds: list[int] = []
        self._maps: list[mmap.mmap] = []
        self._slot = PolicySlot(self.layout, program, version)
        try:
            self._events = self._mapped(1 + BATCH_EVENTS * self.layout.event_words)
            self._decisions = self._mapped(BATCH_EVENTS * decision_words(self.layout))
            self._state = self._keep(create_map(ARRAY, 4, self.layout.state_bytes, 1))
            self._keep(create_map(ARRAY, 4, self.layout.scratch_bytes, 1))
            self._counters = self._mapped(self.layout.counter_bytes // 8)
            names = ("events", "decisions", "state", "scratch", "counters")
            maps = dict(zip(names, self._fds, strict=True))
            asm = Assembler()
            emit_batch(asm, self.layout, BATCH_EVENTS, decide=decide)
            code = asm.assemble({**maps, "policies": self._slot.fd})
            began_ns = time.thread_time_ns()
            self._program = self._keep(load_looping_program(SOCKET_FILTER, code))
            self.load_ns = time.thread_time_ns() - began_ns
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> ProgramInfo:
        """Return what the kernel says of the program: instructions, and those its verifier followed."""
        return program_info(self._program)

    def decide(self, contexts: Int64Array) -> Decisions:
        """Take `contexts` in, int64 (n_events, layout.event_words or more), columns as the hook's context."""
        decided = [
            self._decide(contexts[at : at + BATCH_EVENTS]) for at in range(0, len(contexts), BATCH_EVENTS)
        ]
        words = np.concatenate(decided) if decided else np.empty((0, decision_words(self.layout)), np.int64)
        return Decisions(words[:, 0], words[:, 1], words[:, 2:])

    @property
    def counted(self) -> dict[str, int]:
        """Return what the program's counters have come to."""
        names = self.layout.shape.counters
        return dict(zip(names, self._counters.view(np.uint64)[: len(names)].tolist(), strict=True))

    def time_ns(self, contexts: Int64Array, runs: int) -> float:
        """Return the mean ns of a run over at most BATCH_EVENTS `contexts`, taken in turn `runs` times.

        By this thread's CPU time: the kernel itself says whole ns, and all else is one call.
        """
        self._put(np.resize(contexts[:, : self.layout.event_words], (BATCH_EVENTS, self.layout.event_words)))
        began_ns = time.thread_time_ns()
        run_program(self._program, runs)
        return (time.thread_time_ns() - began_ns) / runs

    def replace(self, program: Program, version: int) -> None:
        """Have the events from now on decided by `program`; ProgramError when it has no room here."""
        self._slot.put(program, version)

    def reset(self) -> None:
        """Empty the registers and counters."""
        update_map(self._state, 0, bytes(self.layout.state_bytes))
        self._counters[:] = 0

    def close(self) -> None:
        """Let go of the program and its maps."""
        # A map with views cannot be closed.
        self._events = self._decisions = self._counters = np.empty(0, np.int64)
        for each in self._maps:
            each.close()
        for fd in self._fds:
            os.close(fd)
        self._fds, self._maps = [], []
        self._slot.close()

    def _decide(self, contexts: Int64Array) -> Int64Array:
        n = len(contexts)
        self._put(contexts[:, : self.layout.event_words])
        while (done := int(self._events[0])) < n:
            try:
                run_program(self._program, n - done)
            except InterruptedError:
                continue  # the word says how many were decided
        return self._decisions[: n * decision_words(self.layout)].reshape(n, -1).copy()

    def _put(self, contexts: Int64Array) -> None:
        self._events[0] = 0
        self._events[1 : 1 + contexts.size] = contexts.reshape(-1)

    def _mapped(self, words: int) -> Int64Array:
        fd = self._keep(create_map(ARRAY, 4, 8 * words, 1, MMAPABLE))
        pages = -(-8 * words // mmap.PAGESIZE)
        self._maps.append(mmap.mmap(fd, pages * mmap.PAGESIZE))
        return np.frombuffer(self._maps[-1], np.int64)[:words]

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd
