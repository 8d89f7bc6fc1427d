"""What an agent does in its own time: calls that read pages from swap, and room that it makes for them.

    idle ─AGENT_NS after a decision─► read decisions ─► a call, range by range ─► read again ... ─► idle
      └──every AGENT_NS or more: little room? reclaim ──┘

A call is the agent's work, page by page: room is made, and the page's read submitted, range by range. It
takes the agent's time, not the workload's; so do decisions by a Linux that is asked for room ahead. The
workload is interrupted for each page that the agent's reclaim writes out. What was decided meanwhile waits.
Turns are caught up with at the workload's next fault: between two faults nothing looks at what they change,
but for accessed bits.
"""

import numpy as np

from kdtool.replay.agent import (
    BUSY_NS,
    FREE_NS,
    LEAD_NS,
    LOOK_NS,
    collect,
    leave_to_agent,
    next_turn,
    read_decisions,
)
from kdtool.replay.evict import work
from kdtool.replay.hook import VPN_BITS, VPN_MASK, bring_in, find_pages, key_at, name_pages, read_pages
from kdtool.replay.memory import (
    AGENT_NS,
    BESIDE_NS,
    BESIDE_WRITE_NS,
    CALL_NS,
    COUNT,
    DECISIONS,
    DEGREE,
    NOW_NS,
    RANGE_NS,
    RECLAIMED,
    WAITED_NS,
    WATCHES,
    WORKED_NS,
    WRITTEN,
)
from kdtool.replay.reclaim import free_ahead
from kdtool.rmt.agentrules import FREE_PAGES, LEAST_SHARE, LOW_PAGES, after_call, nap
from kdtool.rmt.jit import inner
from kdtool.rmt.predictions import forget_prediction, is_predicted, page_tag, remember

__all__ = ["serve_agent", "tell_agent"]


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
def _pay_for_reclaim(before, memory, device):  # type: ignore[no-untyped-def]
    """Have the agent wait for the workload's CPU at each page that it had reclaimed since `before`.

    To unmap a page of a program that runs on another CPU is to interrupt that one, and to wait for it.
    """
    memory[6][WORKED_NS] += (memory[7][RECLAIMED] - before) * device[BESIDE_NS]


@inner
def _make_room(at_ns, capacity, memory, device):  # type: ignore[no-untyped-def]
    """Reclaim from `at_ns` on if there is little room; return when that is done."""
    scalars = memory[6]
    if capacity < LEAST_SHARE * FREE_PAGES or scalars[COUNT] <= capacity - LOW_PAGES:
        return at_ns
    worked_ns, waited_ns, now_ns = scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS]
    scalars[NOW_NS] = at_ns
    reclaimed = memory[7][RECLAIMED]
    free_ahead(capacity - FREE_PAGES, memory, device)
    _pay_for_reclaim(reclaimed, memory, device)
    took_ns = scalars[WORKED_NS] - worked_ns + scalars[WAITED_NS] - waited_ns
    scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS] = worked_ns, waited_ns, now_ns
    return at_ns + took_ns


@inner
def _look(look_ns, capacity, memory, words, device):  # type: ignore[no-untyped-def]
    """Let the idle agent look at `look_ns` whether there is room; it naps, or looks again at once."""
    free_ns = _make_room(look_ns, capacity, memory, device)
    if free_ns > look_ns:
        words[FREE_NS] = words[LOOK_NS] = free_ns
    else:
        words[LOOK_NS] = look_ns + nap(look_ns - words[BUSY_NS], device[AGENT_NS])


@inner
def _call(at_ns, capacity, memory, policy, device):  # type: ignore[no-untyped-def]
    """Ask for pages at the queue's head, those that are due last first: each range is submitted by itself."""
    scalars, out, words, call = memory[6], policy[3], policy[4], policy[7]
    n, n_ranges = collect(at_ns, memory, words, policy[6], call)
    worked_ns, waited_ns, now_ns = scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS]
    before_ns = at_ns - worked_ns - waited_ns
    scalars[WORKED_NS] += (n > 0) * device[CALL_NS]
    end = n
    for i in range(n_ranges - 1, -1, -1):
        begin = call[i, 1]
        scalars[WORKED_NS] += device[RANGE_NS]
        while begin < end:
            m = min(end - begin, len(out))
            for j in range(m):
                out[j] = call[begin + j, 0]
            begin += m
            scalars[NOW_NS] = before_ns + scalars[WORKED_NS] + scalars[WAITED_NS]
            reclaimed = memory[7][RECLAIMED]
            m = bring_in(m, np.int64(-1), True, capacity, out, memory, device)
            _pay_for_reclaim(reclaimed, memory, device)
            read_pages(m, np.int64(-1), before_ns, out, memory, device)
        end = call[i, 1]
    words[FREE_NS] = before_ns + scalars[WORKED_NS] + scalars[WAITED_NS]
    if n:
        words[LEAD_NS] = after_call(words[LEAD_NS], words[FREE_NS] - at_ns)
    scalars[WORKED_NS], scalars[WAITED_NS], scalars[NOW_NS] = worked_ns, waited_ns, now_ns


@inner
def serve_agent(now_ns, capacity, memory, policy, device):  # type: ignore[no-untyped-def]
    """Do what the agent did up to `now_ns`; the workload pays for the pages that it has written out."""
    words, unread = policy[4], policy[5]
    if not memory[6][DEGREE]:
        words[LOOK_NS] = now_ns
    written = memory[7][WRITTEN]
    while True:
        turn_ns, look_ns = next_turn(words, unread, device), max(words[LOOK_NS], words[FREE_NS])
        if look_ns < min(turn_ns, now_ns):
            _look(look_ns, capacity, memory, words, device)
        elif turn_ns <= now_ns:
            read_decisions(turn_ns, memory, words, unread, policy[6])
            _call(turn_ns, capacity, memory, policy, device)
            words[LOOK_NS] = words[FREE_NS]
        else:
            break
    work((memory[7][WRITTEN] - written) * device[BESIDE_WRITE_NS], memory[6])
