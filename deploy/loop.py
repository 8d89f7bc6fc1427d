"""The agent's loop: faults in order of time, decisions, calls. Compiled; holds no GIL, allocates nothing.

    ring of CPU 0 ─┐                     major fault, or first touch of a page that we asked for
    ring of CPU 1 ─┼─ by time ─► fault ─► context ─► decide(params, state, context, out) ─► queue ─► issue
    ...           ─┘                └► other minor faults: counted

The same events as replay asks at, and the same compiled decisions. The loop comes back to Python when a
process appears, a mapping may have changed, or it is told to stop. Records: see kernel/perf_records.py.
"""

from numba import types

from kdtool.deploy.issue import issue, now
from kdtool.deploy.layout import (
    ACTIVE,
    BATCH_PAGES,
    BUSY_NS,
    CLOCK_WORD,
    CONTROL_AT,
    DATA_AT,
    DECIDED,
    DECISIONS,
    DEGREE,
    EVENTS,
    FIRST_TOUCHES,
    HEAD,
    LAG_NS,
    LAST_PROCESS,
    LOGGED,
    LOST,
    MAJOR,
    MAJOR_ID,
    MASK,
    NANOSECONDS,
    NAP_NS,
    NEXT_NS,
    OTHER_MINOR,
    OUTSIDE,
    PID,
    POLL_AT,
    POLL_FDS,
    PROCESS_WORD,
    QUEUE_COUNT,
    READ_NS,
    SAMPLES,
    SECONDS,
    SERIAL,
    STALE,
    STEPS,
    STOP,
    STRANGERS,
    TAIL,
    UNMAPPED,
    URGENT,
    VPN_BITS,
    WAKEUPS,
    WANTED_PID,
)
from kdtool.deploy.machine import call_nap, call_poll, load, load_acquire, store_release
from kdtool.deploy.pages import has_room, is_mapped, note_major, note_minor, want
from kdtool.kernel.perf import HEAD_WORD, TAIL_WORD
from kdtool.kernel.perf_records import COMM, EXIT, MISC_COMM_EXEC, MMAP2, SAMPLE
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import DECIDE

__all__ = ["LEFT", "NEW_PROCESS", "STALE_MAPPINGS", "STOPPED", "run"]

STOPPED, NEW_PROCESS, STALE_MAPPINGS, LEFT = 1, 2, 3, 4
"""Why the loop came back: told to; scratch[WANTED_PID] is new; a process's mappings are to be read again; a
process has ended or begun another program (exec): scratch[WANTED_PID] again."""

READ_AGAIN_NS = 2_000_000
"""Mappings that are known to have changed are read again at most so often."""
LOOK_AGAIN_NS = 50_000_000
"""Those that are only suspected to have changed."""
TURN_RECORDS = 4096
"""Records that are read in a turn at most, before the stop is looked at."""
POLL_MS = 20
NAP_SHARE, LONGEST_NAP_NS = 8, 2_000_000
"""A nap is an eighth of the time without events, from NAP_NS to 2 ms."""
_LAST_NS = (1 << 63) - 1
_HEAD, _TAIL, _EXEC = HEAD_WORD, TAIL_WORD, MISC_COMM_EXEC
_SAMPLE, _COMM, _EXIT, _MMAP2, LOST_RECORD = SAMPLE, COMM, EXIT, MMAP2, 2
REGION_BITS = 13

_I8, _I8_2, _I8_3 = (types.Array(types.int64, n, "C") for n in (1, 2, 3))
_PAGES = types.Tuple((_I8, _I8, _I8, _I8, _I8, _I8_2, _I8))  # type: ignore[no-untyped-call]
_WORK = types.Tuple((_I8_2, _I8_3, _I8, _I8, _I8, _I8_2, _I8_2))  # type: ignore[no-untyped-call]
_POLICY = types.Tuple((_I8, _I8, _I8))  # type: ignore[no-untyped-call]


@jit(nogil=True)
def _word(ring, offset):  # type: ignore[no-untyped-def]
    """Return the 8-byte word so many bytes behind the ring's tail."""
    return load(ring[DATA_AT] + ((ring[TAIL] + offset) & ring[MASK]))


