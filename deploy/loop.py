"""The agent's loop: faults or decisions in order of time, then calls. Compiled; no GIL, nothing allocated.

    perf   ring of CPU 0 ─┐
           ring of CPU 1 ─┼─ by time ─► fault ─► event? ─► decide(params, state, context, out) ─┐
           ...           ─┘                                                                     ├─► queue
    BPF    ring of decisions, each with its event ──────────────────────────────────────────────┘     └► issue

With decisions from the kernel, perf's rings report mappings, forks and execs only. The loop comes back to
Python when a process appears, a mapping may have changed, or it is told to stop. Records: rings.py.
"""

from numba import types

from kdtool.deploy.events import (
    NEW_PROCESS,
    STALE_MAPPINGS,
    act,
    admit,
    fill_context,
    find_process,
)
from kdtool.deploy.issue import issue
from kdtool.deploy.layout import (
    ACTIVE,
    BATCH_PAGES,
    BUSY_NS,
    DEGREE,
    LOST,
    MAJOR_ID,
    NANOSECONDS,
    NAP_NS,
    NEXT_NS,
    POLL_AT,
    POLL_FDS,
    PROCESS_WORD,
    QUEUE_COUNT,
    REFRESH,
    SECONDS,
    STALE,
    STEPS,
    STOP,
    URGENT,
    VPN_BITS,
    WAKEUPS,
    WANTED_PID,
)
from kdtool.deploy.machine import call_nap, call_poll, load, now
from kdtool.deploy.rings import (
    LAST_NS,
    earliest,
    look_at_decisions,
    payload_at,
    skip,
    skip_decision,
    word,
)
from kdtool.deploy.room import make_room
from kdtool.kernel.perf_records import COMM, EXIT, MISC_COMM_EXEC, MMAP2, SAMPLE
from kdtool.rmt.agentrules import nap
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import DECIDE
from kdtool.rmt.predictions import forget_prediction, is_predicted, page_tag, remember

__all__ = ["LEFT", "NEW_PROCESS", "STALE_MAPPINGS", "STOPPED", "UNSEEN", "run"]

STOPPED, LEFT, UNSEEN = 1, 4, 5
"""Why the loop came back: told to; NEW_PROCESS: scratch[WANTED_PID] is new; STALE_MAPPINGS: a process's are
to be read again; LEFT: a process has ended or begun another program (exec): scratch[WANTED_PID] again;
UNSEEN: any may have, since nobody watched."""

TURN_RECORDS = 4096
"""Records that are read in a turn at most, before the stop is looked at."""
POLL_MS = 20
LOW_32 = 0xFFFFFFFF
_EXEC = MISC_COMM_EXEC
_SAMPLE, _COMM, _EXIT, _MMAP2, LOST_RECORD = SAMPLE, COMM, EXIT, MMAP2, 2

_I8, _I8_2, _I8_3 = (types.Array(types.int64, n, "C") for n in (1, 2, 3))
_PAGES = types.Tuple((_I8, _I8, _I8, _I8, _I8, _I8_2, _I8_2))  # type: ignore[no-untyped-call]
_WORK = types.Tuple((_I8_2, _I8_3, _I8, _I8, _I8, _I8_2, _I8_2, _I8, _I8_2))  # type: ignore[no-untyped-call]
_POLICY = types.Tuple((_I8, _I8, _I8))  # type: ignore[no-untyped-call]


@jit(nogil=True)
def _sample(decide, ring, pages, work, policy):  # type: ignore[no-untyped-def]
    """Take a fault in, and decide at it if it is an event; return why Python is needed first, or 0."""
    settings, counters, scratch = pages[0], pages[1], pages[2]
    context, predicted = work[4], work[7]
    params, state, out = policy
    event_id, ip, task, time_ns = word(ring, 8), word(ring, 16), word(ring, 24), word(ring, 32)
    vpn = (word(ring, 40) >> 12) & ((1 << VPN_BITS) - 1)
    pid, major = task & LOW_32, int(event_id == ring[MAJOR_ID])
    row = find_process(work[0], scratch, pid)
    tag = page_tag(pid, vpn)
    is_event = major or is_predicted(predicted, tag)
    reason = admit(row, pid, vpn, major, is_event, time_ns, pages, work)
    if reason or not is_event:
        return reason
    if row < 0 and settings[PROCESS_WORD] >= 0:
        return 0  # a baseline keeps its state by the process's row
    forget_prediction(predicted, tag)
    fill_context(row, vpn, pid, task >> 32, ip, major, time_ns, settings, context)
    n = decide(params, state, context, out)
    counters[STEPS] += state[0]
    remember(predicted, pid, out, n)
    act(row, n, out, time_ns, pages, work)
    return 0


