"""The replay loop: each reference in turn, against one memory, one device and one policy.

Exact: integers only, deterministic, and resumable after any reference, so that a trace replayed in
chunks gives what it gives in one go. Time is the workload's own instructions plus what it waited plus
what the kernel worked for it; threads are taken one after another.

At a major fault the demand read goes to the device first, then the policy's pages, and the workload
waits for its own page while they follow: as Linux submits a readahead window before it waits. This
favours no policy. `mm.swapin` is asked at a major fault and at the first touch of a prefetched page.
"""

import numpy as np
from numba import types

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.memory import (
    ACCESSES,
    CACHE_HITS,
    COLD,
    COLD_NS,
    DECISIONS,
    FREE_AT,
    HITS,
    INSN_PS,
    ISSUED,
    LATE,
    LATENCY_NS,
    MAJOR,
    MAJOR_NS,
    MINOR,
    MINOR_NS,
    NEVER,
    NOW_NS,
    POLLUTION,
    PREFETCH_NS,
    PREFETCHED,
    PREFETCHED_NOW,
    RESIDENT,
    START_NS,
    START_WAITED_NS,
    STEP_PS,
    SWAPPED,
    SYNCHRONOUS,
    UNMAPPED,
    USED,
    WAITED_NS,
    WASTED,
    WORKED_NS,
    WRITEBACK,
)
from kdtool.replay.reclaim import add_page, forget_page, make_room, touch
from kdtool.replay.slots import free_slot
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import DECIDE
from kdtool.rmt.program import CONTEXT_FIELDS

__all__ = [
    "CTX_NOW_NS",
    "CTX_PROCESS",
    "CTX_ROW",
    "CTX_SLOT",
    "CTX_VMA",
    "CTX_VMA_END",
    "CTX_VMA_START",
    "CTX_WORDS",
    "NAMED_PAGE",
    "NAMED_SLOT",
    "replay_range",
]

_CTX_BASE = len(CONTEXT_FIELDS)
# What a baseline may know beyond a program's context fields; indexes into ctx.
(CTX_ROW, CTX_SLOT, CTX_VMA, CTX_VMA_START, CTX_VMA_END, CTX_PROCESS, CTX_NOW_NS) = range(
    _CTX_BASE, _CTX_BASE + 7
)
CTX_WORDS = _CTX_BASE + 7

NAMED_PAGE, NAMED_SLOT = -1, -(1 << 50)
"""A policy names a page of the faulting process by vpn; the oracle names a dense id p as NAMED_PAGE - p,
cluster readahead a swap slot s, whosever page it holds, as NAMED_SLOT - s."""

_VPN_BITS = 52
_VPN_MASK = (1 << _VPN_BITS) - 1
_REGION_BITS = 13

_U1, _I4, _I8 = (types.Array(dtype, 1, "C") for dtype in (types.uint8, types.int32, types.int64))
_I4_2, _I8_2 = types.Array(types.int32, 2, "C"), types.Array(types.int64, 2, "C")
# Explicit signatures let Numba keep the compiled engine on disk; these mirror the tuples made in run.py.
_TRACE = types.Tuple((_I4, _I8, _U1, _I4, _I8, _I8, _I8, _I4, _I8_2, _I8, _I8))  # type: ignore[no-untyped-call]
_MEMORY = types.Tuple(  # type: ignore[no-untyped-call]
    (_U1, _I4_2, _I4_2, _I4, _I4, _I8, _I8, _I8, _U1, _I8, _I8_2, _I4)
)
_POLICY = types.Tuple((_I8, _I8, _I8, _I8))  # type: ignore[no-untyped-call]


@jit()
def _release(until, trace, memory):  # type: ignore[no-untyped-def]
    """Forget the pages that were unmapped before row `until`."""
    free_row, free_page = trace[9], trace[10]
    status, clusters, _, slot, page_of_slot, _, scalars, counters, _, evicted_at, _, _ = memory
    at = scalars[FREE_AT]
    while at < len(free_row) and free_row[at] <= until:
        page = free_page[at]
        at += 1
        if status[page] != NEVER and status[page] != SWAPPED:
            forget_page(page, memory)
        if status[page] == PREFETCHED:
            counters[WASTED] += 1
            scalars[PREFETCHED_NOW] -= 1
        free_slot(page, slot, page_of_slot, clusters)
        status[page] = NEVER
        evicted_at[page] = -1
    scalars[FREE_AT] = at


