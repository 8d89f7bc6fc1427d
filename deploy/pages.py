"""The pages that were asked for, and what became of each: compiled, for the agent's loop.

    decided ──► QUEUED ──► ASKED ──minor fault──► used
                  │          ├──major fault───► evicted (or overtaken, when the fault was first)
                  │          └──ASKED_PAGES more were asked for, or predicted again 20 ms later──► expired
                  └──mapped, or not swapped──► LOOKED_AT: not asked for again for a while

A set-associative table of fixed size; a page that falls out of it stays unresolved. Most take the
tuple of Arrays.of_pages().
"""

import numpy as np

from kdtool.deploy.layout import (
    ASKED,
    ASKED_PAGES,
    DROPPED,
    EVICTED,
    EXPIRED,
    FIFO_COUNT,
    FIFO_FIRST,
    FREE,
    KNOWN,
    LOOKED_AT,
    N_MAPPINGS,
    NOT_MAPPED,
    OURS,
    OVERTAKEN,
    PID,
    QUEUE_COUNT,
    QUEUE_FIRST,
    QUEUED,
    USED,
    WAYS,
)
from kdtool.rmt.agentrules import QUEUE_PAGES
from kdtool.rmt.jit import jit
from kdtool.rmt.vm import MULTIPLIER

__all__ = [
    "follow",
    "forget",
    "has_room",
    "is_known",
    "is_ours",
    "note_major",
    "note_minor",
    "place",
    "place_of",
    "state_of",
    "want",
]

OVERTAKEN_NS = 5_000_000
"""A major fault so soon after its page was asked for had begun before: the event comes when the fault ends.
No memory turns over in that time."""
LOOK_AGAIN_NS = 20_000_000
"""A page that was mapped, or asked for, is not looked at again for so long. One that was asked for is used
within 2 ms as a rule. If it was not, it may have been evicted meanwhile, which no event says."""
_MULTIPLIER = np.uint64(MULTIPLIER)
_SHIFT = np.uint64(40)


@jit(nogil=True)
def place(keys, key):  # type: ignore[no-untyped-def]
    """Return the index of a key's entry, or -1 - (the first index of its set)."""
    n_sets = len(keys) // WAYS
    first = WAYS * (np.int64((np.uint64(key) * _MULTIPLIER) >> _SHIFT) & (n_sets - 1))
    for at in range(first, first + WAYS):
        if keys[at] == key:
            return at
    return -1 - first


@jit(nogil=True)
def state_of(pages, key):  # type: ignore[no-untyped-def]
    """Return a page's state, FREE when the table does not have it."""
    _, _, _, keys, values, _, _ = pages
    at = place(keys, key)
    return values[at] & 7 if at >= 0 else FREE


@jit(nogil=True)
def _enter(pages, key, state, now_ns):  # type: ignore[no-untyped-def]
    """Give a key its state: in its own entry, a free one, or that of the oldest page of its set."""
    _, _, _, keys, values, _, _ = pages
    at = place(keys, key)
    if at < 0:
        first = -1 - at
        at = first
        for other in range(first, first + WAYS):
            if keys[other] < 0:
                at = other
                break
            if values[other] < values[at]:
                at = other
    keys[at] = key
    values[at] = now_ns << 3 | state


@jit(nogil=True)
def forget(pages, key):  # type: ignore[no-untyped-def]
    """Take a key out of the table."""
    _, _, _, keys, values, _, _ = pages
    at = place(keys, key)
    if at >= 0:
        keys[at] = -1
        values[at] = 0


@jit(nogil=True)
def is_known(pages, key, now_ns):  # type: ignore[no-untyped-def]
    """Tell whether a page was asked for, or looked at a moment ago."""
    _, _, _, keys, values, _, _ = pages
    at = place(keys, key)
    return at >= 0 and (values[at] & 7 == QUEUED or now_ns - (values[at] >> 3) < LOOK_AGAIN_NS)


