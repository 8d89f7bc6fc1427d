"""The score of a replay, beside a run without prefetching."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.replay import memory as layout
from kdtool.replay.agent import MOST_WAITING
from kdtool.replay.charges import MOST_STOCKED
from kdtool.replay.devices import Device
from kdtool.replay.memory import Flush, Memory
from kdtool.replay.policies.base import Policy
from kdtool.replay.workload import Workload
from kdtool.rmt.agentrules import FREE_PAGES

__all__ = ["Result", "Shadow", "exact_pages", "score"]


@dataclass(frozen=True)
class Result:
    """The score of one replay; the words are those of DESIGN.md. Ratios are None where nothing was counted.

    `agent_ns`: how long after a fault an idle agent asks for pages, 0: within it, see agent.py.

    `flush_phase_ns`: when in its period the kernel's list statistics were first brought up to date, see
    Flush; `lru` does not look at them.

    `exact_from_pages`: from this memory on, the trace's reduction changes nothing under `lru`, see
    exact_pages(); under `linux` a reduced trace is an approximation, since scans look at accessed bits.

    Counts balance: accesses = hits + minor_faults + major_faults + cold_faults,
    minor_faults = prefetch_used + cache_hits (pages in memory that were not mapped: reclaim had unmapped them
    and not freed yet, or they are of a file), and
    prefetch_issued = prefetch_used + prefetch_wasted + prefetch_unresolved.

    Of the major faults, `file_major_faults` are on pages of files; the kernel's own readahead serves those,
    not the policy, and coverage leaves them out. `file_pages_read` were read from files, readahead included;
    of these, `file_refaults` had been in memory before (workingset_refault_file).

    `oom_kills`: how often the kernel would have killed the program for its limit, having found nothing to
    give up again and again (try_charge_memcg(), mm/memcontrol.c, v6.18); replay has it wait, and go on.
    """

    trace: str
    policy: str
    policy_version: str
    memory_pages: int
    device: str
    agent_ns: int
    reclaim: str
    flush_phase_ns: int
    from_row: int
    k: int
    exact_from_pages: int
    accesses: int
    hits: int
    minor_faults: int
    major_faults: int
    file_major_faults: int
    late_hits: int
    cache_hits: int
    cold_faults: int
    file_pages_read: int
    file_refaults: int
    prefetch_issued: int
    prefetch_used: int
    prefetch_wasted: int
    prefetch_unresolved: int
    accuracy: float | None
    coverage: float | None
    hit_rate: float | None
    pollution_faults: int
    pollution: float | None
    stall_ns: int
    runtime_ns: int
    decisions: int
    oom_kills: int
    seed: int
    replay_s: float

    def to_row(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Shadow:
    """The run without prefetching: its memory, and where it has major faults (uint8, shape (n_refs,):
    SWAP_MISSED or FILE_MISSED)."""

    memory_pages: int
    reclaim: str
    flush: Flush
    missed: npt.NDArray[np.uint8]


def exact_pages(workload: Workload, degree_pages: int, agent_ns: int = 0) -> int:
    """Return the memory from which on reduction changes nothing in an LRU, prefetching included.

    A reference that reduction dropped never left the k most recent pages. Between two of its
    neighbours at most k - 1 other pages are referenced, each bringing in at most `degree_pages` more,
    so that nothing is lost in a memory of k * (1 + degree_pages) + 1 pages (tested in test_reduction.py).
    What an agent may still ask for, what it keeps free, and what CPUs have charged and not used, may come on
    top. `belady` is no LRU: its faults are the same, but it may evict other pages, and what those cost to
    write is part of its run time.
    """
    by_agent = MOST_WAITING + FREE_PAGES + MOST_STOCKED if agent_ns else 0
    return max(workload.k, 1) * (1 + degree_pages) + 1 + by_agent


def score(
    workload: Workload,
    policy: Policy,
    shadow: Shadow,
    device: Device,
    state: Memory,
    from_row: int,
    replay_s: float,
) -> Result:
    """Return the score of a replay that ended with the memory `state` and counted from `from_row` on."""
    shadow_major = int(np.count_nonzero(shadow.missed[from_row:]))
    count = [int(value) for value in state.counters]
    scalars = [int(value) for value in state.scalars]
    major, used, wasted = count[layout.MAJOR], count[layout.USED], count[layout.WASTED]
    return Result(
        trace=workload.name,
        policy=policy.name,
        policy_version=policy.version,
        memory_pages=shadow.memory_pages,
        device=device.name,
        agent_ns=device.agent_ns,
        reclaim=shadow.reclaim,
        flush_phase_ns=shadow.flush.phase_ns,
        from_row=from_row,
        k=workload.k,
        exact_from_pages=exact_pages(workload, policy.degree_pages, device.agent_ns),
        accesses=count[layout.ACCESSES],
        hits=count[layout.HITS],
        minor_faults=count[layout.MINOR],
        major_faults=major,
        file_major_faults=count[layout.FILE_MAJOR],
        late_hits=count[layout.LATE],
        cache_hits=count[layout.CACHE_HITS],
        cold_faults=count[layout.COLD],
        file_pages_read=count[layout.FILE_READ],
        file_refaults=count[layout.FILE_REFAULTS],
        prefetch_issued=count[layout.ISSUED],
        prefetch_used=used,
        prefetch_wasted=wasted,
        prefetch_unresolved=scalars[layout.PREFETCHED_NOW],
        accuracy=_ratio(used, used + wasted),
        coverage=_ratio(used, used + major - count[layout.FILE_MAJOR]),
        hit_rate=_ratio(count[layout.ACCESSES] - major, count[layout.ACCESSES]),
        pollution_faults=count[layout.POLLUTION],
        pollution=_ratio(count[layout.POLLUTION], shadow_major),
        stall_ns=scalars[layout.WAITED_NS] - scalars[layout.START_WAITED_NS],
        runtime_ns=scalars[layout.NOW_NS] - scalars[layout.START_NS],
        decisions=count[layout.DECISIONS],
        oom_kills=count[layout.OOM_KILLS],
        seed=0,
        replay_s=replay_s,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