@jit(nogil=True)
def _look(ring):  # type: ignore[no-untyped-def]
    """Find the time of the ring's next record; the head is read again only when all before it is read."""
    if ring[TAIL] == ring[HEAD]:
        ring[HEAD] = load_acquire(ring[CONTROL_AT] + 8 * _HEAD)
        if ring[TAIL] == ring[HEAD]:
            ring[NEXT_NS] = _LAST_NS
            return
    header = _word(ring, 0)
    # The others end with pid and tid, time, cpu, id.
    ring[NEXT_NS] = _word(ring, 32 if header & 0xFFFFFFFF == _SAMPLE else (header >> 48) - 24)


@jit(nogil=True)
def _skip(ring):  # type: ignore[no-untyped-def]
    """Go behind the record and give its room back."""
    ring[TAIL] += (_word(ring, 0) >> 48) & 0xFFFF
    store_release(ring[CONTROL_AT] + 8 * _TAIL, ring[TAIL])
    _look(ring)


@jit(nogil=True)
def _find_process(processes, scratch, pid):  # type: ignore[no-untyped-def]
    """Return a process's row, -1 when it is not known; most faults come from the one before."""
    if processes[scratch[LAST_PROCESS], PID] == pid:
        return scratch[LAST_PROCESS]
    for row in range(len(processes)):
        if processes[row, PID] == pid:
            scratch[LAST_PROCESS] = row
            return row
    return -1


@jit(nogil=True)
def _decide(decide, row, vpn, task, ip, major, time_ns, pages, work, policy):  # type: ignore[no-untyped-def]
    """Ask the policy at an event, and queue the pages that lie in a mapping."""
    settings, counters, scratch = pages[0], pages[1], pages[2]
    processes, mappings, _, _, context, log, log_out = work
    params, state, out = policy
    context[0], context[1], context[2] = vpn, task & 0xFFFFFFFF, task >> 32
    context[3], context[4], context[5] = ip, vpn >> REGION_BITS, major
    if settings[PROCESS_WORD] >= 0:
        context[settings[PROCESS_WORD]] = row
    if settings[CLOCK_WORD] >= 0:
        context[settings[CLOCK_WORD]] = time_ns
    n = decide(params, state, context, out)
    counters[EVENTS] += 1
    counters[STEPS] += state[0]
    if scratch[LOGGED] < len(log):
        at = scratch[LOGGED]
        for i in range(len(context)):
            log[at, i] = context[i]
        log_out[at, 0] = n
        for i in range(n):
            log_out[at, i + 1] = out[i]
        scratch[LOGGED] += 1
    n = min(n, settings[DEGREE])
    if n == 0 or not settings[ACTIVE]:
        return
    counters[DECISIONS] += 1
    counters[DECIDED] += n
    serial = processes[row, SERIAL] << VPN_BITS
    now_ns = now(scratch)
    counters[LAG_NS] = max(counters[LAG_NS], now_ns - time_ns)
    if major:
        scratch[URGENT] = 1
    for i in range(n):
        if is_mapped(processes, mappings, row, out[i]):
            want(pages, serial | out[i], now_ns)
        else:
            counters[UNMAPPED] += 1


