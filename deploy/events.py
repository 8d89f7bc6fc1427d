"""A fault on its way through the loop: whose it is, what became of its page, is it an event, what follows.

    fault ─► admit: known process? mapping? fate of the page ─► event? ─► decision ─► act: queue its pages

What an event is: rmt/predictions.py. Which of its pages would come too late: rmt/agentrules.py.
"""

from kdtool.deploy.lags import lag_class
from kdtool.deploy.layout import (
    ACTIVE,
    BUSY_NS,
    CLOCK_WORD,
    DECIDED,
    DECISIONS,
    DEGREE,
    EVENTS,
    FIRST_TOUCHES,
    LAG_COUNTS,
    LAG_NS,
    LAST_PROCESS,
    LATE,
    LEAD_NS,
    LOGGED,
    MAJOR,
    NOT_MAPPED,
    OTHER_MINOR,
    OURS,
    OUTSIDE,
    PID,
    PROCESS_WORD,
    READ_NS,
    SAMPLES,
    SERIAL,
    STALE,
    STRANGERS,
    UNMAPPED,
    URGENT,
    VPN_BITS,
    WANTED_PID,
)
from kdtool.deploy.machine import now
from kdtool.deploy.pages import has_room, is_known, is_ours, note_major, note_minor, place_of, want
from kdtool.rmt.agentrules import after_late, after_miss, comes_too_late, keep_pace
from kdtool.rmt.jit import jit

__all__ = [
    "NEW_PROCESS",
    "STALE_MAPPINGS",
    "act",
    "admit",
    "fill_context",
    "find_process",
]

NEW_PROCESS, STALE_MAPPINGS = 2, 3
READ_AGAIN_NS = 2_000_000
"""Mappings that are known to have changed are read again at most so often."""
LOOK_AGAIN_NS = 50_000_000
"""Those that are only suspected to have changed: a page faulted where nothing was mapped."""
SURE_NS = 2_000_000_000
"""Those in which it is a page of a file, or shared: no record says that mremap(2) put another one there. To
read what a Python program with its libraries has mapped takes 3 ms, in which nothing is decided on."""
REGION_BITS = 13


@jit(nogil=True)
def find_process(processes, scratch, pid):  # type: ignore[no-untyped-def]
    """Return a process's row, -1 when it is not known; most faults come from the one before."""
    if processes[scratch[LAST_PROCESS], PID] == pid:
        return scratch[LAST_PROCESS]
    for row in range(len(processes)):
        if processes[row, PID] == pid:
            scratch[LAST_PROCESS] = row
            return row
    return -1


@jit(nogil=True)
def admit(row, pid, vpn, major, is_event, time_ns, pages, work):  # type: ignore[no-untyped-def]
    """Count a fault and settle the fate of its page; return why Python is needed first, or 0."""
    counters, scratch = pages[1], pages[2]
    processes, mappings = work[0], work[1]
    if row < 0:
        if scratch[WANTED_PID] != pid and has_room(processes):
            scratch[WANTED_PID] = pid
            return NEW_PROCESS  # and then this fault again
        counters[SAMPLES] += 1
        counters[STRANGERS] += 1
        return 0
    scratch[WANTED_PID] = 0
    where = place_of(processes, mappings, row, vpn) if major else NOT_MAPPED
    inside = where == OURS
    if major and not inside:
        age_ns = time_ns - processes[row, READ_NS]
        after_ns = LOOK_AGAIN_NS if where == NOT_MAPPED else SURE_NS
        if age_ns > (READ_AGAIN_NS if processes[row, STALE] else after_ns):
            processes[row, STALE] = 2
            return STALE_MAPPINGS  # and then this fault again
    counters[SAMPLES] += 1
    key = processes[row, SERIAL] << VPN_BITS | vpn
    if not major:
        note_minor(pages, key)
        counters[FIRST_TOUCHES if is_event else OTHER_MINOR] += 1
    elif inside:
        counters[MAJOR] += 1
        note_major(pages, key, time_ns)
    else:
        counters[OUTSIDE] += 1
    if is_event:
        scratch[BUSY_NS] = time_ns
    return 0


@jit(nogil=True)
def fill_context(row, vpn, pid, tid, ip, major, time_ns, settings, context):  # type: ignore[no-untyped-def]
    """Put an event into the words that a policy is given."""
    context[0], context[1], context[2] = vpn, pid, tid
    context[3], context[4], context[5] = ip, vpn >> REGION_BITS, major
    if settings[PROCESS_WORD] >= 0:
        context[settings[PROCESS_WORD]] = row
    if settings[CLOCK_WORD] >= 0:
        context[settings[CLOCK_WORD]] = time_ns


@jit(nogil=True)
def act(row, n, out, time_ns, pages, work):  # type: ignore[no-untyped-def]
    """Count a decision of `n` pages at the event in `context`, and queue those that lie in a mapping."""
    settings, counters, scratch = pages[0], pages[1], pages[2]
    processes, mappings, _, _, context, log, log_out, _, paces = work
    counters[EVENTS] += 1
    hit_ns, miss_ns = keep_pace(paces, context[2], context[5], time_ns)
    if scratch[LOGGED] < len(log):
        at = scratch[LOGGED]
        for i in range(len(context)):
            log[at, i] = context[i]
        log_out[at, 0] = n
        for i in range(n):
            log_out[at, i + 1] = out[i]
        scratch[LOGGED] += 1
    n = min(n, settings[DEGREE])
    if n == 0 or not settings[ACTIVE] or row < 0:
        return
    counters[DECISIONS] += 1
    counters[DECIDED] += n
    serial = processes[row, SERIAL] << VPN_BITS
    now_ns = now(scratch)
    counters[LAG_NS] = max(counters[LAG_NS], now_ns - time_ns)
    counters[LAG_COUNTS + lag_class(now_ns - time_ns)] += 1
    if context[5]:
        scratch[URGENT] = 1
    due_ns = time_ns
    for i in range(n):
        due_ns += hit_ns
        if not is_ours(processes, mappings, row, out[i]):
            counters[UNMAPPED] += 1
        elif comes_too_late(due_ns, now_ns, scratch[LEAD_NS]) and not is_known(
            pages, serial | out[i], now_ns
        ):
            counters[LATE] += 1
            scratch[LEAD_NS] = after_late(scratch[LEAD_NS])
            due_ns = after_miss(due_ns, hit_ns, miss_ns)
        else:
            want(pages, serial | out[i], now_ns, due_ns)
