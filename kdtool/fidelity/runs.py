"""One run of a program under the kernel's own swapping, and what the kernel counted.

No model in between: the command runs in a cgroup of ours with a limit. What others on the machine do is kept
out where the kernel counts by cgroup or process, and told apart where it counts for the whole machine only.
"""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdtool.collect.launch import Launched
from kdtool.collect.limited import RunFacts, check_memory, memory_of, own_cgroup, run_in
from kdtool.collect.terminal import stop_on_signals
from kdtool.errors import CapabilityError
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.replay import Flush
from kdtool.traces import PAGE_BYTES

__all__ = ["MAX_OOM_KILLS", "KernelRun", "reading", "run_once", "wait_for_moment"]

MAX_OOM_KILLS = 20
"""With many reads in flight the kernel may find nothing to reclaim and kill: such a run is made again."""
READ_EVERY_S = 0.005
VMSTAT = Path("/proc/vmstat")
READAHEAD = ("swap_ra", "swap_ra_hit")

Tick = Callable[[], str | None]


@dataclass(frozen=True)
class KernelRun:
    """What one run did.

    wall_ns : from the first instruction to the end
    major_faults : of the program, by wait4(2)
    swap_ins : pages that came back from swap for its cgroup, read ahead or not: workingset_refault_anon of
        memory.stat. A page full of zeros comes back without a read (v6.12) and is counted too, as replay does
    read_pages : pages read from any device for the program, by getrusage(2): its swap-ins that were reads,
        and its file reads
    pswpin, pswpout : of its cgroup (v2) or of the whole machine during the run, as `swap_scope` says
    swap_ra, swap_ra_hit : pages read ahead, and those of them that were used; always of the whole machine
    file_bytes : page cache charged to its cgroup when it has ended
    """

    wall_ns: int
    major_faults: int
    swap_ins: int
    read_pages: int
    pswpin: int
    pswpout: int
    swap_scope: str
    swap_ra: int
    swap_ra_hit: int
    file_bytes: int

    def to_row(self) -> dict[str, Any]:
        """Return the run as a JSON object."""
        return asdict(self)


def run_once(
    command: tuple[str, ...],
    memory_bytes: int | None,
    *,
    current: bool = False,
    duration_s: float | None = None,
    tick: Tick | None = None,
    sample: Callable[[MemoryCgroup], object] | None = None,
) -> tuple[RunFacts, KernelRun]:
    """Run a command once under a memory limit; its standard output goes to standard error.

    current : keep the cgroup's statistics up to date, see Setting
    tick : called every 50 ms; a reason that it returns ends the command and is `ended_by`
    sample : called with the memory cgroup every 5 ms, from another thread

    Raises ParameterError, CapabilityError or CommandError as run_limited() does. That the command failed, was
    killed or was ended is no error: look at the RunFacts.
    """
    check_memory(memory_bytes)
    take = sample or (MemoryCgroup.stat if current else None)
    with (
        stop_on_signals() as stop,
        own_cgroup(memory_bytes, with_events=False) as own,
        Launched(command, own, quiet_stdout=True) as launched,
    ):
        memory = memory_of(own)
        if memory is None:
            raise CapabilityError(
                "no cgroup hierarchy with the memory controller is mounted: see `kdtool doctor`"
            )
        before, read_before = _readahead(), _read_pages()
        with nullcontext() if take is None else reading(memory, take):
            facts = run_in(own, launched, stop, duration_s=duration_s, tick=tick or _go_on)
        ahead = {name: value - before[name] for name, value in _readahead().items()}
        file_bytes = memory.charges().file_bytes
    return facts, KernelRun(
        wall_ns=facts.wall_ns,
        major_faults=facts.major_faults,
        swap_ins=facts.memory_stat["workingset_refault_anon"],
        read_pages=_read_pages() - read_before,
        pswpin=facts.pswpin,
        pswpout=facts.pswpout,
        swap_scope=facts.swap_scope,
        **ahead,
        file_bytes=file_bytes,
    )


@contextmanager
def reading(memory: MemoryCgroup, take: Callable[[MemoryCgroup], object]) -> Iterator[None]:
    """Call `take` with the cgroup every 5 ms while the block runs.

    Reading memory.stat makes the kernel bring the cgroup's statistics up to date.
    """
    done = threading.Event()

    def read() -> None:
        while not done.wait(READ_EVERY_S):
            with suppress(OSError):  # the cgroup may go at any moment
                take(memory)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()


def wait_for_moment(run: int, runs: int) -> None:
    """Wait for the moment at which the run of this number is to start.

    The kernel brings statistics up to date every 2 s, and where in that time a program starts decides how
    much it swaps. When the kernel does so is not known: moments spread evenly over the 2 s meet all of it.
    """
    at_ns = Flush.period_ns * (2 * run + 1) // (2 * runs)
    time.sleep((at_ns - time.monotonic_ns()) % Flush.period_ns / 1e9)


def _go_on() -> str | None:
    return None


def _read_pages() -> int:
    """Return what was read for all that we started and waited for; ru_inblock is in units of 512 bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock * 512 // PAGE_BYTES


def _readahead() -> dict[str, int]:
    lines = (line.split() for line in VMSTAT.read_text().splitlines())
    counted = {name: int(value) for name, value in lines if name in READAHEAD}
    return {name: counted.get(name, 0) for name in READAHEAD}
