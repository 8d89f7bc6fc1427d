"""The agent: a thread that runs the loop and answers what it asks of Python. Started switched off.

main thread    ticks: guards, live line ──settings──►  loop (no GIL)  ──counters──► main thread
agent thread   loop ──NEW_PROCESS, STALE_MAPPINGS, LEFT──► processes.py ──► loop
"""

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from kdtool.deploy.bpfsource import choose_source
from kdtool.deploy.layout import (
    ACTIVE,
    ASKED_PAGES,
    BATCH_PAGES,
    CLOCK_WORD,
    DEGREE,
    NAP_NS,
    PROCESS_WORD,
    RATE_PAGES,
    REFRESH,
    STOP,
    WANTED_PID,
    Arrays,
    new_arrays,
)
from kdtool.deploy.loop import LEFT, NEW_PROCESS, STALE_MAPPINGS, STOPPED, UNSEEN
from kdtool.deploy.processes import FaultCounter, Processes
from kdtool.deploy.source import Decider
from kdtool.errors import CapabilityError
from kdtool.kernel.advise import check_advice
from kdtool.kernel.cgroup import pids_in
from kdtool.kernel.host import real_time
from kdtool.kernel.stall import Stall, StallClock

__all__ = ["Agent", "Placement"]

BATCH_DEFAULT_PAGES = 8
NAP_DEFAULT_NS = 60_000
"""Strided loads, 25 us a page: 1.3 s with it, 1.5 s with 20 us, 2.4 s without an agent."""
PR_SET_TIMERSLACK, SLACK_NS = 29, 1_000
"""An ordinary thread oversleeps by 50 us otherwise: prctl(2)."""
FOLLOWED_SHARE = 2
MIN_FOLLOWED, MAX_FOLLOWED = 256, 1 << 16


