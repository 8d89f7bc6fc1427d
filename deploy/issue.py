"""From the queue to the kernel: what is not in memory, in one process_madvise of up to 64 ranges. Compiled.

    queue --pagemap--> swapped? --neighbours merged--> ranges --process_madvise(MADV_WILLNEED)--> reads

The kernel stops at a range that it refuses; that one is left out, and the call made again with the rest.
"""

from kdtool.deploy.layout import (
    ASKED,
    CALL_NS,
    CALLS,
    FORGOTTEN,
    ISSUED,
    LATE,
    LEAD_NS,
    LIMITED,
    NOT_SWAPPED,
    PAGEMAP,
    PID,
    PIDFD,
    QUEUE_COUNT,
    QUEUE_FIRST,
    QUEUED,
    RATE_CREDIT,
    RATE_NS,
    RATE_PAGES,
    REFUSED,
    SERIAL,
    VPN_BITS,
    WINDOW_KEY,
    WINDOW_PAGES,
)
from kdtool.deploy.machine import call_pread, call_syscall, now
from kdtool.deploy.pages import follow, forget, state_of
from kdtool.kernel.advise import MADV_WILLNEED, PROCESS_MADVISE
from kdtool.rmt.agentrules import QUEUE_PAGES, RANGES, after_call, after_late, comes_too_late
from kdtool.rmt.jit import jit

__all__ = ["issue", "turn_around"]

SECOND_NS = 1_000_000_000
BURST_SHARE = 100
"""Of the pages a second, those that may come at once: a hundredth, and one at least."""
VPN_MASK = (1 << VPN_BITS) - 1
PAGE_BYTES = 4096
_PROCESS_MADVISE, _MADV_WILLNEED = PROCESS_MADVISE, MADV_WILLNEED


@jit(nogil=True)
def _find_serial(processes, serial):  # type: ignore[no-untyped-def]
    for row in range(len(processes)):
        if processes[row, PID] and processes[row, SERIAL] == serial:
            return row
    return -1


@jit(nogil=True)
def _is_swapped(pages, process, window, key):  # type: ignore[no-untyped-def]
    """Tell by pagemap whether a page has been swapped out; 64 neighbours are read at once.

    Bit 62 of an entry says swapped, also while the page is in the swap cache; bit 63 mapped.
    """
    scratch = pages[2]
    first = key & ~(WINDOW_PAGES - 1)
    if scratch[WINDOW_KEY] != first:
        window[:] = 0
        call_pread(process[PAGEMAP], window.ctypes.data, 8 * WINDOW_PAGES, 8 * (first & VPN_MASK))
        scratch[WINDOW_KEY] = first
    return (window[key - first] >> 62) & 3 == 1


