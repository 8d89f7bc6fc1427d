"""The replay loop: each reference in turn, against one memory, one device and one policy.

Exact: integers only, deterministic, and resumable after any reference, so that a trace replayed in
chunks gives what it gives in one go. Time is the workload's own instructions plus what it waited plus
what the kernel worked for it; threads are taken one after another.

At a major fault room is made for the policy's pages, then all reads go to the device, the demand read first
unless the policy says where among them, and the workload waits for its own page: as Linux submits a readahead
window before it waits. This favours no policy. `mm.swapin` is asked at a major fault and at the first touch
of a prefetched page.
"""

import numpy as np
from numba import types

from kdtool.replay.byreference import reference
from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.filecache import file_fault
from kdtool.replay.hook import ask, serve_agent, tell_found
from kdtool.replay.memory import (
    ACCESSES,
    AGENT_NS,
    BESIDE_NS,
    CACHE_HITS,
    COLD,
    COLD_NS,
    FILE_MISSED,
    FILE_OUT,
    FREE_AT,
    HITS,
    INSN_PS,
    ISSUED,
    LATE,
    MAJOR,
    MAJOR_NS,
    MINOR,
    MINOR_NS,
    NOW_NS,
    PAGE_BYTES,
    POLLUTION,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    RESIDENT,
    START_NS,
    START_WAITED_NS,
    SWAP_MISSED,
    SWAPPED,
    SYNCHRONOUS,
    TICK_NS,
    UNMAPPED,
    USED,
    VMA_AT,
    WAITED_NS,
    WORKED_NS,
    WRITEBACK,
)
from kdtool.replay.reclaim import add_page, make_room, touch
from kdtool.replay.release import change_vmas, release
from kdtool.replay.slots import free_slot
from kdtool.replay.writeout import complete_writes
from kdtool.rmt.jit import inner, jit
from kdtool.rmt.numba_vm import DECIDE

__all__ = ["SIGNATURE", "replay_range"]

FAR_ROWS, NEAR_ROWS = 48, 16
"""How many rows ahead records are asked for, and, once they have come, what else a policy is told."""

_U1, _I4, _I8 = (types.Array(dtype, 1, "C") for dtype in (types.uint8, types.int32, types.int64))
_I4_2, _I8_2 = types.Array(types.int32, 2, "C"), types.Array(types.int64, 2, "C")
# Explicit signatures let Numba keep the compiled engine on disk; these mirror the tuples made in run.py.
_U1A, _I4A = (types.Array(dtype, 1, "A") for dtype in (types.uint8, types.int32))
_TRACE = types.Tuple((_I4, _I8, _U1, _I4, _I8, _I8, _I8, _I4, _I8_2, _I8, _I8, _I8, _I8_2))  # type: ignore[no-untyped-call]
_MEMORY = types.Tuple(  # type: ignore[no-untyped-call]
    (_U1A, _I4_2, _I4A, _I4A, _I4, _I8, _I8, _I8, _U1A, _I4A, _I8_2, _I4, _I4, _I8_2)
)
_FILES = types.Tuple((_I8_2, _I8_2, _I4, types.int64))  # type: ignore[no-untyped-call]
_POLICY = types.Tuple((_I8, _I8, _I8, _I8, _I8_2))  # type: ignore[no-untyped-call]
_POLICIES = types.UniTuple(_POLICY, 2)  # type: ignore[no-untyped-call]
_DECIDER = types.FunctionType(DECIDE)


