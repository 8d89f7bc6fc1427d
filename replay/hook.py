"""The hook `mm.swapin`: what a policy is told at an event, and what becomes of the pages that it names.

Without an agent the policy decides within the fault. With one the kernel's own readahead does, `none` unless
another is given, and the policy's pages follow, see agentloop.py.

At a major fault all reads go to the device together, once room is made for the last of them: as Linux holds a
window back in a plug (swap_vma_readahead(), blk_finish_plug(), v6.18).
"""

import numpy as np

from kdtool.replay.agent import note_issued
from kdtool.replay.blockqueue import read_pages, submit_io
from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.claims import make_room_for, wait_for_place
from kdtool.replay.generations import set_back
from kdtool.replay.memory import (
    AGENT_NS,
    DECISIONS,
    NAMED,
    PREDICTED,
    PREFETCH_NS,
    PREFETCHED,
    RESIDENT,
    STEP_PS,
    SWAPPED,
    WAITED_NS,
    WORKED_NS,
    WRITEBACK,
)
from kdtool.replay.plug import hold_plug, queue_page, release_plug
from kdtool.replay.reclaim import add_page
from kdtool.replay.zeropages import holds_zeros, major_ns
from kdtool.rmt.jit import inner
from kdtool.rmt.program import CONTEXT_FIELDS

__all__ = [
    "CTX_FOLLOWS_CACHE",
    "CTX_NOW_NS",
    "CTX_PROCESS",
    "CTX_ROW",
    "CTX_SLOT",
    "CTX_VMA",
    "CTX_VMA_END",
    "CTX_VMA_START",
    "CTX_WORDS",
    "FOUND",
    "NAMED_PAGE",
    "NAMED_SLOT",
    "VPN_BITS",
    "VPN_MASK",
    "ask",
    "bring_in",
    "find_pages",
    "key_at",
    "name_pages",
    "tell_found",
]

_CTX_BASE = len(CONTEXT_FIELDS)
# What a baseline may know beyond a program's context fields; indexes into ctx.
(CTX_ROW, CTX_SLOT, CTX_VMA, CTX_VMA_START, CTX_VMA_END, CTX_PROCESS, CTX_NOW_NS) = range(
    _CTX_BASE, _CTX_BASE + 7
)
CTX_FOLLOWS_CACHE = _CTX_BASE + 7
"""Set where a policy is told of pages found in the swap cache, too."""
CTX_WORDS = _CTX_BASE + 8

FOUND = 2
"""In the place of `major`: the page was found in the swap cache, and not read ahead."""

NAMED_PAGE, NAMED_SLOT = -1, -(1 << 50)
"""A policy names a page of the faulting process by vpn; the oracle names a dense id p as NAMED_PAGE - p,
cluster readahead a swap slot s, whosever page it holds, as NAMED_SLOT - s."""

NAMED_LATELY = 8
"""After so many decisions that named no page, none is expected of the next."""

NOT_SENT = 1 << 62
"""When a page is ready whose read still waits for those after it."""

VPN_BITS = 52
VPN_MASK = (1 << VPN_BITS) - 1
_REGION_BITS = 13


@inner
def key_at(row, page, trace):  # type: ignore[no-untyped-def]
    """Return the index of the key by which `row` has its page, whoever else has it (sharing.py)."""
    of_row = trace[15]
    return np.int64(of_row[row]) if len(of_row) else np.int64(page)


@inner
def _context(ctx, row, page, major, now_ns, trace, slot):  # type: ignore[no-untyped-def]
    """Fill in what the hook may know: the context fields of a program, then what baselines need."""
    ip, pids, vma_of_page, vma_bounds, keys = trace[4], trace[6], trace[7], trace[8], trace[25]
    key = key_at(row, page, trace)
    vpn, process, vma = keys[key] & VPN_MASK, keys[key] >> VPN_BITS, np.int64(vma_of_page[key])
    ctx[0] = vpn
    ctx[1] = pids[process]
    ctx[2] = trace[12][trace[3][row]]
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


@inner
def _search(key, near, keys):  # type: ignore[no-untyped-def]
    """Return the first id whose key is `key` or larger, the last of all if there is none.

    Keys rise by one at least: ids are no further from `near`, any id, than their keys are.
    """
    apart = near + key - keys[near]
    if 0 <= apart < len(keys) and keys[apart] == key:
        return apart
    low, high = max(min(near, apart), 0), min(max(near, apart), len(keys) - 1)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def _page_at(key, row, trace):  # type: ignore[no-untyped-def]
    """Return the page that a key is at `row`, -1 for none."""
    note_of_key, note_row, note_page = trace[16], trace[17], trace[18]
    if len(note_of_key):
        for at in range(note_of_key[key + 1] - 1, note_of_key[key] - 1, -1):
            if note_row[at] <= row:
                return np.int64(note_page[at])
    return key


@inner
def find_pages(n, row, faulting, trace, out, memory):  # type: ignore[no-untyped-def]
    """Put dense ids in the place of the n pages that a policy named, -1 for what is no page of the trace.

    Slots stay: whose they are may change with each page that goes. Records are on their way before the first
    is needed; and each page is looked for beside the one before, since a rollout names pages close together.
    """
    keys, near = trace[5], key_at(row, faulting, trace)
    process = keys[near] & ~VPN_MASK
    for i in range(n):
        if out[i] <= NAMED_SLOT:
            continue
        if out[i] <= NAMED_PAGE:
            out[i] = NAMED_PAGE - out[i]
        else:
            key = process | out[i]
            near = _search(key, near, keys)
            out[i] = _page_at(near, row, trace) if keys[near] == key else -1
        prefetch_line(memory[0], max(out[i], 0))


