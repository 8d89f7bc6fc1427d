"""One replay: a workload under a policy, a memory and a device, scored beside a run without prefetching."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError, unknown_name
from kdtool.replay import memory as layout
from kdtool.replay.devices import Device
from kdtool.replay.engine import CTX_WORDS, replay_range
from kdtool.replay.memory import RECLAIMS, Flush, Memory, new_memory
from kdtool.replay.policies import Policy, Setting
from kdtool.replay.policies.base import OUT_WORDS
from kdtool.replay.policies.none import NoPrefetch
from kdtool.replay.workload import Workload
from kdtool.traces import parse_fraction

__all__ = [
    "Progress",
    "Result",
    "Shadow",
    "check_from_row",
    "check_memory",
    "exact_pages",
    "first_row",
    "replay",
    "replay_none",
    "run_shadow",
]

CHUNK_ROWS = 500_000
"""Replayed between two reports of progress: some tenths of a second."""
LATE_FLUSH = Flush()

Progress = Callable[[int], None]
"""Called with the number of references replayed since the last call."""


@dataclass(frozen=True)
class Result:
    """The score of one replay; the words are those of DESIGN.md. Ratios are None where nothing was counted.

    `flush_phase_ns`: when in its period the kernel's list statistics were first brought up to date, see
    Flush; `lru` does not look at them.

    `exact_from_pages`: from this memory on, the trace's reduction changes nothing under `lru`, see
    exact_pages(); under `linux` a reduced trace is an approximation, since scans look at accessed bits.

    Counts balance: accesses = hits + minor_faults + major_faults + cold_faults, and
    prefetch_issued = prefetch_used + prefetch_wasted + prefetch_unresolved.
    """

    trace: str
    policy: str
    policy_version: str
    memory_pages: int
    device: str
    reclaim: str
    flush_phase_ns: int
    from_row: int
    k: int
    exact_from_pages: int
    accesses: int
    hits: int
    minor_faults: int
    major_faults: int
    late_hits: int
    cold_faults: int
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
    seed: int
    replay_s: float

    def to_row(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Shadow:
    """The run without prefetching: its memory, and where it has major faults (uint8, shape (n_refs,))."""

    memory_pages: int
    reclaim: str
    flush: Flush
    missed: npt.NDArray[np.uint8]


def exact_pages(workload: Workload, degree_pages: int) -> int:
    """Return the memory from which on reduction changes nothing in an LRU, prefetching included.

    A reference that reduction dropped never left the k most recent pages. Between two of its
    neighbours at most k - 1 other pages are referenced, each bringing in at most `degree_pages` more,
    so that nothing is lost in a memory of k * (1 + degree_pages) + 1 pages (tested in test_replay.py).
    """
    return max(workload.k, 1) * (1 + degree_pages) + 1


def check_memory(workload: Workload, memory_pages: int, degree_pages: int) -> None:
    """Refuse a memory that holds less than what reduction took for granted, or than one decision brings in.

    Raises ParameterError.
    """
    least = max(workload.k + 1, degree_pages + 2)
    if memory_pages < least:
        raise ParameterError(
            f"memory is {memory_pages} pages, but a trace reduced with k = {workload.k} and a policy that "
            f"prefetches {degree_pages} need {least} at least: give more memory or record with a smaller --k"
        )


def check_from_row(workload: Workload, from_row: int) -> None:
    """Refuse to count from a row that the trace does not have: ParameterError."""
    if not 0 <= from_row < workload.n_refs:
        raise ParameterError(f"counting from row {from_row}: the trace has rows 0 to {workload.n_refs - 1}")


def first_row(start: str, n_refs: int) -> int:
    """Return the row that `start`, a number or a percentage, means; ParameterError if there is none.

    >>> first_row("60%", 200), first_row("7", 200)
    (120, 7)
    """
    fraction = parse_fraction(start)
    if fraction is None and not start.isdecimal():
        raise ParameterError(f"--from {start}: give a row number or a percentage of the rows, such as 60%")
    row = int(start) if fraction is None else int(fraction * n_refs)
    if row >= n_refs:
        raise ParameterError(f"--from {start}: the trace has rows 0 to {n_refs - 1}: give one of them")
    return row


def run_shadow(
    workload: Workload,
    memory_pages: int,
    device: Device,
    reclaim: str = "linux",
    flush: Flush = LATE_FLUSH,
    progress: Progress | None = None,
) -> Shadow:
    """Replay without prefetching and keep where the major faults are; `reclaim` is linux or lru.

    `flush` says when `linux` sees its own statistics.

    Raises ParameterError for an unknown `reclaim` and for a memory that check_memory() refuses.
    """
    return replay_none(workload, memory_pages, device, reclaim, flush, progress=progress)[0]


def replay_none(
    workload: Workload,
    memory_pages: int,
    device: Device,
    reclaim: str = "linux",
    flush: Flush = LATE_FLUSH,
    *,
    from_row: int = 0,
    progress: Progress | None = None,
) -> tuple[Shadow, Result]:
    """Run the shadow and score it too, which is the result of the policy `none`.

    Raises ParameterError as run_shadow() and replay() do.
    """
    if reclaim not in RECLAIMS:
        raise unknown_name("reclaim", reclaim, RECLAIMS)
    check_memory(workload, memory_pages, 0)
    check_from_row(workload, from_row)
    began = time.perf_counter()
    missed = np.zeros(workload.n_refs, np.uint8)
    before = Shadow(memory_pages, reclaim, flush, np.empty(0, np.uint8))
    state = _run(workload, NoPrefetch(), before, device, missed, from_row, progress)
    replay_s = time.perf_counter() - began
    shadow = replace(before, missed=missed)
    return shadow, _score(workload, NoPrefetch(), shadow, device, state, from_row, replay_s)


def replay(
    workload: Workload,
    policy: Policy,
    shadow: Shadow,
    device: Device,
    *,
    from_row: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Replay `workload` under `policy` in the memory of `shadow`, counting from reference `from_row` on.

    What comes before `from_row` fills the memory and teaches the policy's state, and is not scored.

    Raises ParameterError for a memory that check_memory() refuses and for a `from_row` beyond the trace.
    """
    check_memory(workload, shadow.memory_pages, policy.degree_pages)
    check_from_row(workload, from_row)
    began = time.perf_counter()
    missed = np.zeros(workload.n_refs, np.uint8)
    state = _run(workload, policy, shadow, device, missed, from_row, progress)
    replay_s = time.perf_counter() - began
    return _score(workload, policy, shadow, device, state, from_row, replay_s)


