"""From a prepared policy to the end of its run: the engine by chunks of rows, the guards between."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.replay.agent import new_agent
from kdtool.replay.compiling import engine
from kdtool.replay.hook import CTX_FOLLOWS_CACHE, CTX_WORDS
from kdtool.replay.keys import VPN_BITS
from kdtool.replay.live import LiveSetting, ask_guards
from kdtool.replay.longarrays import zeros
from kdtool.replay.lrupass import MOST_REFS, LruPass
from kdtool.replay.memory import (
    AGENT_NS,
    HAS_BITS,
    INSN_PS,
    JIFFY_NS,
    KEEPS_NS,
    LRU,
    N_CPUS,
    PAGE_BYTES,
    RECLAIM_KIND,
    SLICE_NS,
    TICK_EVERY_NS,
    TICK_NS,
    VICTIM_AT,
    Memory,
)
from kdtool.replay.policies import device_of
from kdtool.replay.policies.base import OUT_WORDS, Policy, Prepared, Setting
from kdtool.replay.threads import begin_streams, end_run
from kdtool.replay.workload import Workload
from kdtool.rmt.numba_vm import compiled

__all__ = ["Progress", "drive"]

CHUNK_ROWS = 500_000
"""Replayed between two reports of progress: some tenths of a second."""

PLACE = np.dtype([("key", "i8"), ("vma", "i4"), ("unused", "i4")])
"""What a policy is told of a page, in one cache line; as large as memory's record, as the engine has it."""

Progress = Callable[[int], None]
"""Called with the number of references replayed since the last call."""


def drive(
    setting: Setting,
    policy: Policy,
    prepared: Prepared,
    missed: npt.NDArray[np.uint8],
    live: LiveSetting,
    *,
    from_row: int = 0,
    progress: Progress | None = None,
) -> Memory:
    """Replay into the memory of `setting` and return it; `missed` is set where there are major faults."""
    memory, shadow_missed, w = setting.memory, setting.shadow_missed, setting.workload
    if prepared.victims is not None:
        memory = memory.planned(prepared.victims)
        # What it evicts is its own choice, whatever it reads ahead: none of its faults comes from that.
        shadow_missed = np.empty(0, np.uint8)
    values = device_of(policy, setting.device).values
    lru, faults = None, np.empty(0, np.int32)
    if _misses_go_by_order(setting, policy, prepared, values):
        lru = LruPass.at_start(w, setting.memory_pages, min(w.n_refs, CHUNK_ROWS))
        memory = memory.planned(lru.victims)
    memory.scalars[JIFFY_NS] = values[TICK_EVERY_NS]
    if len(w.tids) == 1:  # of several, nobody knows who is on that CPU
        memory.scalars[KEEPS_NS] = values[SLICE_NS]
    arrays = memory.arrays()
    files = (w.files.files.copy(), w.files.mappings, w.files.mapping_of, w.files.ra_pages)
    policies = (
        _arrays(policy, prepared, by_agent=bool(values[AGENT_NS])),
        _arrays(live.readahead, live.readahead.prepare(setting), by_agent=False),
    )
    told = bool(values[AGENT_NS]) or any(len(out) for _, _, _, out, *_ in policies)
    trace = _trace(w, memory, int(values[N_CPUS]), told=told)
    guards = live.guards if values[AGENT_NS] else None
    if guards is not None:
        memory.scalars[TICK_NS] = 0
        ask_guards(guards, memory)
    decide, beside, replay_range = compiled(policy.decide), compiled(live.readahead.decide), engine()
    row = 0
    while row < w.n_refs:
        stop = min(row + CHUNK_ROWS, w.n_refs)
        if lru is not None:
            faults = lru.find(row, stop)
            memory.scalars[VICTIM_AT] = 0
        reached = replay_range(
            decide, beside, row, stop, from_row, setting.memory_pages, trace, arrays, policies, values, files,
            missed, shadow_missed, faults,
        )  # fmt: skip
        if guards is not None and reached < stop:
            ask_guards(guards, memory)
        if progress is not None:
            progress(reached - row)
        row = reached
    end_run(memory.scalars, memory.clocks, w.last_insns * values[INSN_PS] // 1000)
    return memory


def _misses_go_by_order(
    setting: Setting, policy: Policy, prepared: Prepared, values: npt.NDArray[np.int64]
) -> bool:
    """Tell whether memory is an LRU into which nothing is read ahead, so that no clock says what it holds."""
    w = setting.workload
    reads_ahead = policy.degree_pages or values[AGENT_NS] or w.files.n_pages
    is_lru = setting.memory.scalars[RECLAIM_KIND] == LRU and prepared.victims is None
    return bool(is_lru and not reads_ahead and w.n_refs <= MOST_REFS)


def _trace(w: Workload, memory: Memory, n_cpus: int, *, told: bool) -> tuple[npt.NDArray[Any], ...]:
    """Return what the engine takes of a workload, of several threads in streams where memory goes by time."""
    following = after = np.empty(0, np.int32)
    flags, process_of = np.empty(0, np.uint8), np.empty(0, np.int64)
    free, vmas = (w.free_row, w.free_page), (w.vma_row, w.vma_change)
    if len(w.tids) > 1 and memory.scalars[RECLAIM_KIND] & HAS_BITS:
        streams = w.streams
        following, after, flags = streams.following, streams.after, streams.flags
        process_of = streams.process_of
        free, vmas = streams.free, streams.vmas
        begin_streams(memory.scalars, memory.clocks, streams, n_cpus)
    places, vma_bounds = _places(w, told=told), np.tile(np.array([0, 1 << VPN_BITS]), (w.n_vmas, 1))
    return (
        w.page, w.insns, w.store, w.thread, w.ip, w.keys, w.pids, places["vma"], vma_bounds, *free,
        w.wakes.row, w.tids, following, flags, w.shared.key_of_row, w.shared.note_of_key, w.shared.note_row,
        w.shared.note_page, *vmas, process_of, w.wakes.after, w.wakes.asked_ns, after, places["key"],
    )  # fmt: skip


def _places(workload: Workload, *, told: bool) -> npt.NDArray[np.void]:
    """Return each page's key and its VMA at the start, its process, if a policy is told of pages."""
    assert PLACE.itemsize == PAGE_BYTES
    keys = workload.keys if told else workload.keys[:0]
    places = zeros(len(keys) * PLACE.itemsize, np.uint8).view(PLACE)
    places["key"], places["vma"] = keys, keys >> VPN_BITS
    return places


def _arrays(policy: Policy, prepared: Prepared, *, by_agent: bool) -> tuple[npt.NDArray[np.int64], ...]:
    """Return what the engine takes of a policy: params, state, context, answers, and of its agent."""
    out = np.zeros(OUT_WORDS if policy.degree_pages else 0, np.int64)
    context = np.zeros(CTX_WORDS, np.int64)
    context[CTX_FOLLOWS_CACHE] = prepared.follows_cache
    return prepared.params, prepared.state, context, out, *new_agent(works=by_agent)
