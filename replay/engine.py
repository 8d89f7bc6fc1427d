"""The replay loop: each reference in turn, against one memory, one device and one policy.

Exact: integers only, deterministic, and resumable after any reference, so that a trace replayed in
chunks gives what it gives in one go. Time is the workload's own instructions plus what it waited plus
what the kernel worked for it, of each thread by itself (threads.py).

At a major fault room is made for the policy's pages, then all reads go to the device, the demand read first
unless the policy says where among them, and the workload waits for its own page: as Linux submits a readahead
window before it waits. This favours no policy. `mm.swapin` is asked at a major fault and at the first touch
of a prefetched page.
"""

import numpy as np
from numba import types

from kdtool.replay.agentloop import come_second, meet_agent, tell_agent
from kdtool.replay.byreference import reference
from kdtool.replay.clocks import switch_thread
from kdtool.replay.filecache import file_fault
from kdtool.replay.hook import ask, tell_found
from kdtool.replay.knownfaults import known_faults
from kdtool.replay.memory import (
    ACCESSES,
    AGENT_NS,
    AT_ROW,
    BESIDE_NS,
    CACHE_HITS,
    COLD,
    COLD_NS,
    DEGREE,
    FILE_MISSED,
    FILE_OUT,
    FIRST_FILE,
    HITS,
    INSN_PS,
    ISSUED,
    LATE,
    MAJOR,
    MINOR,
    MINOR_NS,
    NOW_NS,
    PAGE_BYTES,
    POLLUTION,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    PROCESSES,
    RESIDENT,
    SWAP_MISSED,
    SWAPPED,
    SYNCHRONOUS,
    TICK_NS,
    UNMAPPED,
    USED,
    WAITED_NS,
    WORKED_NS,
    WRITEBACK,
)
from kdtool.replay.reclaim import add_page, leave_copied, make_room, note_toucher, touch
from kdtool.replay.release import change_vmas, release
from kdtool.replay.rows import look_ahead, next_due
from kdtool.replay.slots import free_slot
from kdtool.replay.threads import (
    begin_counting,
    leave_stretch,
    next_stretch,
    wake_threads,
)
from kdtool.replay.writeends import complete_writes, sleep
from kdtool.rmt.jit import inner, jit
from kdtool.rmt.numba_vm import DECIDE

__all__ = ["SIGNATURE", "replay_range"]

_U1, _I4, _I8 = (types.Array(dtype, 1, "C") for dtype in (types.uint8, types.int32, types.int64))
_I4_2, _I8_2 = types.Array(types.int32, 2, "C"), types.Array(types.int64, 2, "C")
# Explicit signatures let Numba keep the compiled engine on disk; these mirror the tuples made in drive.py.
_U1A, _U2A, _I4A, _I8A = (
    types.Array(dtype, 1, "A") for dtype in (types.uint8, types.uint16, types.int32, types.int64)
)
_TRACE = types.Tuple(  # type: ignore[no-untyped-call]
    (
        _I4, _I8, _U1, _I4, _I8, _I8, _I8, _I4A, _I8_2, _I8, _I8, _I8, _I4, _I4, _U1, _I4, _I8, _I8, _I4, _I8,
        _I8_2, _I8, _I8, _I8, _I4, _I8A,
    )
)  # fmt: skip
_MEMORY = types.Tuple(  # type: ignore[no-untyped-call]
    (
        _U1A, _I4_2, _I4A, _I4A, _I4, _I8, _I8, _I8, _U1A, _I4A, _I8_2, _I4, _I4, _I8_2, _I8_2, _U2A,
        _I8, _I8, _I8, _I8, _I8_2, _I8_2,
    )
)  # fmt: skip
_FILES = types.Tuple((_I8_2, _I8_2, _I4, types.int64))  # type: ignore[no-untyped-call]
_POLICY = types.Tuple((_I8, _I8, _I8, _I8, _I8, _I8, _I8_2, _I8_2, _I8_2, _I8, _I8))  # type: ignore[no-untyped-call]
_POLICIES = types.UniTuple(_POLICY, 2)  # type: ignore[no-untyped-call]
_DECIDER = types.FunctionType(DECIDE)


