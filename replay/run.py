"""One replay: a workload under a policy, a memory and a device, scored beside a run without prefetching."""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError, unknown_name
from kdtool.replay import memory as layout
from kdtool.replay.devices import DEVICE_FIELDS, Device
from kdtool.replay.drive import Progress, drive
from kdtool.replay.lists import MOST_PAGES
from kdtool.replay.live import LiveSetting
from kdtool.replay.longarrays import new_array
from kdtool.replay.memory import MGLRU, RECLAIMS, Flush, Memory, new_memory
from kdtool.replay.pagetables import with_page_tables
from kdtool.replay.policies import Policy, Setting, device_of
from kdtool.replay.policies.base import Prepared
from kdtool.replay.policies.none import NoPrefetch
from kdtool.replay.result import Result, Shadow, exact_pages, score
from kdtool.replay.workload import Workload
from kdtool.rmt import LIMITS
from kdtool.traces import MOST_SHOWN, parse_fraction, parse_number

__all__ = [
    "Progress",
    "Result",
    "Shadow",
    "check_from_row",
    "check_memory",
    "check_times",
    "exact_pages",
    "first_row",
    "least_memory",
    "replay",
    "replay_none",
    "run_shadow",
]

MAX_TIME = 2**63 - 1
LATE_FLUSH = Flush()
ALONE = LiveSetting()


def least_memory(workload: Workload, degree_pages: int) -> int:
    """Return the smallest memory, in pages, that check_memory() lets pass for a policy of that degree."""
    return max(_needs(workload, degree_pages))[0]


def _needs(workload: Workload, degree_pages: int) -> list[tuple[int, str, str]]:
    """Return how many pages of memory are needed, by what, and what else than more memory would help."""
    k, ra_pages = workload.k, workload.files.ra_pages
    return [
        (2, "any replay needs", ""),
        (
            degree_pages + 2,
            f"a policy that prefetches {degree_pages} needs",
            " or a policy that prefetches fewer (train --degree)",
        ),
        (ra_pages + 2, f"files with a readahead of {ra_pages} need", " or a smaller --read-ahead"),
        (k + 1, f"a trace reduced with k = {k} needs", " or record with a smaller --k"),
    ]


def check_memory(workload: Workload, memory_pages: int, degree_pages: int) -> None:
    """Refuse a memory that holds less than what reduction took for granted, or than one decision brings in.

    Raises ParameterError.
    """
    least, what, otherwise = max(_needs(workload, degree_pages), key=lambda need: need[0])
    if memory_pages < least:
        raise ParameterError(
            f"memory is {memory_pages} pages, but {what} {least} at least: give more memory{otherwise}"
        )
    if min(memory_pages, workload.n_pages) > MOST_PAGES:
        raise ParameterError(
            f"memory is {memory_pages} pages and the trace touches {workload.n_pages}: at most {MOST_PAGES} "
            f"(256 GiB) can be replayed: give less memory"
        )


def check_times(workload: Workload, device: Device) -> None:
    """Refuse what could last longer than 63 bits of ns, 292 years, or of ps, 106 days, of instructions alone.

    Raises ParameterError.
    """
    costs = dict(zip(DEVICE_FIELDS, device.values.tolist(), strict=False))
    n_insns = int(workload.last_insns.sum())
    work_ps = n_insns * costs["insn_ps"]
    waits_ns = workload.n_refs * sum(costs[field] for field in DEVICE_FIELDS if field.endswith("_ns"))
    waits_ns += sum(workload.wakes.asked_ns.tolist())
    if work_ps + 1000 > MAX_TIME or work_ps // 1000 + waits_ns * LIMITS.degree_pages > MAX_TIME:
        raise ParameterError(
            f"{workload.name} on {device.name}: {n_insns:,} instructions of "
            f"{costs['insn_ps']} ps, or the device's times, add up to more than can be counted: "
            f"give a device with smaller ones"
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
    row = parse_number(start) if fraction is None else int(fraction * n_refs)
    if row is None:
        raise ParameterError(
            f"--from {start[:MOST_SHOWN]}: give a row number or a percentage of the rows, such as 60%"
        )
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
    missed = new_array(workload.n_refs, np.uint8)
    before = Shadow(memory_pages, reclaim, flush, np.empty(0, np.uint8))
    state = _run(workload, NoPrefetch(), before, device, missed, from_row, progress)
    replay_s = time.perf_counter() - began
    shadow = replace(before, missed=missed)
    return shadow, score(workload, NoPrefetch(), shadow, device.by_agent(0), state, from_row, replay_s)


def replay(
    workload: Workload,
    policy: Policy,
    shadow: Shadow,
    device: Device,
    *,
    from_row: int = 0,
    progress: Progress | None = None,
    live: LiveSetting = ALONE,
) -> Result:
    """Replay `workload` under `policy` in the memory of `shadow`, counting from reference `from_row` on.

    What comes before `from_row` fills the memory and teaches the policy's state, and is not scored.

    live : what surrounds a policy that an agent runs; others are not concerned. Guards count from row 0

    Raises ParameterError for a memory that check_memory() refuses and for a `from_row` beyond the trace.
    """
    assert live.guards is None or from_row == 0, "what guards compare must not begin anew"
    check_memory(workload, shadow.memory_pages, max(policy.degree_pages, live.readahead.degree_pages))
    check_from_row(workload, from_row)
    began = time.perf_counter()
    missed = new_array(workload.n_refs, np.uint8)
    state = _run(workload, policy, shadow, device, missed, from_row, progress, live)
    replay_s = time.perf_counter() - began
    return score(workload, policy, shadow, device_of(policy, device), state, from_row, replay_s)


def _run(
    workload: Workload,
    policy: Policy,
    shadow: Shadow,
    device: Device,
    missed: npt.NDArray[np.uint8],
    from_row: int,
    progress: Progress | None,
    live: LiveSetting = ALONE,
) -> Memory:
    check_times(workload, device)
    fresh = partial(_fresh_memory, workload, shadow)
    setting = partial(Setting, workload, shadow.memory_pages, device, shadow.missed)

    def runtime_ns(prepared: Prepared) -> int:
        # Its state is used up by the trial, which makes none of its own.
        trial = replace(prepared, state=prepared.state.copy())
        memory = drive(setting(fresh(), _no_trial), policy, trial, new_array(len(missed), np.uint8), ALONE)
        return int(memory.scalars[layout.NOW_NS])

    begun = setting(fresh(), runtime_ns)
    prepared = policy.prepare(begun)
    return drive(begun, policy, prepared, missed, live, from_row=from_row, progress=progress)


def _fresh_memory(workload: Workload, shadow: Shadow) -> Memory:
    memory = new_memory(
        workload.n_pages,
        shadow.memory_pages,
        shadow.reclaim,
        shadow.flush,
        workload.files.n_pages,
        len(workload.tids),
        workload.zeros,
    )
    return with_page_tables(memory, workload.keys) if RECLAIMS[shadow.reclaim] == MGLRU else memory


def _no_trial(prepared: Prepared) -> int:
    raise AssertionError(f"a trial of {prepared} asks for a trial")
