"""What a program needs without a limit, and how much of a limit is left for its anonymous pages.

A limit also covers what swap cannot hold. Both parts are measured:

    kernel memory   page tables, stacks, slab: read from the cgroup at the moment of the largest use in a run
                    without a limit. Page tables stay when pages are swapped out: it is the same under a limit
    file pages      those charged to the program when it has ended, in each run under the limit. Mostly none:
                    its files are in the page cache already, charged to whoever read them first

Not taken off: the pages that each CPU holds charged and not yet used, 64 at most (mm/memcontrol.c,
MEMCG_CHARGE_BATCH). At the limit the kernel charges page by page and they run out.
"""

from dataclasses import asdict, dataclass
from statistics import median_low
from typing import Any

from kdtool.errors import CommandError, ParameterError
from kdtool.fidelity.runs import run_once
from kdtool.kernel.memcg import Charges
from kdtool.traces import PAGE_BYTES

__all__ = ["Footprint", "limit_bytes", "measure_footprint", "replay_pages"]


RUNS = 3


@dataclass(frozen=True)
class Footprint:
    """A run without a limit.

    peak_bytes : the most that was charged to the cgroup
    anonymous_bytes, kernel_bytes, file_bytes : what the most that was sampled was made of
    wall_ns : of the run, median of RUNS
    """

    peak_bytes: int
    anonymous_bytes: int
    kernel_bytes: int
    file_bytes: int
    wall_ns: int

    def to_row(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def measure_footprint(name: str, command: tuple[str, ...]) -> Footprint:
    """Run `command` without a limit, first to have its files in the page cache, then RUNS times, and measure.

    Raises CapabilityError where there is no memory cgroup, CommandError when the command fails or ends before
    it could be looked at.
    """
    samples: list[Charges] = []
    run_once(command, None)
    facts, run = run_once(command, None, sample=lambda memory: samples.append(memory.charges()))
    if facts.exit_code:
        raise CommandError(f"{name}: ended with {facts.exit_code} without any limit: run its command alone")
    if not samples:
        raise CommandError(f"{name}: ended within 5 ms, before its memory could be read: give it more to do")
    walls_ns = [run.wall_ns, *(run_once(command, None)[1].wall_ns for _ in range(RUNS - 1))]
    most = max(samples, key=lambda charges: charges.usage_bytes)
    peak = facts.memory["peak_bytes"] or most.usage_bytes
    return Footprint(peak, most.anonymous_bytes, most.kernel_bytes, most.file_bytes, median_low(walls_ns))


def limit_bytes(footprint: Footprint, percent: int) -> int:
    """Return `percent` of the footprint in whole pages."""
    return footprint.peak_bytes * percent // 100 // PAGE_BYTES * PAGE_BYTES


def replay_pages(limit: int, kernel_bytes: int, file_bytes: int) -> int:
    """Return the pages of `limit` bytes that are left for anonymous memory.

    Raises ParameterError when there are none.

    >>> replay_pages(1 << 20, kernel_bytes=3 * 4096, file_bytes=4096)
    252
    """
    pages = (limit - kernel_bytes - file_bytes) // PAGE_BYTES
    if pages <= 0:
        raise ParameterError(f"a limit of {limit} bytes leaves no anonymous page: give a larger one")
    return pages
