"""Events on demand: `python loads.py fault|switch CPU`, for overhead.py.

Says how many events a batch has; then, for each line that it reads, makes a batch of them and prints how many
ns that took: of CPU where one thread makes them, else of the clock.
A script of the standard library alone, so that it starts in some 20 ms.
"""

import mmap
import os
import sys
import time
from collections.abc import Callable

PAGES = 2048
TRIPS = 256


def faults() -> tuple[int, Callable[[], int]]:
    """Return the events of a batch and what makes one: first touches of anonymous pages, minor faults."""
    pages = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    ones = b"\1" * PAGES

    def batch() -> int:
        pages.madvise(mmap.MADV_DONTNEED)
        begin_ns = time.thread_time_ns()
        pages[:: mmap.PAGESIZE] = ones
        return time.thread_time_ns() - begin_ns

    return PAGES, batch


def switches() -> tuple[int, Callable[[], int]]:
    """Return the same of switches: a byte to a second process on this CPU and back, two of them.

    The second is started in the first batch, when this one is where it is to be recorded.
    """
    there, back = os.pipe(), os.pipe()
    started: list[int] = []

    def batch() -> int:
        if not started:
            started.append(_start_echo(there, back))
        begin_ns = time.perf_counter_ns()
        for _ in range(TRIPS):
            os.write(there[1], b"x")
            os.read(back[0], 1)
        return time.perf_counter_ns() - begin_ns

    return 2 * TRIPS, batch


def _start_echo(there: tuple[int, int], back: tuple[int, int]) -> int:
    """Start a process that writes to one pipe what it reads from the other until that is closed."""
    if pid := os.fork():
        os.close(there[0])
        return pid
    os.close(there[1])
    while byte := os.read(there[0], 1):
        os.write(back[1], byte)
    os._exit(0)


def main() -> None:
    """Make batches until standard input ends."""
    os.sched_setaffinity(0, {int(sys.argv[2])})
    n_events, batch = {"fault": faults, "switch": switches}[sys.argv[1]]()
    print(n_events, flush=True)
    for _ in sys.stdin:
        print(batch(), flush=True)


if __name__ == "__main__":
    main()
