"""What the agent of `kdtool deploy` goes by, and the one that replay has: the same rules, compiled into both.

    decision ─► due after so many hits and misses ─► too soon for a call? ─no─► queue ─64 ranges─► call

Pace: of each thread how long its last hits took, first touches of predicted pages, and its last misses. A
page predicted n steps ahead is due after n hits, and each of those left out before it is a miss. The time of
the slowest recent call, the lead, must lie before it is due: within a call the kernel may reclaim for a page
that it has reserved in the swap cache and not yet put there, and who faults on that page sleeps for one or
two ticks, 4 to 8 ms at 250 Hz (__read_swap_cache_async, mm/swap_state.c, v6.18).
"""

from kdtool.rmt.jit import jit

__all__ = [
    "FREE_PAGES",
    "FRESH_NS",
    "LEAST_SHARE",
    "LOW_PAGES",
    "PACES",
    "QUEUE_PAGES",
    "RANGES",
    "after_call",
    "after_late",
    "after_miss",
    "comes_too_late",
    "keep_pace",
    "nap",
]

QUEUE_PAGES = 256
"""That wait for a call."""
RANGES = 64
"""A call."""
PACES = 256
"""Threads whose pace is known; two that share a slot are taken for one."""
PACE_SHARE, LEAST_PACE_NS, LONGEST_PACE_NS = 8, 1_000, 10_000_000
"""A pace follows the last eight events or so; what takes more than twice as long is a pause, and no pace."""
LEAD_SHARE, LATE_SHARE = 64, 256
"""The lead is the time of the slowest call, forgotten by a 64th a call, and a 256th a page that was left out:
or calls that were slow once would end all."""
NAP_SHARE, LONGEST_NAP_NS = 8, 2_000_000
"""A nap is an eighth of the time without events, 2 ms at most."""
LOW_PAGES, FREE_PAGES = 64, 96
"""Less than LOW_PAGES free: reclaim until there are FREE_PAGES. A CPU charges up to 64 ahead."""
FRESH_NS = 50_000_000
"""While the program acts the kernel's statistics of the workload's memory are brought up to date so often."""
LEAST_SHARE = 16
"""A limit of fewer times FREE_PAGES has no room to spare."""


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
def comes_too_late(due_ns, now_ns, lead_ns):  # type: ignore[no-untyped-def]
    """Tell whether a page that is due then is not asked for now."""
    return due_ns < now_ns + lead_ns


@jit(nogil=True)
def after_miss(due_ns, hit_ns, miss_ns):  # type: ignore[no-untyped-def]
    """Return when a page is due that was due at `due_ns`, if one before it is a miss and not a hit."""
    return due_ns + max(miss_ns - hit_ns, 0)


@jit(nogil=True)
def after_late(lead_ns):  # type: ignore[no-untyped-def]
    """Return the lead after a page was left out."""
    return lead_ns - lead_ns // LATE_SHARE


@jit(nogil=True)
def after_call(lead_ns, took_ns):  # type: ignore[no-untyped-def]
    """Return the lead after a call."""
    return max(took_ns, lead_ns - lead_ns // LEAD_SHARE)


@jit(nogil=True)
def nap(quiet_ns, least_ns):  # type: ignore[no-untyped-def]
    """Return how long to nap when there was no event for so long."""
    return min(max(quiet_ns // NAP_SHARE, least_ns), max(LONGEST_NAP_NS, least_ns))