@inner
def _page_of(found, page_of_slot):  # type: ignore[no-untyped-def]
    """Return the dense id of what find_pages() left: an id, -1, or a slot, whosever page it holds by now."""
    if found > NAMED_SLOT:
        return found
    slot = NAMED_SLOT - found
    return np.int64(page_of_slot[slot]) if slot < len(page_of_slot) else -1


@inner
def bring_in(n, missing, scored, capacity, out, memory, device):  # type: ignore[no-untyped-def]
    """Make room for those of the n pages in `out` that are swapped out; the others cost nothing.

    scored : they are counted as the policy's; else the kernel reads ahead, of its own, also what waits for
        the agent

    Leaves in `out` what is to be read, in order, and returns how many: with the page `missing` that a fault
    waits for, -1 for none, where the policy named it, or first.
    """
    status, ready_ns, scalars, marks = memory[0], memory[5], memory[6], memory[8]
    m, named = 0, missing < 0
    for i in range(n):
        page = _page_of(out[i], memory[4])
        if page >= 0 and status[page] == SWAPPED:
            make_room_for(page, capacity, memory, device)
            if not holds_zeros(page, memory):
                queue_page(memory[3][page], 1, memory, device)
            scalars[WORKED_NS] += device[PREFETCH_NS]
            ready_ns[page] = NOT_SENT
            status[page] = PREFETCHED
            add_page(page, np.uint8(0), np.uint8(0), memory)
            marks[page] &= ~PREDICTED
            if scored:
                note_issued(page, memory)
                if device[AGENT_NS]:
                    set_back(page, memory)
        elif page != missing or named:
            if device[AGENT_NS] and page >= 0:
                wait_for_place(page, memory, device)
            continue
        else:
            named = True
        out[m] = page
        m += 1
    if not named:
        for i in range(m, 0, -1):
            out[i] = out[i - 1]
        out[0] = missing
        m += 1
    return m


@inner
def name_pages(decide, row, page, major, compute_ns, trace, memory, decider, device):  # type: ignore[no-untyped-def]
    """Let a decider decide: leave what it names in its `out`, to be found, and return how many."""
    params, state, ctx, out = decider[0], decider[1], decider[2], decider[3]
    scalars = memory[6]
    now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    _context(ctx, row, page, major, now_ns, trace, memory[3])
    state[0] = 0
    n = decide(params, state, ctx, out)
    scalars[WORKED_NS] += state[0] * device[STEP_PS] // 1000
    scalars[NAMED] = (scalars[NAMED] >> 1) + (np.int64(n > 0) << NAMED_LATELY)
    return n


@inner
def _admit(page, capacity, memory, device):  # type: ignore[no-untyped-def]
    """Take room for a page that a fault misses; from then on who names it says when it is read, no more."""
    make_room_for(page, capacity, memory, device)
    memory[6][WORKED_NS] += major_ns(page, memory, device)
    memory[0][page] = RESIDENT


@inner
def _read_ahead(decide, row, page, major, scored, compute_ns, capacity, trace, memory, decider, device):  # type: ignore[no-untyped-def]
    """Ask a decider within the fault; start its prefetches, and at a `major` fault its own read.

    Returns when that ends; at a first touch 0.
    """
    out, scalars, missing = decider[3], memory[6], page if major else np.int64(-1)
    if len(out) == 0:  # a policy that never asks for a page is not worth the context's cache misses
        if major:
            _admit(page, capacity, memory, device)
        now_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
        reads = major and not holds_zeros(page, memory)
        return submit_io(memory[3][page], now_ns, scalars, device) if reads else np.int64(0)
    n = name_pages(decide, row, page, major, compute_ns, trace, memory, decider, device)
    find_pages(n, row, page, trace, out, memory)
    if n:
        hold_plug(scalars)
    if major:
        _admit(page, capacity, memory, device)
        if n and not holds_zeros(page, memory):
            queue_page(memory[3][page], 1, memory, device)
    m = bring_in(n, missing, scored, capacity, out, memory, device)
    ends_ns = read_pages(m, missing, compute_ns, out, memory, device)
    if n:
        release_plug(memory, device)
    return ends_ns


@inner
def ask(decide, beside, row, page, major, predicted, compute_ns, capacity, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """Ask within a major fault or first touch who reads ahead there; start the own read of a `major` fault.

    decide, beside : of the two `policies`: the one that is scored, and the kernel's own beside its agent
    predicted : the first touch is of a page that the agent asked for: that is none of the kernel's

    Returns when its own read ends; at a first touch 0.
    """
    scored, readahead = policies
    if not device[AGENT_NS]:
        memory[7][DECISIONS] += 1
        return _read_ahead(
            decide, row, page, major, True, compute_ns, capacity, trace, memory, scored, device
        )
    if predicted:
        return np.int64(0)
    return _read_ahead(
        beside, row, page, major, False, compute_ns, capacity, trace, memory, readahead, device
    )


@inner
def tell_found(decide, beside, row, page, compute_ns, trace, memory, policies, device):  # type: ignore[no-untyped-def]
    """Tell the kernel's own readahead of a touch of a page that was unmapped: swap_update_readahead().

    PG_readahead and PG_reclaim are one bit (include/linux/page-flags.h, v6.18): a page that is being
    written counts as one that was read ahead.
    """
    scored, readahead = policies
    major = 0 if memory[8][page] & WRITEBACK else FOUND
    if device[AGENT_NS]:
        if readahead[2][CTX_FOLLOWS_CACHE]:
            name_pages(beside, row, page, major, compute_ns, trace, memory, readahead, device)
    elif scored[2][CTX_FOLLOWS_CACHE]:
        name_pages(decide, row, page, major, compute_ns, trace, memory, scored, device)
