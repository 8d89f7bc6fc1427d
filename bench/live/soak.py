"""A soak: the agent at a full rate of faults for long. Is memory flat, and is every event accounted for?

Four processes at a time load pages with a stride in half the memory that they need, end, and are followed by
others, so that processes come and go, too. Every row says what the agent holds and what is open.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.fidelity.machine import own_swap
from bench.live.store import LiveStore
from bench.live.workloads import choose_pairs
from kdtool.deploy import layout
from kdtool.deploy.agent import Agent
from kdtool.deploy.governor import Governor
from kdtool.deploy.request import DeployRequest
from kdtool.deploy.session import deploy
from kdtool.errors import KdtoolError
from kdtool.live.policies import of_program
from kdtool.rmt import stride_program, worst_case

__all__ = ["SoakError", "open_pages", "soak"]

ROWS = 20
WORKERS = 4
ARGUMENTS = ("4000", "3", "0")
"""Of strided_loads.c: 16 MB a process, every third page, no work between the loads."""
LIMIT_BYTES = 8 << 20
"""A process."""
DEGREE_PAGES = 16
WARM_SHARE = 0.2
"""Of the time, in which memory may still grow: Python and Numba load what they use."""
GROWTH_KIB = 4096
FATES = ("UNMAPPED", "KNOWN", "DROPPED", "LIMITED", "NOT_SWAPPED", "FORGOTTEN", "LATE", "REFUSED", "ISSUED")
Say = Callable[[str], None]


class SoakError(KdtoolError):
    """Memory grew, or something is unaccounted for."""


@dataclass(frozen=True)
class _Look:
    """What the agent holds at one moment, and what it has done."""

    s: float
    resident_kib: int
    files: int
    events: int
    processes: int


def soak(seconds: float, source: str, store: LiveStore, swap_size: str, say: Say) -> dict[str, Any]:
    """Let the agent work for so long; return the row of its result, with `resident_kib` over time.

    Raises SoakError when memory has grown since the first fifth, or an event or page is unaccounted for.
    """
    (pair,) = choose_pairs(["stride-3"])
    once = " ".join(replace(pair.run, arguments=ARGUMENTS).command(store.binaries))
    loop = f"while :; do {once} > /dev/null; done"
    program = stride_program(DEGREE_PAGES)
    decider = of_program(replace(program, budget=worst_case(program)))
    command = ("/bin/sh", "-c", " ".join(f"{loop} &" for _ in range(WORKERS)) + " wait")
    request = DeployRequest(
        command=command,
        memory_bytes=LIMIT_BYTES * WORKERS,
        duration_s=seconds,
        step_back=False,
        source=source,
        quiet_stdout=True,
    )
    looks: list[_Look] = []
    agents: list[Agent] = []
    begin_s = time.monotonic()

    def look(agent: Agent, _: Governor) -> None:
        agents[:] = [agent]
        if time.monotonic() - begin_s >= seconds * len(looks) / ROWS:
            looks.append(_look(agent, time.monotonic() - begin_s))
            say(_describe(looks[-1]))

    with own_swap(False, swap_size, loop=store.loop):
        row = deploy(request, decider, look)
    unaccounted = row["samples"]["counted"] - row["samples"]["seen"] - row["samples"]["lost"]
    pages = open_pages(agents[0].arrays)
    warm = next(each for each in looks if each.s >= WARM_SHARE * seconds)
    grown_kib = looks[-1].resident_kib - warm.resident_kib
    say(f"memory grew by {grown_kib} KiB; {unaccounted} events and {pages} pages unaccounted for")
    if grown_kib > GROWTH_KIB or unaccounted or pages:
        raise SoakError("soak: memory is not flat, or something is unaccounted for: see the lines above")
    return row | {"resident_kib": [each.resident_kib for each in looks], "grown_kib": grown_kib}


def open_pages(arrays: layout.Arrays) -> int:
    """Return how many decided pages are neither in the queue nor counted by what became of them."""
    count = arrays.counters
    settled = sum(int(count[getattr(layout, name)]) for name in FATES)
    return int(count[layout.DECIDED]) - settled - int(arrays.scratch[layout.QUEUE_COUNT])


def _look(agent: Agent, s: float) -> _Look:
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    events = int(agent.arrays.counters[layout.EVENTS])
    return _Look(s, resident, len(os.listdir("/proc/self/fd")), events, agent.processes.taken)


def _describe(look: _Look) -> str:
    return (
        f"soak {look.s:.0f} s: {look.resident_kib:,} KiB resident, {look.files} files open, "
        f"{look.events:,} events, {look.processes} processes so far"
    )
