"""What an agent does in its own time: calls that read pages from swap, and room that it makes for them.

    idle ─AGENT_NS after a decision─► read decisions ─► a call, range by range ─► read again ... ─► idle
      └──every AGENT_NS or more: little room? reclaim, until there is enough ──┘

A call is the agent's work, page by page: room is made, and the page's read submitted, range by range. It
takes the agent's time, not the workload's; so do decisions by a Linux that is asked for room ahead. Room
is made for as long as the workload fills it as fast: mem_cgroup_resize_max(), mm/memcontrol-v1.c, v6.18. The
workload is interrupted for each page that the agent's reclaim writes out. What was decided meanwhile waits.
Turns are caught up with at the workload's next fault: between two faults nothing looks at what they change,
but for accessed bits.
"""

import numpy as np

from kdtool.replay.agent import (
    BUSY_NS,
    CALL_END,
    CALL_NEXT,
    CALL_RANGES,
    CALL_READS,
    CALLED_NS,
    FREE_NS,
    LEAD_NS,
    LOOK_NS,
    MAKES_ROOM,
    collect,
    leave_to_agent,
    next_turn,
    read_decisions,
)
from kdtool.replay.blockqueue import read_pages
from kdtool.replay.charges import change_cpu, drain_stocks, used_pages
from kdtool.replay.claims import is_claimed, wait_for_place
from kdtool.replay.evict import work
from kdtool.replay.hook import VPN_BITS, VPN_MASK, bring_in, find_pages, key_at, name_pages
from kdtool.replay.memory import (
    AGENT_NS,
    BESIDE_WRITE_NS,
    CALL_NS,
    DECISIONS,
    DEGREE,
    ISSUED,
    MAJOR,
    NOW_NS,
    PREDICTED,
    PREFETCHED,
    PREFETCHED_NOW,
    RANGE_NS,
    RESIDENT,
    SHOOTDOWN_NS,
    SYNCHRONOUS,
    WAITED_NS,
    WATCHES,
    WORKED_NS,
    WRITTEN,
)
from kdtool.replay.plug import hold_plug, release_plug
from kdtool.replay.reclaim import free_batch, touch
from kdtool.replay.slots import free_slot
from kdtool.replay.zeropages import major_ns
from kdtool.rmt.agentrules import FREE_PAGES, LEAST_SHARE, LOW_PAGES, after_call, nap
from kdtool.rmt.jit import inner
from kdtool.rmt.predictions import forget_prediction, is_predicted, page_tag, remember

__all__ = ["come_second", "meet_agent", "tell_agent"]


@inner
def tell_agent(decide, row, page, major, compute_ns, trace, memory, policy, device):  # type: ignore[no-untyped-def]
    """Have the agent's policy decide at a fault that has ended, if it watches and the fault is an event."""
    out, scalars, predicted = policy[3], memory[6], policy[9]
    key = trace[5][key_at(row, page, trace)]
    pid = trace[6][key >> VPN_BITS]
    tag = page_tag(pid, key & VPN_MASK)
    if not scalars[WATCHES] or not (major or is_predicted(predicted, tag)):
        return
    forget_prediction(predicted, tag)
    time_ns = compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]
    memory[7][DECISIONS] += 1
    n = name_pages(decide, row, page, major, compute_ns, trace, memory, policy, device)
    remember(predicted, pid, out, n)
    find_pages(n, row, page, trace, out, memory)
    n = min(n, scalars[DEGREE])
    leave_to_agent(n, trace[12][trace[3][row]], major, time_ns, out, policy[4], policy[5], policy[8])


@inner
def _make_room(capacity, memory, words, device):  # type: ignore[no-untyped-def]
    """Reclaim once more for the agent's room, or be done: there is enough, or no more to be had."""
    scalars, at_ns = memory[6], words[FREE_NS]
    words[LOOK_NS] = at_ns
    if used_pages(scalars) <= capacity - FREE_PAGES:
        words[MAKES_ROOM] = 0
        return
    worked_ns, waited_ns, now_ns = scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS]
    scalars[NOW_NS], scalars[SHOOTDOWN_NS] = at_ns, device[BESIDE_WRITE_NS]
    if not free_batch(memory, device):
        words[MAKES_ROOM] = 0
        words[LOOK_NS] += device[AGENT_NS]
    words[FREE_NS] += scalars[WORKED_NS] - worked_ns + scalars[WAITED_NS] - waited_ns
    scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS] = worked_ns, waited_ns, now_ns
    scalars[SHOOTDOWN_NS] = 0


@inner
def _look(look_ns, capacity, memory, words, device):  # type: ignore[no-untyped-def]
    """Let the idle agent look at `look_ns` whether there is room: it begins to make some, or naps."""
    if capacity >= LEAST_SHARE * FREE_PAGES and used_pages(memory[6]) > capacity - LOW_PAGES:
        words[FREE_NS], words[MAKES_ROOM] = look_ns, 1
        drain_stocks(memory[6])
    else:
        words[LOOK_NS] = look_ns + nap(look_ns - words[BUSY_NS], device[AGENT_NS])


@inner
def _begin_call(at_ns, memory, words, queue, call, device):  # type: ignore[no-untyped-def]
    """Begin a call for the pages at the queue's head, if there are any."""
    n, n_ranges = collect(at_ns, memory, words, queue, call)
    words[FREE_NS] = words[LOOK_NS] = words[CALLED_NS] = at_ns
    if n:
        words[FREE_NS] += device[CALL_NS]
        words[CALL_RANGES], words[CALL_NEXT], words[CALL_END] = n_ranges, call[n_ranges - 1, 1], n


