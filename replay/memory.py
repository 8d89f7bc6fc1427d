"""Memory and swap of one replay: pages on lists, swap slots, and one device that reads.

Unit of work: a page. All state is integer arrays that the engine's kernels share, so that a replay can stop
after any reference and go on later. What is known of one page is one record of PAGE, a quarter of a cache
line, and its ready_ns; the arrays of the record's fields are views.

    status[p]   NEVER (not touched yet) · RESIDENT (mapped) · PREFETCHED (read or being read, not
                touched yet) · UNMAPPED (by reclaim, and not freed yet) · SWAPPED (its content is on the
                device); of a page of a file, beside RESIDENT, FILE_OUT (not in memory) · FILE_IN (read or
                being read, not mapped)
    place[p]    where it is on a list, see lists.py
    marks[p]    bits of the page and its PTE, see below
    evicted_at[p] twice the lists' age when it was freed, of which MOST_AGE is kept, plus whether it had been
                active; -1 never: what Linux keeps as a shadow entry. Of `mglru`: generations.py
    touchers[p] a bit for each process that set the accessed bit, which is its own PTE's; kept where there are
                several processes
    writes[i]   pages being written, see plug.py
    slot[p]     its place on the swap device, -1 without one, see slots.py; a page keeps it while it is in
                memory unless a store brought it in (do_swap_page(), should_try_to_free_swap(), v6.18); a page
                of a file has EXECUTABLE here when the mapping that it was last mapped by is
    ready_ns[p] when its read ends, while PREFETCHED or FILE_IN
    victims[i]  the i-th page to go, for a memory that goes by a plan and keeps no lists; else empty

Pages of files come last, from scalars[FIRST_FILE] on; what is counted of both kinds lies side by side, the
file's behind the anonymous one's. Not here: large folios, several nodes.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.replay.lists import N_LISTS, new_rings
from kdtool.replay.longarrays import zeros
from kdtool.replay.slots import new_clusters, new_page_of_slot

__all__ = [
    "NEVER",
    "PAGE",
    "PREFETCHED",
    "RECLAIMS",
    "RESIDENT",
    "SWAPPED",
    "UNMAPPED",
    "Flush",
    "Memory",
    "ZeroPages",
    "new_memory",
    "no_zeros",
]

NEVER, RESIDENT, PREFETCHED, SWAPPED, UNMAPPED, FILE_OUT, FILE_IN = range(7)

ACCESSED, REFERENCED, ACTIVE, WORKINGSET, DIRTY, WRITEBACK, READAHEAD, PREDICTED = (1 << i for i in range(8))
"""Bits of Memory.marks: accessed and dirty of the PTE, and the page's flags of the other names. PREDICTED:
the policy that is scored asked for it, or its agent is about to, and it was not touched since."""

EXECUTABLE = -2
SWAP_MISSED, FILE_MISSED = 1, 2
"""What a run notes of a row with a major fault."""

LRU, LINUX, PLANNED, MGLRU = range(4)
HAS_BITS = 1
"""Set in the kinds that go by accessed bits."""
RECLAIMS = {"linux": LINUX, "lru": LRU, "mglru": MGLRU}
"""How memory gives pages up, by name; a policy may bring along a plan instead, see Memory.planned()."""
LISTS = {LINUX: 4, LRU: 1, MGLRU: N_LISTS}
"""How many lists a memory keeps, by kind."""

# Indexes into Memory.scalars; those with a FILE_ beside them are the anonymous pages' own.
(COUNT, WAITED_NS, WORKED_NS, DEVICE_FREE_NS, LAST_SLOT, NEXT_SLOT, FREE_AT, PREFETCHED_NOW, NOW_NS,
 START_NS, START_WAITED_NS, RECLAIM_KIND, ACTIVE_COUNT, FILE_ACTIVE_COUNT, AGE, ACTIVATIONS,
 FILE_ACTIVATIONS, FLUSH_AT_NS, FLUSH_PERIOD_NS, STAT_INACTIVE, STAT_FILE_INACTIVE, STAT_ACTIVE,
 STAT_FILE_ACTIVE, STAT_ACTIVATIONS, STAT_FILE_ACTIVATIONS, SNAPSHOT_ACTIVATIONS,
 SNAPSHOT_FILE_ACTIVATIONS, ANON_COST, FILE_COST, SKIPPED, WRITES_FIRST, WRITES_SENT, WRITES_END,
 VICTIM_AT, FIRST_FILE, FILE_COUNT, SCAN_LEFT, SCAN_TARGET, MAX_SEQ, MIN_SEQ, GEN_PAGES, REFAULTED, EVICTED,
 PROTECTED, AVG_REFAULTED, AVG_TOTAL, TICK_NS, WATCHES, DEGREE, PLUG_REQUESTS, PLUG_PAGES,
 PLUG_NEXT, THREAD, WAKE_AT, BOUND_NS, VMA_AT, BEFORE_NS, FRESH_CPUS, PROCESSES, NAMED, WOKE_NS, HAS_LAG,
 KEEPS_NS, JIFFY_NS, AT_ROW, AGED, BATCH, SHOOTDOWN_NS,
 STOCK, OTHER_STOCK, PLUG_HELD, PLUG_FIRST, WRITES_OUT, THROTTLE_STEP, THROTTLE_AT_NS, N_SCALARS) = (
    *range(37), 40, 44, 45, 47, 55, 63, 71, 79, 87, 96, 97, 98, 104, 105, 106, 107, 108, 109, 110, 111, 112,
    113, 114, 115, 116, 117, 118, 119, 120, 121, 185, 186, 187,
    188, 189, 190, 191, 192, 193,
)  # fmt: skip

# Indexes into the device's vector, see devices.py.
(LATENCY_NS, SERVICE_NS, TRANSFER_NS, SYNCHRONOUS, BATCHED, MAJOR_NS, MINOR_NS, COLD_NS, PREFETCH_NS,
 RANGE_NS, CALL_NS, RECLAIM_NS, WRITEOUT_NS, BESIDE_NS, BESIDE_WRITE_NS, STEP_PS, INSN_PS, N_CPUS, SLICE_NS,
 TICK_EVERY_NS, REQUEST_PAGES, WRITE_REQUESTS, AGENT_NS, N_DEVICE) = range(24)  # fmt: skip

# Indexes into the counters.
(ACCESSES, HITS, MINOR, MAJOR, COLD, LATE, ISSUED, USED, WASTED, POLLUTION, DECISIONS, RECLAIMED, WRITTEN,
 CACHE_HITS, FILE_MAJOR, FILE_READ, FILE_REFAULTS, OOM_KILLS, N_COUNTERS) = range(19)  # fmt: skip


@dataclass(frozen=True)
class Flush:
    """When the kernel brings a cgroup's list statistics up to date: every `period_ns`, first at `phase_ns`.

    2 s by flush_memcg_stats_dwork() (mm/memcontrol.c, v6.18, FLUSH_TIME); the phase is where in that
    period the program happens to start. A period of 0 keeps them current, as a reader of the cgroup's
    memory.stat does.
    """

    period_ns: int = 2_000_000_000
    phase_ns: int = 1_000_000_000


MOST_AGE = (1 << 30) - 1
"""The bits of the lists' age that a page keeps; the kernel's shadow entry, too, has those for which there is
room (workingset.c, EVICTION_MASK). What comes back after 2**30 evictions is taken for what went lately."""


class ZeroPages(NamedTuple):
    """When which page is full of zeros, see zeropages.py."""

    of_page: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    thread: npt.NDArray[np.int64]


def no_zeros() -> ZeroPages:
    """Return what a trace has of which nobody knows, or in which no page ever is."""
    return ZeroPages(*np.empty((3, 0), np.int64))


PAGE = np.dtype(
    [
        ("status", "u1"),
        ("marks", "u1"),
        ("touchers", "u2"),
        ("place", "i4"),
        ("slot", "i4"),
        ("evicted_at", "i4"),
    ],
    align=True,
)
PAGE_BYTES = PAGE.itemsize
CACHE_LINE_BYTES = 64
CLAIM_SLOTS = 256
"""More than the pages of a readahead window and of a call: those of both are known at one time."""
(WAITED, WORKED, NOW, ROW, FREED, CHANGED, BLOCKED, ON_CPU, SINCE, LEFT, CLOCK_WORDS) = range(11)
"""Of a thread, see threads.py and cpus.py."""
NEVER_NS = 2**63 - 1
"""Later than any replay ends."""


@dataclass(frozen=True)
class Memory:
    """The arrays of one replay, see the module's docstring; `counters` as indexed above.

    pages : of dtype PAGE and shape (n_pages,)
    rings, ends : the lists, see lists.py
    clocks : see threads.py
    zeros : which pages are not written, nor read
    ptes, tables : see pagetables.py; empty but under `mglru`
    claims : see claims.py
    """

    pages: npt.NDArray[np.void]
    ready_ns: npt.NDArray[np.int64]
    clusters: npt.NDArray[np.int32]
    page_of_slot: npt.NDArray[np.int32]
    scalars: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]
    writes: npt.NDArray[np.int64]
    victims: npt.NDArray[np.int32]
    rings: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    clocks: npt.NDArray[np.int64]
    zeros: ZeroPages
    ptes: npt.NDArray[np.int64]
    tables: npt.NDArray[np.int64]
    claims: npt.NDArray[np.int64]

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """Return what the engine takes, in its order."""
        status, marks, touchers, place, slot, evicted_at = (self.pages[name] for name in PAGE.names or ())
        return (
            status, self.clusters, place, slot, self.page_of_slot, self.ready_ns, self.scalars,
            self.counters, marks, evicted_at, self.writes, self.victims, self.rings, self.ends,
            self.clocks, touchers, *self.zeros, self.ptes, self.tables,
            self.claims,
        )  # fmt: skip

    def planned(self, victims: npt.NDArray[np.int32]) -> "Memory":
        """Return this memory, still empty, giving up the pages `victims` in their order."""
        self.scalars[RECLAIM_KIND] = PLANNED
        return replace(self, victims=victims)


def new_memory(
    n_pages: int,
    memory_pages: int,
    reclaim: str,
    flush: Flush,
    n_file_pages: int = 0,
    n_threads: int = 1,
    zero_pages: ZeroPages | None = None,
) -> Memory:
    """Return an empty memory of `memory_pages` for pages 0 .. n_pages - 1, the last `n_file_pages` of files.

    `reclaim` is a key of RECLAIMS.
    """
    pages = _new_pages(n_pages)
    pages["status"][n_pages - n_file_pages : n_pages] = FILE_OUT
    pages["slot"] = pages["evicted_at"] = -1
    scalars = np.zeros(N_SCALARS, np.int64)
    scalars[LAST_SLOT] = -2
    scalars[RECLAIM_KIND] = RECLAIMS[reclaim]
    scalars[FIRST_FILE] = n_pages - n_file_pages
    scalars[MAX_SEQ] = 3  # MIN_NR_GENS + 1: lru_gen_init_lruvec()
    scalars[FLUSH_PERIOD_NS] = flush.period_ns
    scalars[FLUSH_AT_NS] = flush.phase_ns
    scalars[[TICK_NS, WATCHES, DEGREE]] = NEVER_NS, 1, n_pages
    page_of_slot = new_page_of_slot(n_pages)
    rings, ends = new_rings(min(n_pages, memory_pages), LISTS[RECLAIMS[reclaim]])
    return Memory(
        pages=pages,
        ready_ns=zeros(n_pages, np.int64),
        clusters=new_clusters(len(page_of_slot)),
        page_of_slot=page_of_slot,
        scalars=scalars,
        counters=np.zeros(N_COUNTERS, np.int64),
        writes=zeros(3 * n_pages, np.int64).reshape(n_pages, 3),
        victims=np.empty(0, np.int32),
        rings=rings,
        ends=ends,
        clocks=np.zeros((n_threads, CLOCK_WORDS), np.int64),
        zeros=no_zeros() if zero_pages is None else zero_pages,
        ptes=np.empty(0, np.int64),
        tables=np.empty((0, 0), np.int64),
        claims=np.full((CLAIM_SLOTS, 3), -1, np.int64),
    )


def _new_pages(n: int) -> npt.NDArray[np.void]:
    """Return zeroed records, none of which lies in two cache lines."""
    room = zeros(n * PAGE_BYTES + CACHE_LINE_BYTES, np.uint8)
    begin = -room.ctypes.data % CACHE_LINE_BYTES
    return room[begin : begin + n * PAGE_BYTES].view(PAGE)