@jit(nogil=True)
def _decision(ring, pages, work, out):  # type: ignore[no-untyped-def]
    """Take in what the kernel decided at an event; return why Python is needed first, or 0."""
    settings, scratch = pages[0], pages[2]
    at = payload_at(ring)
    time_ns, task, page, ip, n = load(at), load(at + 8), load(at + 16), load(at + 24), load(at + 48)
    pid, vpn, major = task >> 32, page >> 1, page & 1
    row = find_process(work[0], scratch, pid)
    reason = admit(row, pid, vpn, major, True, time_ns, pages, work)
    if reason:
        return reason
    fill_context(row, vpn, pid, task & LOW_32, ip, major, time_ns, settings, work[4])
    for i in range(n):
        out[i] = load(at + 56 + 8 * i)
    act(row, n, out, time_ns, pages, work)
    return 0


@jit(nogil=True)
def _other(ring, pages, work):  # type: ignore[no-untyped-def]
    """Take a record in that is no fault; return why Python is needed, or 0."""
    settings, counters, scratch = pages[0], pages[1], pages[2]
    processes = work[0]
    header, task = word(ring, 0), word(ring, 8)
    kind = header & LOW_32
    if kind == LOST_RECORD:
        counters[LOST] += word(ring, 16)
        settings[REFRESH] = 1  # the end of a process may be among them
        return 0
    row = find_process(processes, scratch, task & LOW_32)
    if row < 0:
        return 0
    if kind == _MMAP2:
        processes[row, STALE] = max(processes[row, STALE], 1)
    gone = kind == _EXIT and task & LOW_32 == (word(ring, 16) & LOW_32)
    if gone or (kind == _COMM and (header >> 32) & _EXEC):
        scratch[WANTED_PID] = task & LOW_32
        return LEFT
    return 0


@jit(nogil=True)
def _turn(decide, rings, decisions, pages, work, policy):  # type: ignore[no-untyped-def]
    """Read what the rings hold, the earliest first; return (records read, why Python is needed or 0)."""
    read = 0
    while read < TURN_RECORDS:
        ring = rings[earliest(rings)]
        if decisions[NEXT_NS] == LAST_NS:
            look_at_decisions(decisions)
        if min(ring[NEXT_NS], decisions[NEXT_NS]) == LAST_NS:
            break
        read += 1
        if decisions[NEXT_NS] < ring[NEXT_NS]:
            reason = _decision(decisions, pages, work, policy[2])
            if reason:
                return read, reason
            skip_decision(decisions)
        elif word(ring, 0) & LOW_32 == _SAMPLE:
            reason = _sample(decide, ring, pages, work, policy)
            if reason:
                return read, reason
            skip(ring)
        else:
            reason = _other(ring, pages, work)
            skip(ring)
            if reason:
                return read, reason
    return read, 0


@jit(nogil=True)
def _sleep(settings, scratch):  # type: ignore[no-untyped-def]
    """Sleep until it is time to look at the rings again.

    By the clock: to be woken by each sample costs the workload an interrupt, 19 us a fault on a 2-CPU VM. The
    ring wakes only when it is half full.
    """
    if not settings[ACTIVE]:
        call_poll(settings[POLL_AT], settings[POLL_FDS], POLL_MS)
        return
    quiet_ns = now(scratch) - scratch[BUSY_NS]
    scratch[SECONDS] = 0
    scratch[NANOSECONDS] = nap(quiet_ns, settings[NAP_NS])
    call_nap(scratch.ctypes.data + 8 * SECONDS, 0)


@jit(types.int64(types.FunctionType(DECIDE), _I8_2, _I8, _PAGES, _WORK, _POLICY), nogil=True)
def run(decide, rings, decisions, pages, work, policy):  # type: ignore[no-untyped-def]
    """Run until Python is needed; return why. `policy` is (params, state, out) of `decide`.

    Python answers and calls again; a fault that asked for it is read again then. Told to stop, it first reads
    what is left in the rings, which were switched off before.
    """
    settings, counters, scratch = pages[0], pages[1], pages[2]
    processes, ranges, window = work[0], work[2], work[3]
    while True:
        if settings[REFRESH]:
            settings[REFRESH] = 0
            return UNSEEN
        stopping = settings[STOP]
        read, reason = _turn(decide, rings, decisions, pages, work, policy)
        waiting = scratch[QUEUE_COUNT]
        if waiting and (scratch[URGENT] or waiting >= settings[BATCH_PAGES] or not read):
            issue(pages, processes, ranges, window)
            if not scratch[QUEUE_COUNT]:
                scratch[URGENT] = 0
        if reason:
            return reason
        if stopping:
            if not read:
                return STOPPED
            continue
        if not read and not scratch[QUEUE_COUNT]:
            if settings[DEGREE] and settings[ACTIVE] and make_room(settings, counters, scratch):
                continue
            counters[WAKEUPS] += 1
            _sleep(settings, scratch)