@dataclass(frozen=True)
class Placement:
    """How the agent's thread is scheduled; None leaves it as it is.

    nice : -20 to 19
    cpu : the only one that it runs on
    real_time : before all ordinary threads (SCHED_FIFO); on a busy machine an ordinary one is late by
        milliseconds, and what it asks for with it
    """

    nice: int | None = None
    cpu: int | None = None
    real_time: bool = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply it to the calling thread, and make its naps exact; CapabilityError when refused."""
        try:
            if self.cpu is not None:
                os.sched_setaffinity(0, {self.cpu})
            if self.nice is not None:
                os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        except OSError as error:
            raise CapabilityError(
                f"the agent's nice {self.nice} on CPU {self.cpu}: {error.strerror}: run as root, with a CPU "
                f"that is on line"
            ) from None
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0)
        with real_time() if self.real_time else nullcontext():
            yield


class Agent:
    """Lets `decider` prefetch for the processes in `cgroup`, from `begin` on.

    limit_pages : the cgroup's memory: a page that was not touched while half of it was asked for again has
        surely been evicted
    rate_pages : pages a second at most
    placement : of its thread
    source : who decides, one of bpfsource.SOURCES; `source_reason` says why it became the one that it is
    stall : time the major faults
    log_events : events that are kept with what was decided, for tests

    Raises CapabilityError when something that it needs is refused.
    """

    def __init__(
        self,
        cgroup: Path,
        decider: Decider,
        *,
        limit_pages: int | None = None,
        rate_pages: int = 400_000,
        placement: Placement = Placement(),
        source: str = "auto",
        stall: bool = True,
        log_events: int = 0,
    ) -> None:
        check_advice()
        self.cgroup, self.decider, self._placement = cgroup, decider, placement
        self.arrays: Arrays = new_arrays(decider.context_words, log_events)
        followed = MAX_FOLLOWED if limit_pages is None else limit_pages // FOLLOWED_SHARE
        settings = self.arrays.settings
        settings[DEGREE], settings[ACTIVE] = decider.degree_pages, 0
        settings[BATCH_PAGES], settings[NAP_NS] = BATCH_DEFAULT_PAGES, NAP_DEFAULT_NS
        settings[RATE_PAGES] = rate_pages
        settings[ASKED_PAGES] = min(max(followed, MIN_FOLLOWED), MAX_FOLLOWED)
        settings[PROCESS_WORD], settings[CLOCK_WORD] = decider.process_word, decider.clock_word
        self.processes = Processes(self.arrays, cgroup)
        self.source, self.source_reason = choose_source(cgroup, decider, source)
        self._clock, self.stall_reason = _stall_clock(cgroup) if stall else (None, "not asked for")
        self._thread = threading.Thread(target=self._work, name="kdtool-agent")
        self._placed = threading.Event()
        self._faults = FaultCounter()
        self._resting = False
        self._rested_majors = 0
        self._error: BaseException | None = None
        self._cpu_ns = 0

    def begin(self) -> None:
        """Take the processes in that live now, and begin to count majors; `set_active` begins the rest.

        Raises CapabilityError where the thread may not be placed as asked for.
        """
        self._cpu_ns = time.process_time_ns()
        self._watch(True)  # first, so that no new mapping is missed
        self.processes.renew(pids_in(self.cgroup))
        self._thread.start()
        self._placed.wait()
        self.check()

    def rest(self, resting: bool) -> None:
        """Look at nothing of the workload's, which then runs as without an agent, or look again.

        Majors are counted meanwhile when `faults` is called, by /proc. Does nothing if it is so already.
        """
        if resting == self._resting:
            return
        self._rested_majors += self._faults.majors * (-1 if resting else 1)
        self._resting = resting
        self._watch(not resting)
        if not resting:
            self.arrays.settings[REFRESH] = 1  # processes and mappings are others by now

    def set_active(self, watching: bool, degree_pages: int) -> None:
        """Let the program prefetch, or only decide (`degree_pages` 0), or step back.

        Then faults cost the workload nothing, and nobody looks.
        """
        self.arrays.settings[DEGREE] = degree_pages
        if bool(self.arrays.settings[ACTIVE]) != watching:
            self.source.sampling(watching)
            self.arrays.settings[ACTIVE] = int(watching)

    @property
    def cpu_ns(self) -> int:
        """Return the CPU time of this whole process since it began."""
        return time.process_time_ns() - self._cpu_ns

    def faults(self) -> int:
        """Return the page faults of the cgroup's processes, minor and major, but for those of new pages."""
        return self._faults.count(pids_in(self.cgroup))

    @property
    def majors(self) -> int:
        """Return the major faults since it began; while it rests, up to the last call of `faults`."""
        return self.source.majors() + self._rested_majors + self._resting * self._faults.majors

    @property
    def swapped(self) -> bool:
        """Return whether the cgroup's processes had any page in swap when their faults were last counted."""
        return self._faults.swapped_pages > 0

    @property
    def stall(self) -> Stall | None:
        """Return how long major faults took so far, None where that is not known: see `stall_reason`."""
        return None if self._clock is None else self._clock.read()

    def check(self) -> None:
        """Raise what the agent's thread failed with."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Stop sampling and end the thread; what is in the rings is read first."""
        self.source.sampling(False)
        self.arrays.settings[ACTIVE] = 0
        self.arrays.settings[STOP] = 1
        if self._clock is not None:
            self._clock.switch(False)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Take everything down; called whatever happened."""
        self.end()
        self.processes.close()
        self.source.close()
        if self._clock is not None:
            self._clock.close()
            self._clock = None

    def _watch(self, on: bool) -> None:
        self.source.watch(on)
        if self._clock is not None:
            self._clock.switch(on)

    def _work(self) -> None:
        try:
            with self._placement.applied():
                self._placed.set()
                while (reason := self.source.run(self.arrays)) != STOPPED:
                    self._answer(reason)
        except BaseException as error:  # kept for the main thread, which raises it
            self._error = error
        finally:
            self._placed.set()

    def _answer(self, reason: int) -> None:
        """Do what the loop came back for. A process that ends under our hands is no error."""
        pid = int(self.arrays.scratch[WANTED_PID])
        try:
            if reason == NEW_PROCESS:
                self.processes.take(pid)
            elif reason == STALE_MAPPINGS:
                self.processes.read_stale()
            elif reason == UNSEEN:
                self.processes.renew(pids_in(self.cgroup))
            elif reason == LEFT:
                self.processes.let_go(pid)
                self.arrays.scratch[WANTED_PID] = 0
        except ProcessLookupError:
            self.arrays.scratch[WANTED_PID] = pid


def _stall_clock(cgroup: Path) -> tuple[StallClock | None, str]:
    """Return the clock of stalls, or None and why there is none."""
    try:
        return StallClock(cgroup), ""
    except CapabilityError as error:
        return None, str(error)