def _run(
    workload: Workload,
    policy: Policy,
    shadow: Shadow,
    device: Device,
    missed: npt.NDArray[np.uint8],
    from_row: int,
    progress: Progress | None,
) -> Memory:
    setting = Setting(workload, shadow.memory_pages, device, shadow.missed)
    prepared = policy.prepare(setting)
    w, state = workload, new_memory(len(workload.keys), shadow.reclaim, shadow.flush)
    trace = (
        w.page, w.insns, w.store, w.tid, w.ip, w.keys, w.pids, w.vma_of_page, w.vma_bounds, w.free_row,
        w.free_page,
    )  # fmt: skip
    s = state
    arrays = (
        s.status, s.dirty, s.links, s.slot, s.page_of_slot, s.ready_ns, s.scalars, s.counters, s.marks,
        s.evicted_at,
    )  # fmt: skip
    out = np.zeros(OUT_WORDS if policy.degree_pages else 0, np.int64)
    buffers = (prepared.params, prepared.state, np.zeros(CTX_WORDS, np.int64), out)
    for start in range(0, w.n_refs, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, w.n_refs)
        replay_range(
            policy.decide, start, stop, from_row, shadow.memory_pages, trace, arrays, buffers, device.values,
            missed, shadow.missed,
        )  # fmt: skip
        if progress is not None:
            progress(stop - start)
    return state


def _score(
    workload: Workload,
    policy: Policy,
    shadow: Shadow,
    device: Device,
    state: Memory,
    from_row: int,
    replay_s: float,
) -> Result:
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
        reclaim=shadow.reclaim,
        flush_phase_ns=shadow.flush.phase_ns,
        from_row=from_row,
        k=workload.k,
        exact_from_pages=exact_pages(workload, policy.degree_pages),
        accesses=count[layout.ACCESSES],
        hits=count[layout.HITS],
        minor_faults=count[layout.MINOR],
        major_faults=major,
        late_hits=count[layout.LATE],
        cold_faults=count[layout.COLD],
        prefetch_issued=count[layout.ISSUED],
        prefetch_used=used,
        prefetch_wasted=wasted,
        prefetch_unresolved=scalars[layout.PREFETCHED_NOW],
        accuracy=_ratio(used, used + wasted),
        coverage=_ratio(used, used + major),
        hit_rate=_ratio(count[layout.ACCESSES] - major, count[layout.ACCESSES]),
        pollution_faults=count[layout.POLLUTION],
        pollution=_ratio(count[layout.POLLUTION], shadow_major),
        stall_ns=scalars[layout.WAITED_NS] - scalars[layout.START_WAITED_NS],
        runtime_ns=scalars[layout.NOW_NS] - scalars[layout.START_NS],
        decisions=count[layout.DECISIONS],
        seed=0,
        replay_s=replay_s,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