@inner
def _beside_ns(scalars, device):  # type: ignore[no-untyped-def]
    """Return what an agent that acts costs the workload for a page that comes from swap, whoever reads it."""
    return device[BESIDE_NS] if device[AGENT_NS] and scalars[DEGREE] else np.int64(0)


@inner
def _first_touch(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """A prefetched page is touched: a minor fault, and a wait if its read has not ended."""
    ready_ns, scalars, counters = memory[5], memory[6], memory[7]
    predicted = memory[8][page] & PREDICTED
    counters[MINOR] += 1
    scalars[WORKED_NS] += device[MINOR_NS] + _beside_ns(scalars, device)
    if predicted:
        counters[USED] += 1
        scalars[PREFETCHED_NOW] -= 1
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
    sleep(now_ns, ready_ns[page], memory)
    if trace[2][row] and memory[0][page] == RESIDENT:  # the policy's pages may have pushed it out again
        free_slot(page, memory[3], memory[4], memory[1])


@inner
def _major_fault(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """A page comes from the device: ask the policy, submit the reads, then wait for its own."""
    slot, scalars = memory[3], memory[6]
    memory[7][MAJOR] += 1
    memory[8][page] &= ~PREDICTED
    scalars[WORKED_NS] += _beside_ns(scalars, device)
    ready_ns = ask(
        decide, beside, row, page, np.int64(1), np.uint8(0), compute_ns, capacity, trace, memory, policies,
        device,
    )  # fmt: skip
    add_page(page, np.uint8(1), trace[2][row], memory)
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    sleep(now_ns, ready_ns, memory)
    if trace[2][row] or device[SYNCHRONOUS]:
        free_slot(page, slot, memory[4], memory[1])


@inner
def _cache_hit(decide, beside, row, page, compute_ns, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """A page is touched that reclaim unmapped and has not freed yet: a minor fault, do_swap_page()."""
    store = trace[2][row]
    complete_writes(memory)
    tell_found(decide, beside, row, page, compute_ns, trace, memory, policies, device)
    memory[7][MINOR] += 1
    memory[6][WORKED_NS] += device[MINOR_NS]
    if memory[8][page] & PREDICTED:
        memory[7][USED] += 1
        memory[6][PREFETCHED_NOW] -= 1
        memory[8][page] &= ~PREDICTED
    else:
        memory[7][CACHE_HITS] += 1
    memory[0][page] = RESIDENT
    touch(page, store, memory)
    if store and not memory[8][page] & WRITEBACK:
        free_slot(page, memory[3], memory[4], memory[1])


@inner
def _start_counting(row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Zero the counters; prefetched pages that are still untouched count as issued."""
    scalars, counters = memory[6], memory[7]
    counters[:] = 0
    counters[ISSUED] = scalars[PREFETCHED_NOW]
    begin_counting(row, trace, memory, device)


@inner
def _fault(  # type: ignore[no-untyped-def]
    decide, beside, row, page, capacity, trace, memory, policies, device, files, missed, shadow_missed
):
    """Handle an access to a page that is not mapped; return whether the guards are to be asked first."""
    status, scalars, counters = memory[0], memory[6], memory[7]
    scalars[AT_ROW] = row
    if len(memory[14]) > 1:  # else a cache line less is needed
        switch_thread(np.int64(trace[3][row]), memory)
    compute_ns = trace[1][row] * device[INSN_PS] // 1000
    scalars[NOW_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if scalars[NOW_NS] >= scalars[TICK_NS]:
        return True
    slept = meet_agent(page, capacity, memory, policies[0], device) if device[AGENT_NS] else False
    if status[page] == SWAPPED:
        missed[row] = SWAP_MISSED
        _major_fault(decide, beside, row, page, compute_ns, capacity, trace, memory, policies, device)
    elif slept and status[page] == PREFETCHED:
        missed[row] = SWAP_MISSED
        come_second(page, trace[2][row], compute_ns, _beside_ns(scalars, device), memory, device)
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
    if device[AGENT_NS] and page < scalars[FIRST_FILE]:
        major = np.int64(missed[row])
        tell_agent(decide, row, page, major, compute_ns, trace, memory, policies[0], device)
    return False


@inner
def _next_rows(done, stop, from_row, trace, memory, device):  # type: ignore[no-untyped-def]
    """Do what is due before the next reference; return the rows that come without a stop: first, end."""
    streams = len(trace[13]) > 0
    if not streams:
        release(done, trace, memory)
        change_vmas(done, trace, memory)
    if done == from_row:
        _start_counting(done, trace, memory, device)
    most = (min(stop, from_row) if from_row > done else stop) - done
    if streams:
        begin, end = next_stretch(most, trace, memory, device)
        release(begin, trace, memory)
        change_vmas(begin, trace, memory)
        return begin, end
    end = next_due(done, done + most, trace, memory)
    wake_threads(done, trace, memory, device)
    return done, end


SIGNATURE = types.int64(
    _DECIDER, _DECIDER, types.int64, types.int64, types.int64, types.int64,
    _TRACE, _MEMORY, _POLICIES, _I8, _FILES, _U1, _U1, _I4,
)  # fmt: skip
"""Of replay_range(); to be compiled by compiling.py, before the first call."""


@jit()
def replay_range(  # type: ignore[no-untyped-def]
    decide, beside, start, stop, from_row, capacity, trace, memory, policies, device, files, missed,
    shadow_missed, faults,
):  # fmt: skip
    """Replay the references from the `start`th to the `stop`th, or until the clock is at TICK_NS.

    Returns how many are done. That they are rows in the order of the trace holds where a trace has no
    streams. Counters begin anew when `from_row` are done.

    `missed` (one byte a row) is set where this run has a major fault; `shadow_missed` is the `missed`
    of the run without prefetching, or empty while that run is the one being made.

    `faults` is empty, or has the rows that fault where that is known before, see knownfaults.py.
    """
    page, store = trace[0], trace[2]
    asks = len(policies[0][3]) > 0
    all_trace, all_memory, all_files = (
        reference(trace, PAGE_BYTES), reference(memory, PAGE_BYTES), reference(files, PAGE_BYTES),
    )  # fmt: skip
    all_policies = reference(policies[0], PAGE_BYTES), reference(policies[1], PAGE_BYTES)
    status, counters = all_memory[0], all_memory[7]
    streams, done, at_fault = len(trace[13]) > 0, start, 0
    while done < stop:
        begin, end = _next_rows(done, stop, from_row, all_trace, all_memory, device)
        first, hits, is_due, faulted = begin, 0, False, False
        several = all_memory[6][PROCESSES] > 1
        if len(faults):
            n = known_faults(
                at_fault, end, capacity, all_trace, all_memory, device, faults, missed, shadow_missed
            )
            at_fault, first, hits = at_fault + n, end, end - begin - n
        for row in range(first, end):
            look_ahead(row, asks, trace, all_memory, shadow_missed)
            p = np.int64(page[row])
            if several:
                note_toucher(row, p, all_trace, all_memory)
            if status[p] == RESIDENT:
                hits += 1
                touch(p, store[row], all_memory)
                if several:
                    leave_copied(row, p, all_trace, all_memory)
            elif _fault(
                decide, beside, row, p, capacity, all_trace, all_memory, all_policies, device, all_files,
                missed, shadow_missed,
            ):  # fmt: skip
                end, is_due = row, True
                break
            elif streams:
                leave_copied(row, p, all_trace, all_memory)
                end, faulted = row + 1, True
                break
        counters[ACCESSES] += end - begin
        counters[HITS] += hits
        done += end - begin
        if streams and end > begin:
            leave_stretch(end, is_due, faulted, all_trace, all_memory, device)
        if is_due:
            break
    return done