@jit(nogil=True)
def _sample(decide, ring, pages, work, policy):  # type: ignore[no-untyped-def]
    """Take a fault in; return why Python is needed first, or 0."""
    counters, scratch = pages[1], pages[2]
    processes, mappings = work[0], work[1]
    event_id, ip, task, time_ns = _word(ring, 8), _word(ring, 16), _word(ring, 24), _word(ring, 32)
    vpn = (_word(ring, 40) >> 12) & ((1 << VPN_BITS) - 1)
    row = _find_process(processes, scratch, task & 0xFFFFFFFF)
    if row < 0:
        if scratch[WANTED_PID] != task & 0xFFFFFFFF and has_room(processes):
            scratch[WANTED_PID] = task & 0xFFFFFFFF
            return NEW_PROCESS  # and then this fault again
        counters[SAMPLES] += 1
        counters[STRANGERS] += 1
        return 0
    scratch[WANTED_PID] = 0
    major = event_id == ring[MAJOR_ID]
    key = processes[row, SERIAL] << VPN_BITS | vpn
    if not major:
        counters[SAMPLES] += 1
        if note_minor(pages, key):
            counters[FIRST_TOUCHES] += 1
            scratch[BUSY_NS] = time_ns
            _decide(decide, row, vpn, task, ip, 0, time_ns, pages, work, policy)
        else:
            counters[OTHER_MINOR] += 1
        return 0
    if not is_mapped(processes, mappings, row, vpn):
        age_ns = time_ns - processes[row, READ_NS]
        if age_ns > (READ_AGAIN_NS if processes[row, STALE] else LOOK_AGAIN_NS):
            processes[row, STALE] = 2
            return STALE_MAPPINGS  # and then this fault again
        counters[SAMPLES] += 1
        counters[OUTSIDE] += 1
        return 0
    counters[SAMPLES] += 1
    counters[MAJOR] += 1
    scratch[BUSY_NS] = time_ns
    note_major(pages, key, time_ns)
    _decide(decide, row, vpn, task, ip, 1, time_ns, pages, work, policy)
    return 0


@jit(nogil=True)
def _other(ring, pages, work):  # type: ignore[no-untyped-def]
    """Take a record in that is no fault; return why Python is needed, or 0."""
    counters, scratch = pages[1], pages[2]
    processes = work[0]
    header, task = _word(ring, 0), _word(ring, 8)
    kind = header & 0xFFFFFFFF
    if kind == LOST_RECORD:
        counters[LOST] += _word(ring, 16)
        return 0
    row = _find_process(processes, scratch, task & 0xFFFFFFFF)
    if row < 0:
        return 0
    if kind == _MMAP2:
        processes[row, STALE] = max(processes[row, STALE], 1)
    gone = kind == _EXIT and task & 0xFFFFFFFF == (_word(ring, 16) & 0xFFFFFFFF)
    if gone or (kind == _COMM and (header >> 32) & _EXEC):
        scratch[WANTED_PID] = task & 0xFFFFFFFF
        return LEFT
    return 0


@jit(nogil=True)
def _turn(decide, rings, pages, work, policy):  # type: ignore[no-untyped-def]
    """Read what the rings hold, the earliest first; return (records read, why Python is needed or 0)."""
    read = 0
    while read < TURN_RECORDS:
        first = 0
        for r in range(len(rings)):
            if rings[r, NEXT_NS] == _LAST_NS:
                _look(rings[r])
            if rings[r, NEXT_NS] < rings[first, NEXT_NS]:
                first = r
        ring = rings[first]
        if ring[NEXT_NS] == _LAST_NS:
            break
        read += 1
        if _word(ring, 0) & 0xFFFFFFFF == _SAMPLE:
            reason = _sample(decide, ring, pages, work, policy)
            if reason:
                return read, reason
            _skip(ring)
        else:
            reason = _other(ring, pages, work)
            _skip(ring)
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
    scratch[NANOSECONDS] = min(max(quiet_ns // NAP_SHARE, settings[NAP_NS]), LONGEST_NAP_NS)
    call_nap(scratch.ctypes.data + 8 * SECONDS, 0)


@jit(types.int64(types.FunctionType(DECIDE), _I8_2, _PAGES, _WORK, _POLICY), nogil=True)
def run(decide, rings, pages, work, policy):  # type: ignore[no-untyped-def]
    """Run until Python is needed; return why. `policy` is (params, state, out) of `decide`.

    Python answers and calls again; a fault that asked for it is read again then. Told to stop, it first reads
    what is left in the rings, which were switched off before.
    """
    settings, counters, scratch = pages[0], pages[1], pages[2]
    processes, _, ranges, window, _, _, _ = work
    while True:
        stopping = settings[STOP]
        read, reason = _turn(decide, rings, pages, work, policy)
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
            counters[WAKEUPS] += 1
            _sleep(settings, scratch)