@jit(nogil=True)
def want(pages, key, now_ns, due_ns):  # type: ignore[no-untyped-def]
    """Queue a decided page, unless it was asked for or looked at a moment ago, or the queue is full."""
    _, counters, scratch, _, _, _, queue = pages
    if is_known(pages, key, now_ns):
        counters[KNOWN] += 1
        return
    if scratch[QUEUE_COUNT] == QUEUE_PAGES:
        counters[DROPPED] += 1
        return
    if state_of(pages, key) == ASKED:
        counters[EXPIRED] += 1
    last = (scratch[QUEUE_FIRST] + scratch[QUEUE_COUNT]) % QUEUE_PAGES
    queue[last, 0], queue[last, 1] = key, due_ns
    scratch[QUEUE_COUNT] += 1
    _enter(pages, key, QUEUED, now_ns)


@jit(nogil=True)
def follow(pages, key, is_asked, now_ns):  # type: ignore[no-untyped-def]
    """Follow a page from the queue on: it was asked for, or else found mapped or not swapped.

    Of the pages that are followed, the one asked for longest ago expires when there is no more room.
    """
    settings, counters, scratch, keys, values, asked, _ = pages
    if not is_asked:
        _enter(pages, key, LOOKED_AT, now_ns)
        return
    _enter(pages, key, ASKED, now_ns)
    room = min(settings[ASKED_PAGES], len(asked))
    while scratch[FIFO_COUNT] >= room:
        oldest = scratch[FIFO_FIRST]
        at = place(keys, asked[oldest, 0])
        if at >= 0 and values[at] == asked[oldest, 1] << 3 | ASKED:
            counters[EXPIRED] += 1
            keys[at], values[at] = -1, 0
        scratch[FIFO_FIRST] = (oldest + 1) % len(asked)
        scratch[FIFO_COUNT] -= 1
    newest = (scratch[FIFO_FIRST] + scratch[FIFO_COUNT]) % len(asked)
    asked[newest, 0], asked[newest, 1] = key, now_ns
    scratch[FIFO_COUNT] += 1


@jit(nogil=True)
def note_major(pages, key, event_ns):  # type: ignore[no-untyped-def]
    """Take a major fault on a page in: if we had asked for it, it was evicted, or the fault was first."""
    _, counters, _, keys, values, _, _ = pages
    at = place(keys, key)
    if at < 0:
        return
    if values[at] & 7 == ASKED:
        counters[OVERTAKEN if event_ns - (values[at] >> 3) < OVERTAKEN_NS else EVICTED] += 1
    keys[at], values[at] = -1, 0


@jit(nogil=True)
def note_minor(pages, key):  # type: ignore[no-untyped-def]
    """Take a minor fault in; return True when it is the first touch of a page that we asked for."""
    _, counters, _, keys, values, _, _ = pages
    at = place(keys, key)
    if at < 0:
        return False
    state = values[at] & 7
    keys[at], values[at] = -1, 0
    if state != ASKED:
        return False
    counters[USED] += 1
    return True


@jit(nogil=True)
def place_of(processes, mappings, row, vpn):  # type: ignore[no-untyped-def]
    """Return which kind of mapping a page lies in, as far as is known, or NOT_MAPPED: bisection."""
    low, high = 0, processes[row, N_MAPPINGS]
    while low < high:
        middle = (low + high) // 2
        if mappings[row, middle, 1] <= vpn:
            low = middle + 1
        else:
            high = middle
    known = low < processes[row, N_MAPPINGS] and mappings[row, low, 0] <= vpn
    return mappings[row, low, 2] if known else NOT_MAPPED


@jit(nogil=True)
def is_ours(processes, mappings, row, vpn):  # type: ignore[no-untyped-def]
    """Tell whether a page lies in memory that may be asked for."""
    return place_of(processes, mappings, row, vpn) == OURS


@jit(nogil=True)
def has_room(processes):  # type: ignore[no-untyped-def]
    """Tell whether another process can be kept."""
    free = 0
    for row in range(len(processes)):
        free += processes[row, PID] == 0
    return free > 0