@inner
def _send(before_ns, memory, words, reads, device):  # type: ignore[no-untyped-def]
    """Send the reads that wait: at a range's end, and before the agent sleeps, blk_flush_plug()."""
    read_pages(words[CALL_READS], np.int64(-1), before_ns, reads, memory, device)
    words[CALL_READS] = 0


@inner
def _go_on(capacity, memory, policy, device):  # type: ignore[no-untyped-def]
    """Ask for the next page of the call, those that are due last first: each range is sent by itself."""
    scalars, out, words, call, reads = memory[6], policy[3], policy[4], policy[7], policy[10]
    worked_ns, waited_ns, now_ns = scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS]
    before_ns, at = words[FREE_NS] - worked_ns - waited_ns, words[CALL_NEXT]
    scalars[WORKED_NS] += (at == call[words[CALL_RANGES] - 1, 1]) * device[RANGE_NS]
    scalars[NOW_NS] = before_ns + scalars[WORKED_NS] + waited_ns
    scalars[SHOOTDOWN_NS] = device[BESIDE_WRITE_NS]
    out[0] = call[at, 0]
    if is_claimed(out[0], scalars[NOW_NS], memory):
        _send(before_ns, memory, words, reads, device)
    change_cpu(scalars)
    hold_plug(scalars)
    if bring_in(1, np.int64(-1), True, capacity, out, memory, device):
        reads[words[CALL_READS]] = out[0]
        words[CALL_READS] += 1
    change_cpu(scalars)
    words[CALL_NEXT] += 1
    if words[CALL_NEXT] == words[CALL_END]:
        _send(before_ns, memory, words, reads, device)
        words[CALL_RANGES] -= 1
        words[CALL_END] = call[words[CALL_RANGES], 1]
        words[CALL_NEXT] = call[max(words[CALL_RANGES] - 1, 0), 1]
    if not words[CALL_READS]:
        release_plug(memory, device)
    words[FREE_NS] = before_ns + scalars[WORKED_NS] + scalars[WAITED_NS]
    scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS] = worked_ns, waited_ns, now_ns
    scalars[SHOOTDOWN_NS] = 0
    if not words[CALL_RANGES]:
        words[LOOK_NS] = words[FREE_NS]
        words[LEAD_NS] = after_call(words[LEAD_NS], words[FREE_NS] - words[CALLED_NS])


@inner
def _serve(now_ns, capacity, memory, policy, device):  # type: ignore[no-untyped-def]
    """Do what the agent did up to `now_ns`, and until no read of its waits to be sent with others.

    The workload pays for the pages that it has written out.
    """
    words, unread = policy[4], policy[5]
    if not memory[6][DEGREE]:
        words[LOOK_NS] = now_ns
    written = memory[7][WRITTEN]
    while True:
        if words[CALL_RANGES]:
            if words[FREE_NS] > now_ns and not words[CALL_READS]:
                break
            _go_on(capacity, memory, policy, device)
            continue
        if words[MAKES_ROOM]:
            if words[FREE_NS] > now_ns:
                break
            _make_room(capacity, memory, words, device)
            continue
        turn_ns, look_ns = next_turn(words, unread, device), max(words[LOOK_NS], words[FREE_NS])
        if look_ns < min(turn_ns, now_ns):
            _look(look_ns, capacity, memory, words, device)
        elif turn_ns <= now_ns:
            read_decisions(turn_ns, memory, words, unread, policy[6])
            _begin_call(turn_ns, memory, words, policy[6], policy[7], device)
        else:
            break
    work((memory[7][WRITTEN] - written) * device[BESIDE_WRITE_NS], memory[6])


@inner
def meet_agent(page, capacity, memory, policy, device):  # type: ignore[no-untyped-def]
    """Do what the agent did up to now, when there is a fault on `page`; return whether that had to sleep.

    So it does where the agent has reserved the page's place and makes room for it.
    """
    scalars = memory[6]
    _serve(scalars[NOW_NS], capacity, memory, policy, device)
    if memory[0][page] != PREFETCHED or not wait_for_place(page, memory, device):
        return False
    _serve(scalars[NOW_NS], capacity, memory, policy, device)
    return True


@inner
def come_second(page, store, compute_ns, beside_ns, memory, device):  # type: ignore[no-untyped-def]
    """Handle a fault that found the page's place reserved, and slept until it was there.

    For the kernel that is a major fault, whoever reads the page: do_swap_page(). The agent takes it for one
    that had begun before, and does not count the page as its own.
    """
    scalars, counters, ready_ns = memory[6], memory[7], memory[5][page]
    counters[MAJOR] += 1
    scalars[WORKED_NS] += major_ns(page, memory, device) + beside_ns
    if memory[8][page] & PREDICTED:
        memory[8][page] &= ~PREDICTED
        counters[ISSUED] -= 1
        scalars[PREFETCHED_NOW] -= 1
    memory[0][page] = RESIDENT
    touch(page, store, memory)
    scalars[WAITED_NS] += max(ready_ns - compute_ns - scalars[WAITED_NS] - scalars[WORKED_NS], 0)
    if store or device[SYNCHRONOUS]:
        free_slot(page, memory[3], memory[4], memory[1])