@inner
def _first_touch(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """A prefetched page is touched: a minor fault, and a wait if its read has not ended."""
    ready_ns, scalars, counters = memory[5], memory[6], memory[7]
    predicted = memory[8][page] & PREDICTED
    counters[MINOR] += 1
    scalars[WORKED_NS] += device[MINOR_NS]
    if predicted:
        counters[USED] += 1
        scalars[PREFETCHED_NOW] -= 1
        if device[AGENT_NS]:
            scalars[WORKED_NS] += device[BESIDE_NS]
        memory[8][page] &= ~PREDICTED
    memory[0][page] = RESIDENT
    touch(page, trace[2][row], memory)
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if predicted and ready_ns[page] > now_ns:
        counters[LATE] += 1
    ask(
        decide, beside, row, page, np.int64(0), predicted, compute_ns, capacity, trace, memory, policies,
        device,
    )  # fmt: skip
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if ready_ns[page] > now_ns:
        scalars[WAITED_NS] += ready_ns[page] - now_ns
    if trace[2][row] and memory[0][page] == RESIDENT:  # the policy's pages may have pushed it out again
        free_slot(page, memory[3], memory[4], memory[1])


@inner
def _major_fault(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """A page comes from the device: ask the policy, submit the reads, then wait for its own."""
    status, slot, scalars = memory[0], memory[3], memory[6]
    memory[7][MAJOR] += 1
    make_room(capacity, memory, device)
    scalars[WORKED_NS] += device[MAJOR_NS]
    status[page] = RESIDENT  # being read already: a policy that names it says when, no more
    ready_ns = ask(
        decide, beside, row, page, np.int64(1), np.uint8(0), compute_ns, capacity, trace, memory, policies,
        device,
    )  # fmt: skip
    add_page(page, np.uint8(1), trace[2][row], memory)
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if ready_ns > now_ns:
        scalars[WAITED_NS] += ready_ns - now_ns
    if trace[2][row] or device[SYNCHRONOUS]:
        free_slot(page, slot, memory[4], memory[1])


@inner
def _cache_hit(decide, beside, row, page, compute_ns, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """A page is touched that reclaim unmapped and has not freed yet: a minor fault, do_swap_page()."""
    store = trace[2][row]
    complete_writes(memory)
    tell_found(decide, beside, row, page, compute_ns, trace, memory, policies, device)
    memory[7][MINOR] += 1
    memory[7][CACHE_HITS] += 1
    memory[6][WORKED_NS] += device[MINOR_NS]
    memory[0][page] = RESIDENT
    touch(page, store, memory)
    if store and not memory[8][page] & WRITEBACK:
        free_slot(page, memory[3], memory[4], memory[1])


@inner
def _start_counting(compute_ns, memory):  # type: ignore[no-untyped-def]
    """Zero the counters; prefetched pages that are still untouched count as issued."""
    scalars, counters = memory[6], memory[7]
    counters[:] = 0
    counters[ISSUED] = scalars[PREFETCHED_NOW]
    scalars[START_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    scalars[START_WAITED_NS] = scalars[WAITED_NS]


@inner
def _look_ahead(row, asks, trace, memory):  # type: ignore[no-untyped-def]
    """Have on their way what the rows to come need; what a policy is told, too, if one is asked."""
    page, status = trace[0], memory[0]
    far = row + FAR_ROWS
    if far < len(page):
        prefetch_line(status, np.int64(page[far]))
        prefetch_line(trace[1], far)
        if asks:
            near = np.int64(page[row + NEAR_ROWS])
            prefetch_line(trace[3], far)
            prefetch_line(trace[4], far)
            if status[near] != RESIDENT:
                prefetch_line(memory[5], near)
                prefetch_line(trace[5], near)
                prefetch_line(trace[7], near)


@inner
def _fault(  # type: ignore[no-untyped-def]
    decide, beside, row, page, capacity, trace, memory, policies, device, files, missed, shadow_missed
):
    """Handle an access to a page that is not mapped; return whether the guards are to be asked first."""
    status, scalars, counters = memory[0], memory[6], memory[7]
    compute_ns = trace[1][row] * device[INSN_PS] // 1000
    scalars[NOW_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if scalars[NOW_NS] >= scalars[TICK_NS]:
        return True
    if device[AGENT_NS]:
        serve_agent(scalars[NOW_NS], capacity, memory, policies[0], device)
    if status[page] == SWAPPED:
        missed[row] = SWAP_MISSED
        _major_fault(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device)
    elif status[page] == PREFETCHED:
        _first_touch(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device)
    elif status[page] == UNMAPPED:
        _cache_hit(decide, beside, row, page, compute_ns, trace, memory, policies, device)
    elif status[page] >= FILE_OUT:
        if file_fault(row, page, compute_ns, capacity, trace, memory, device, files):
            missed[row] = FILE_MISSED
    else:
        counters[COLD] += 1
        make_room(capacity, memory, device)
        scalars[WORKED_NS] += device[COLD_NS]
        status[page] = RESIDENT
        add_page(page, np.uint8(1), np.uint8(1), memory)
    if missed[row] and len(shadow_missed) and not shadow_missed[row]:
        counters[POLLUTION] += 1
    return False


@inner
def _next_due(row, stop, from_row, trace, memory):  # type: ignore[no-untyped-def]
    """Return the first row after `row` at which something is due besides its access, `stop` at most."""
    due = stop
    for rows, at in ((trace[9], memory[6][FREE_AT]), (trace[11], memory[6][VMA_AT])):
        if at < len(rows):
            due = min(due, np.int64(rows[at]))
    return min(due, from_row) if from_row > row else due


SIGNATURE = types.int64(
    _DECIDER, _DECIDER, types.int64, types.int64, types.int64, types.int64,
    _TRACE, _MEMORY, _POLICIES, _I8, _FILES, _U1, _U1,
)  # fmt: skip
"""Of replay_range(); to be compiled by compiling.py, before the first call."""


@jit()
def replay_range(  # type: ignore[no-untyped-def]
    decide, beside, start, stop, from_row, capacity, trace, memory, policies, device, files, missed,
    shadow_missed,
):  # fmt: skip
    """Replay rows [start, stop), or until the clock is at TICK_NS; return the row that is next.

    Counters begin anew at `from_row`.

    `missed` (one byte a row) is set where this run has a major fault; `shadow_missed` is the `missed`
    of the run without prefetching, or empty while that run is the one being made.
    """
    page, insns, store = trace[0], trace[1], trace[2]
    asks = len(policies[0][3]) > 0
    all_trace, all_memory, all_files = (
        reference(trace, PAGE_BYTES), reference(memory, PAGE_BYTES), reference(files, PAGE_BYTES),
    )  # fmt: skip
    all_policies = reference(policies[0], PAGE_BYTES), reference(policies[1], PAGE_BYTES)
    status, scalars, counters = all_memory[0], all_memory[6], all_memory[7]
    begin, is_due = start, False
    while begin < stop:
        release(begin, all_trace, all_memory)
        change_vmas(begin, all_trace, all_memory)
        if begin == from_row:
            before = insns[begin - 1] if begin else 0
            _start_counting(before * device[INSN_PS] // 1000, all_memory)
        end, hits = _next_due(begin, stop, from_row, all_trace, all_memory), 0
        for row in range(begin, end):
            _look_ahead(row, asks, trace, all_memory)
            p = np.int64(page[row])
            if status[p] == RESIDENT:
                hits += 1
                touch(p, store[row], all_memory)
            elif _fault(
                decide, beside, row, p, capacity, all_trace, all_memory, all_policies, device, all_files,
                missed, shadow_missed,
            ):  # fmt: skip
                end = stop = row
                is_due = True
                break
        counters[ACCESSES] += end - begin
        counters[HITS] += hits
        begin = end
    if begin > start and not is_due:
        compute_ns = insns[begin - 1] * device[INSN_PS] // 1000
        scalars[NOW_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    return begin
