"""A fault on its way through the loop: whose it is, what became of its page, is it an event, what follows.

    fault ─► admit: known process? mapping? fate of the page ─► event? ─► decision ─► act: queue its pages

An event of mm.swapin is a major fault, or the first fault on a page that the program predicted. Predictions
are kept as in the kernel (rmt/bpf/fault.py): their tag in a direct-mapped table, where a later one takes the
place of another with the same slot. So both sources decide at the same events, whatever the agent did
meanwhile.
"""

import numpy as np

from kdtool.deploy.issue import LATE_SHARE
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
    OTHER_MINOR,
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
from kdtool.deploy.pages import has_room, is_known, is_mapped, note_major, note_minor, want
from kdtool.rmt.jit import jit
from kdtool.rmt.vm import MULTIPLIER

__all__ = [
    "NEW_PROCESS",
    "STALE_MAPPINGS",
    "act",
    "admit",
    "fill_context",
    "find_process",
    "forget_prediction",
    "is_predicted",
    "keep_pace",
    "page_tag",
    "remember",
]

NEW_PROCESS, STALE_MAPPINGS = 2, 3
READ_AGAIN_NS = 2_000_000
"""Mappings that are known to have changed are read again at most so often."""
LOOK_AGAIN_NS = 50_000_000
"""Those that are only suspected to have changed."""
REGION_BITS = 13
PACE_SHARE, LEAST_PACE_NS, LONGEST_PACE_NS = 8, 1_000, 10_000_000
"""A pace follows the last eight events or so; what takes more than twice as long is a pause, and no pace."""
_MULTIPLIER = np.uint64(MULTIPLIER)
_HALF = np.uint64(32)


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
def page_tag(pid, vpn):  # type: ignore[no-untyped-def]
    """Return the tag of a process's page, rmt.vm.hash_key([pid]) + vpn, as int64."""
    process = (_MULTIPLIER ^ np.uint64(pid)) * _MULTIPLIER
    return np.int64((process ^ (process >> _HALF)) + np.uint64(vpn))


@jit(nogil=True)
def is_predicted(predicted, tag):  # type: ignore[no-untyped-def]
    """Tell whether a page, by its tag, was predicted and not touched since."""
    return predicted[tag & (len(predicted) - 1)] == tag


@jit(nogil=True)
def forget_prediction(predicted, tag):  # type: ignore[no-untyped-def]
    """Free the page's slot, if it is its own."""
    if is_predicted(predicted, tag):
        predicted[tag & (len(predicted) - 1)] = 0


@jit(nogil=True)
def remember(predicted, pid, out, n):  # type: ignore[no-untyped-def]
    """Keep the pages of a decision, the last one first, as the kernel does."""
    for i in range(n - 1, -1, -1):
        tag = page_tag(pid, out[i])
        predicted[tag & (len(predicted) - 1)] = tag


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
    inside = bool(major) and is_mapped(processes, mappings, row, vpn)
    if major and not inside:
        age_ns = time_ns - processes[row, READ_NS]
        if age_ns > (READ_AGAIN_NS if processes[row, STALE] else LOOK_AGAIN_NS):
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
def keep_pace(paces, tid, major, time_ns):  # type: ignore[no-untyped-def]
    """Take in an event of a thread; return the mean time that its last hits took, and its last misses.

    From the event before to the end of this one: what it works, and of a miss also what it waits.
    """
    at, kind = tid & (len(paces) - 1), 1 + (major != 0)
    mean_ns = paces[at, kind]
    most_ns = 2 * mean_ns if mean_ns else LONGEST_PACE_NS
    since_ns = min(max(time_ns - paces[at, 0], LEAST_PACE_NS), most_ns)
    paces[at, 0] = time_ns
    paces[at, kind] += (since_ns - mean_ns) // PACE_SHARE
    return paces[at, 1], paces[at, 2]


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
        if not is_mapped(processes, mappings, row, out[i]):
            counters[UNMAPPED] += 1
        elif due_ns >= now_ns + scratch[LEAD_NS] or is_known(pages, serial | out[i], now_ns):
            want(pages, serial | out[i], now_ns, due_ns)
        else:
            counters[LATE] += 1
            scratch[LEAD_NS] -= scratch[LEAD_NS] // LATE_SHARE
            due_ns += max(miss_ns - hit_ns, 0)