@jit(nogil=True)
def _is_allowed(pages, now_ns):  # type: ignore[no-untyped-def]
    """Count a page against the rate; False when there is no credit for it.

    Credit, a second's nanoseconds a page, grows with time up to a burst. What a burst has beyond one page it
    grows more slowly by, so that in no second, whenever it begins, there are more pages than the rate.
    """
    settings, scratch = pages[0], pages[2]
    burst = max(settings[RATE_PAGES] // BURST_SHARE, 1)
    grown = min(now_ns - scratch[RATE_NS], SECOND_NS) * (settings[RATE_PAGES] - burst + 1)
    scratch[RATE_NS], scratch[RATE_CREDIT] = now_ns, min(scratch[RATE_CREDIT] + grown, burst * SECOND_NS)
    if scratch[RATE_CREDIT] < SECOND_NS:
        return False
    scratch[RATE_CREDIT] -= SECOND_NS
    return True


@jit(nogil=True)
def _collect(pages, process, window, ranges, now_ns):  # type: ignore[no-untyped-def]
    """Take pages of one process from the queue's head into ranges; return how many ranges."""
    _, counters, scratch, _, _, _, queue = pages
    n = 0
    last = -1
    scratch[WINDOW_KEY] = -1
    while scratch[QUEUE_COUNT]:
        key, due_ns = queue[scratch[QUEUE_FIRST], 0], queue[scratch[QUEUE_FIRST], 1]
        joins = n > 0 and key == last + 1
        if key >> VPN_BITS != process[SERIAL] or (n == RANGES and not joins):
            break
        scratch[QUEUE_FIRST] = (scratch[QUEUE_FIRST] + 1) % QUEUE_PAGES
        scratch[QUEUE_COUNT] -= 1
        if state_of(pages, key) != QUEUED:
            counters[FORGOTTEN] += 1
        elif comes_too_late(due_ns, now_ns, scratch[LEAD_NS]):
            counters[LATE] += 1
            scratch[LEAD_NS] = after_late(scratch[LEAD_NS])
            forget(pages, key)
        elif not _is_swapped(pages, process, window, key):
            counters[NOT_SWAPPED] += 1
            follow(pages, key, False, now_ns)
        elif not _is_allowed(pages, now_ns):
            counters[LIMITED] += 1
            forget(pages, key)
        else:
            counters[ISSUED] += 1
            follow(pages, key, True, now_ns)
            if joins:
                ranges[2 * n - 1] += PAGE_BYTES
            else:
                ranges[2 * n], ranges[2 * n + 1] = (key & VPN_MASK) * PAGE_BYTES, PAGE_BYTES
                n += 1
            last = key
    return n


@jit(nogil=True)
def turn_around(ranges, n):  # type: ignore[no-untyped-def]
    """Put the ranges that are due last first: the workload then meets the call once, and does not follow it.

    Who follows page by page finds one whose place is reserved and empty, sooner or later.
    """
    for i in range(n // 2):
        for word in range(2):
            low, high = 2 * i + word, 2 * (n - 1 - i) + word
            ranges[low], ranges[high] = ranges[high], ranges[low]


@jit(nogil=True)
def _refuse(pages, process, start, n_bytes):  # type: ignore[no-untyped-def]
    """Take pages back that the kernel refused: they are not asked for."""
    counters = pages[1]
    for address in range(start, start + n_bytes, PAGE_BYTES):
        key = process[SERIAL] << VPN_BITS | address // PAGE_BYTES
        if state_of(pages, key) == ASKED:
            forget(pages, key)
            counters[ISSUED] -= 1
            counters[REFUSED] += 1


@jit(nogil=True)
def _advise(pages, process, ranges, n):  # type: ignore[no-untyped-def]
    """Call process_madvise until all ranges were taken or refused."""
    counters = pages[1]
    at = 0
    while at < n:
        counters[CALLS] += 1
        done = call_syscall(
            _PROCESS_MADVISE, process[PIDFD], ranges.ctypes.data + 16 * at, n - at, _MADV_WILLNEED, 0, 0
        )
        while at < n and done >= ranges[2 * at + 1]:
            done -= ranges[2 * at + 1]
            at += 1
        if at < n:  # this range was refused, from its start or from some page on
            done = max(done, 0)
            _refuse(pages, process, ranges[2 * at] + done, ranges[2 * at + 1] - done)
            at += 1


@jit(nogil=True)
def issue(pages, processes, ranges, window):  # type: ignore[no-untyped-def]
    """Ask the kernel for the pages at the queue's head: those of one process, 64 ranges at most."""
    _, counters, scratch, _, _, _, queue = pages
    row = _find_serial(processes, queue[scratch[QUEUE_FIRST], 0] >> VPN_BITS)
    if row < 0:  # its process has ended
        forget(pages, queue[scratch[QUEUE_FIRST], 0])
        scratch[QUEUE_FIRST] = (scratch[QUEUE_FIRST] + 1) % QUEUE_PAGES
        scratch[QUEUE_COUNT] -= 1
        counters[FORGOTTEN] += 1
        return
    process = processes[row]
    began_ns = now(scratch)
    n = _collect(pages, process, window, ranges, began_ns)
    if n:
        turn_around(ranges, n)
        _advise(pages, process, ranges, n)
        took_ns = now(scratch) - began_ns
        counters[CALL_NS] += took_ns
        scratch[LEAD_NS] = after_call(scratch[LEAD_NS], took_ns)