@jit()
def _context(ctx, row, page, major, now_ns, trace, slot):  # type: ignore[no-untyped-def]
    """Fill in what the hook may know: the context fields of a program, then what baselines need."""
    _, _, _, tid, ip, keys, pids, vma_of_page, vma_bounds, _, _ = trace
    vpn, process, vma = keys[page] & _VPN_MASK, keys[page] >> _VPN_BITS, vma_of_page[page]
    ctx[0] = vpn
    ctx[1] = pids[process]
    ctx[2] = tid[row]
    ctx[3] = ip[row]
    ctx[4] = vpn >> _REGION_BITS
    ctx[5] = major
    ctx[CTX_ROW] = row
    ctx[CTX_SLOT] = slot[page]
    ctx[CTX_VMA] = vma
    ctx[CTX_VMA_START] = vma_bounds[vma, 0]
    ctx[CTX_VMA_END] = vma_bounds[vma, 1]
    ctx[CTX_PROCESS] = process
    ctx[CTX_NOW_NS] = now_ns


@jit()
def _page_id(answer, process, keys, page_of_slot):  # type: ignore[no-untyped-def]
    """Return the dense id of a page that a policy named, -1 if there is none."""
    if answer <= NAMED_SLOT:
        slot = NAMED_SLOT - answer
        return page_of_slot[slot] if slot < len(page_of_slot) else -1
    if answer <= NAMED_PAGE:
        return NAMED_PAGE - answer
    key = (process << _VPN_BITS) | answer
    at = np.searchsorted(keys, key)
    return at if at < len(keys) and keys[at] == key else -1


@jit()
def _prefetch(n, process, now_ns, capacity, keys, out, memory, device):  # type: ignore[no-untyped-def]
    """Start reading those of the n pages in `out` that are swapped out; the others cost nothing."""
    status, _, _, slot, page_of_slot, ready_ns, scalars, counters, _, _, _, _ = memory
    for i in range(n):
        page = _page_id(out[i], process, keys, page_of_slot)
        if page < 0 or status[page] != SWAPPED:
            continue
        make_room(capacity, memory, device)
        done = submit_io(slot[page], now_ns, scalars, device)
        scalars[WORKED_NS] += device[PREFETCH_NS]
        if device[SYNCHRONOUS]:
            # The faulting thread itself does the work of a synchronous device.
            scalars[WORKED_NS] += device[LATENCY_NS]
            done = now_ns
        ready_ns[page] = done
        status[page] = PREFETCHED
        add_page(page, False, 0, memory)
        scalars[PREFETCHED_NOW] += 1
        counters[ISSUED] += 1


@jit()
def _ask(decide, row, page, major, now_ns, capacity, trace, memory, policy, device):  # type: ignore[no-untyped-def]
    """Ask the policy at one event of the hook and start its prefetches."""
    params, state, ctx, out = policy
    memory[7][DECISIONS] += 1
    if len(out) == 0:
        return  # a policy that never asks for a page is not worth the context's cache misses
    _context(ctx, row, page, major, now_ns, trace, memory[3])
    state[0] = 0
    n = decide(params, state, ctx, out)
    memory[6][WORKED_NS] += state[0] * device[STEP_PS] // 1000
    _prefetch(n, ctx[CTX_PROCESS], now_ns, capacity, trace[5], out, memory, device)


@jit()
def _first_touch(decide, row, page, compute_ns, capacity, trace, memory, policy, device):  # type: ignore[no-untyped-def]
    """A prefetched page is touched: a minor fault, and a wait if its read has not ended."""
    ready_ns, scalars, counters = memory[5], memory[6], memory[7]
    counters[MINOR] += 1
    counters[USED] += 1
    memory[0][page] = RESIDENT
    touch(page, trace[2][row], memory)
    scalars[PREFETCHED_NOW] -= 1
    scalars[WORKED_NS] += device[MINOR_NS]
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if ready_ns[page] > now_ns:
        counters[LATE] += 1
    _ask(decide, row, page, 0, now_ns, capacity, trace, memory, policy, device)
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if ready_ns[page] > now_ns:
        scalars[WAITED_NS] += ready_ns[page] - now_ns
    if trace[2][row] and memory[0][page] == RESIDENT:  # the policy's pages may have pushed it out again
        free_slot(page, memory[3], memory[4], memory[1])


