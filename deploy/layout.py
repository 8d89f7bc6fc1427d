"""The arrays that the agent's compiled loop and Python share. All are int64, of fixed size: nothing grows.

settings    what Python tells the loop; it looks at them at every turn
counters    what the loop counted; Python reads them at any time
processes   a row a process: pid (0: free), serial (of its address space), pidfd, pagemap, how many mappings
mappings    (process, i, first and last + 1 vpn, OURS or OTHERS), in order: private anonymous, and the rest
pages       a set-associative table of pages asked for: key = serial << 52 | vpn, value = time << 3 | state
asked       the keys in the order in which they were asked for, and when
queue       keys that wait for the next call, and when their pages are due
paces       (a slot of threads: time of its last event, mean time that its hits take, and its misses)
predicted   tags of pages that the program predicted, by which their first touches are known
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.deploy.lags import LAG_CLASSES
from kdtool.rmt.agentrules import PACES, QUEUE_PAGES, RANGES
from kdtool.rmt.bpf import ASKED_SLOTS

__all__ = ["MAX_MAPPINGS", "MAX_PROCESSES", "Arrays", "new_arrays"]

Int64Array = npt.NDArray[np.int64]

MAX_PROCESSES = 64
"""Of a cgroup at one time; the events of others are counted and left to the kernel."""
MAX_MAPPINGS = 4096
WAYS = 4
TABLE_PAGES = 1 << 18
MAX_ASKED = 1 << 16
VPN_BITS = 52
WINDOW_PAGES = 64
"""Entries of pagemap that are read at once, aligned: as many as a cache line of page tables times eight."""

# settings
(STOP, ACTIVE, DEGREE, BATCH_PAGES, RATE_PAGES, ASKED_PAGES, NAP_NS, CONTEXT_WORDS, PROCESS_WORD, CLOCK_WORD,
 POLL_AT, POLL_FDS, USAGE_FD, FULL_BYTES, FREE_FD, FREE_TEXT, FREE_LENGTH, KEEP_TEXT, KEEP_LENGTH, REFRESH,
 N_SETTINGS) = range(21)  # fmt: skip
"""STOP: leave the loop · ACTIVE: 0 observes only · DEGREE: pages a decision at most · BATCH_PAGES: wait for
so many, while hits show that it is ahead · RATE_PAGES: a second · ASKED_PAGES: pages that are followed until
their fate is known · NAP_NS: look at the rings so often while there are events, and more and more seldom
without · CONTEXT_WORDS, PROCESS_WORD, CLOCK_WORD: of `context`; -1: none · POLL_AT, POLL_FDS: address and
number of the pollfds of the rings, to sleep on while it is not active · USAGE_FD (-1: none), FULL_BYTES:
where it is read how much memory is in use, and from when on room is made: FREE_TEXT is written to FREE_FD,
and then KEEP_TEXT · REFRESH: nobody watched, or records were lost: processes may have come and
gone unseen."""

# counters
(SAMPLES, MAJOR, FIRST_TOUCHES, OTHER_MINOR, STRANGERS, OUTSIDE, EVENTS, DECISIONS, DECIDED, UNMAPPED, KNOWN,
 DROPPED, LIMITED, NOT_SWAPPED, ISSUED, USED, EVICTED, EXPIRED, OVERTAKEN, REFUSED, CALLS, FORGOTTEN, STEPS,
 LAG_NS, LOST, WAKEUPS, CALL_NS, LATE, ROOMS, ROOM_NS, LAG_COUNTS) = range(31)  # fmt: skip
N_COUNTERS = LAG_COUNTS + LAG_CLASSES
"""SAMPLES: faults that came through the rings = MAJOR + FIRST_TOUCHES (minor, of pages that were predicted) +
OTHER_MINOR + STRANGERS (of processes that are not known) + OUTSIDE (major, but of no anonymous mapping) ·
EVENTS: what the program was asked at · DECISIONS: those with a page · DECIDED: their pages = UNMAPPED +
KNOWN (asked for or looked at a moment ago) + DROPPED (queue full) + LIMITED (by rate) + NOT_SWAPPED +
FORGOTTEN (touched or ended while they waited) + LATE (due before they could be there) + REFUSED + ISSUED +
those in the queue · of those issued USED, EVICTED (a major fault on it), EXPIRED (not touched while
ASKED_PAGES more were asked for, or before it was predicted anew after 20 ms) and OVERTAKEN (the fault was
first) · CALLS of process_madvise · CALL_NS: the time in them · LAG_NS: how long events waited that led to
pages, the longest; LAG_COUNTS: how many of each class, see lags.py · LOST: by the rings · WAKEUPS: sleeps ·
ROOMS, ROOM_NS: how often room was made, and the time it took."""

# processes
PID, SERIAL, PIDFD, PAGEMAP, N_MAPPINGS, STALE, READ_NS, PROCESS_WORDS = range(8)
# a ring
CONTROL_AT, DATA_AT, MASK, MAJOR_ID, HEAD, TAIL, NEXT_NS, HEAD_AT, RECORD_BYTES, RING_WORDS = range(10)
"""CONTROL_AT: of perf's control page, or of the consumer's position · of the ring of decisions only:
HEAD_AT, of the producer's position, and RECORD_BYTES · MAJOR_ID: the event whose samples are major faults."""

NOT_MAPPED, OTHERS, OURS = range(3)
"""What is known of a page's place. OURS: private, writable and anonymous; only such pages are asked for."""

FREE, QUEUED, ASKED, LOOKED_AT = range(4)
"""States of a page in the table. LOOKED_AT: mapped or never swapped when we looked."""

# scratch: what the loop keeps between calls
(FIFO_FIRST, FIFO_COUNT, QUEUE_FIRST, QUEUE_COUNT, RATE_NS, RATE_CREDIT, WINDOW_KEY, LOGGED, WANTED_PID,
 LAST_PROCESS, NOW, SECONDS, NANOSECONDS, BUSY_NS, URGENT, LEAD_NS, USAGE_TEXT) = range(17)  # fmt: skip
USAGE_WORDS = 3
N_SCRATCH = USAGE_TEXT + USAGE_WORDS


@dataclass(frozen=True)
class Arrays:
    """Everything that the loop writes, see the module's docstring; `log` holds events as they were asked."""

    settings: Int64Array
    counters: Int64Array
    scratch: Int64Array
    processes: Int64Array
    mappings: Int64Array
    keys: Int64Array
    values: Int64Array
    asked: Int64Array
    queue: Int64Array
    ranges: Int64Array
    window: Int64Array
    context: Int64Array
    log: Int64Array
    log_out: Int64Array
    predicted: Int64Array
    paces: Int64Array

    def of_pages(self) -> tuple[Int64Array, ...]:
        """Return what the functions of pages.py take."""
        return self.settings, self.counters, self.scratch, self.keys, self.values, self.asked, self.queue

    def whole(self) -> tuple[Int64Array, ...]:
        """Return what the loop takes beside `of_pages`."""
        return (
            self.processes, self.mappings, self.ranges, self.window, self.context, self.log, self.log_out,
            self.predicted, self.paces,
        )  # fmt: skip


def new_arrays(context_words: int, log_events: int = 0, out_words: int = 128) -> Arrays:
    """Return empty arrays; `log_events` events are kept with what was decided (for tests)."""
    settings = np.zeros(N_SETTINGS, np.int64)
    settings[[ACTIVE, DEGREE, BATCH_PAGES, RATE_PAGES, ASKED_PAGES]] = 1, 64, 1, 400_000, MAX_ASKED
    settings[[CONTEXT_WORDS, PROCESS_WORD, CLOCK_WORD, USAGE_FD]] = context_words, -1, -1, -1
    scratch = np.zeros(N_SCRATCH, np.int64)
    scratch[WINDOW_KEY] = -1
    return Arrays(
        settings=settings,
        counters=np.zeros(N_COUNTERS, np.int64),
        scratch=scratch,
        processes=np.zeros((MAX_PROCESSES, PROCESS_WORDS), np.int64),
        mappings=np.zeros((MAX_PROCESSES, MAX_MAPPINGS, 3), np.int64),
        keys=np.full(TABLE_PAGES, -1, np.int64),
        values=np.zeros(TABLE_PAGES, np.int64),
        asked=np.zeros((MAX_ASKED, 2), np.int64),
        queue=np.zeros((QUEUE_PAGES, 2), np.int64),
        ranges=np.zeros(2 * RANGES, np.int64),
        window=np.zeros(WINDOW_PAGES, np.int64),
        context=np.zeros(context_words, np.int64),
        log=np.zeros((log_events, context_words), np.int64),
        log_out=np.zeros((log_events, out_words), np.int64),
        predicted=np.zeros(ASKED_SLOTS, np.int64),
        paces=np.zeros((PACES, 3), np.int64),
    )