@jit()
def _major_fault(decide, row, page, compute_ns, capacity, trace, memory, policy, device):  # type: ignore[no-untyped-def]
    """A page comes from the device: submit its read, ask the policy, then wait."""
    status, _, _, slot, _, _, scalars, counters, _, _, _, _ = memory
    counters[MAJOR] += 1
    make_room(capacity, memory, device)
    scalars[WORKED_NS] += device[MAJOR_NS]
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    done = submit_io(slot[page], now_ns, scalars, device)
    # Being read already: a policy that asks for the page itself gets nothing.
    status[page] = RESIDENT
    _ask(decide, row, page, 1, now_ns, capacity, trace, memory, policy, device)
    add_page(page, True, trace[2][row], memory)
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    if done > now_ns:
        scalars[WAITED_NS] += done - now_ns
    if trace[2][row] or device[SYNCHRONOUS]:
        free_slot(page, slot, memory[4], memory[1])


@jit()
def _cache_hit(row, page, trace, memory, device):  # type: ignore[no-untyped-def]
    """A page is touched that reclaim unmapped and has not freed yet: a minor fault, do_swap_page()."""
    store = trace[2][row]
    memory[7][MINOR] += 1
    memory[7][CACHE_HITS] += 1
    memory[6][WORKED_NS] += device[MINOR_NS]
    memory[0][page] = RESIDENT
    touch(page, store, memory)
    if store and not memory[8][page] & WRITEBACK:
        free_slot(page, memory[3], memory[4], memory[1])


@jit()
def _start_counting(compute_ns, memory):  # type: ignore[no-untyped-def]
    """Zero the counters; prefetched pages that are still untouched count as issued."""
    scalars, counters = memory[6], memory[7]
    counters[:] = 0
    counters[ISSUED] = scalars[PREFETCHED_NOW]
    scalars[START_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    scalars[START_WAITED_NS] = scalars[WAITED_NS]


@jit(
    types.void(
        types.FunctionType(DECIDE), types.int64, types.int64, types.int64, types.int64,
        _TRACE, _MEMORY, _POLICY, _I8, _U1, _U1,
    ),
)  # fmt: skip
def replay_range(  # type: ignore[no-untyped-def]
    decide, start, stop, from_row, capacity, trace, memory, policy, device, missed, shadow_missed
):
    """Replay rows [start, stop); counters begin anew at `from_row`.

    `missed` (one byte a row) is set where this run has a major fault; `shadow_missed` is the `missed`
    of the run without prefetching, or empty while that run is the one being made.
    """
    page, insns, store = trace[0], trace[1], trace[2]
    status, scalars, counters = memory[0], memory[6], memory[7]
    free_row = trace[9]
    for row in range(start, stop):
        p = page[row]
        if scalars[FREE_AT] < len(free_row) and free_row[scalars[FREE_AT]] <= row:
            _release(row, trace, memory)
        if row == from_row:
            before = insns[row - 1] if row else 0
            _start_counting(before * device[INSN_PS] // 1000, memory)
        counters[ACCESSES] += 1
        if status[p] == RESIDENT:
            counters[HITS] += 1
            touch(p, store[row], memory)
        else:
            compute_ns = insns[row] * device[INSN_PS] // 1000
            scalars[NOW_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
            if status[p] == SWAPPED:
                missed[row] = 1
                if len(shadow_missed) and not shadow_missed[row]:
                    counters[POLLUTION] += 1
                _major_fault(decide, row, p, compute_ns, capacity, trace, memory, policy, device)
            elif status[p] == PREFETCHED:
                _first_touch(decide, row, p, compute_ns, capacity, trace, memory, policy, device)
            elif status[p] == UNMAPPED:
                _cache_hit(row, p, trace, memory, device)
            else:
                counters[COLD] += 1
                make_room(capacity, memory, device)
                scalars[WORKED_NS] += device[COLD_NS]
                status[p] = RESIDENT
                add_page(p, True, 1, memory)
    if stop > start:
        compute_ns = insns[stop - 1] * device[INSN_PS] // 1000
        scalars[NOW_NS] = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
