"""Memory and swap of one replay: an LRU of a given capacity, swap slots, and one device that reads.

Unit of work: a page. All state is int32/int64 arrays that the engine's kernels share, so that a replay
can stop after any reference and go on later.

    status[p]   NEVER (not touched yet) · RESIDENT (mapped) · PREFETCHED (read or being read, not
                touched yet) · SWAPPED (its content is on the device)
    links[p]    (older, newer) neighbours in a circular list through entry n_pages
    slot[p]     where on the device it was written, -1 when it never was or was dirtied since
    ready_ns[p] when its read ends, while PREFETCHED

Differs from the kernel: one exact LRU instead of two lists with accessed bits; reclaim takes one page,
when it is needed, and may take one whose read has not ended; slots are handed out in rising order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["NEVER", "PREFETCHED", "RESIDENT", "SWAPPED", "Memory", "new_memory"]

NEVER, RESIDENT, PREFETCHED, SWAPPED = 0, 1, 2, 3

# Indexes into Memory.scalars.
(COUNT, WAITED_NS, WORKED_NS, DEVICE_FREE_NS, LAST_SLOT, SLOT_CURSOR, FREE_AT, PREFETCHED_NOW, NOW_NS,
 START_NS, START_WAITED_NS, N_SCALARS) = range(12)  # fmt: skip

# Indexes into the device's vector, see devices.py.
(LATENCY_NS, SERVICE_NS, TRANSFER_NS, SYNCHRONOUS, MAJOR_NS, MINOR_NS, COLD_NS, PREFETCH_NS, RECLAIM_NS,
 STEP_PS, INSN_PS, N_DEVICE) = range(12)  # fmt: skip

# Indexes into the counters.
(ACCESSES, HITS, MINOR, MAJOR, COLD, LATE, ISSUED, USED, WASTED, POLLUTION, DECISIONS, RECLAIMED,
 N_COUNTERS) = range(13)  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """The arrays of one replay, see the module's docstring; `counters` as indexed above."""

    status: npt.NDArray[np.uint8]
    dirty: npt.NDArray[np.uint8]
    links: npt.NDArray[np.int32]
    slot: npt.NDArray[np.int64]
    page_of_slot: npt.NDArray[np.int64]
    ready_ns: npt.NDArray[np.int64]
    scalars: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]


def new_memory(n_pages: int) -> Memory:
    """Return an empty memory for pages 0 .. n_pages - 1."""
    links = np.full((n_pages + 1, 2), n_pages, np.int32)
    scalars = np.zeros(N_SCALARS, np.int64)
    scalars[LAST_SLOT] = -2
    scalars[SLOT_CURSOR] = 1
    return Memory(
        status=np.zeros(n_pages, np.uint8),
        dirty=np.zeros(n_pages, np.uint8),
        links=links,
        slot=np.full(n_pages, -1, np.int64),
        # Twice the pages: a free slot is near the cursor. Slot 0 is the swap header.
        page_of_slot=np.full(2 * n_pages + 2, -1, np.int64),
        ready_ns=np.zeros(n_pages, np.int64),
        scalars=scalars,
        counters=np.zeros(N_COUNTERS, np.int64),
    )


@njit(cache=True, inline="always")
def push_newest(links, page):  # type: ignore[no-untyped-def]
    """Put `page` at the newest end."""
    end = links.shape[0] - 1
    newest = links[end, 0]
    links[page, 0] = newest
    links[page, 1] = end
    links[newest, 1] = page
    links[end, 0] = page


@njit(cache=True, inline="always")
def unlink(links, page):  # type: ignore[no-untyped-def]
    """Take `page` out of the list."""
    older, newer = links[page, 0], links[page, 1]
    links[older, 1] = newer
    links[newer, 0] = older


@njit(cache=True, inline="always")
def free_slot(page, slot, page_of_slot):  # type: ignore[no-untyped-def]
    """Give the page's swap slot back: its content there is stale."""
    if slot[page] >= 0:
        page_of_slot[slot[page]] = -1
        slot[page] = -1


@njit(cache=True, inline="always")
def make_room(capacity, status, dirty, links, slot, page_of_slot, scalars, counters, device):  # type: ignore[no-untyped-def]
    """Write out the least recently used page if memory is full, then take one page of it."""
    if scalars[COUNT] >= capacity:
        page = links[links.shape[0] - 1, 1]
        unlink(links, page)
        scalars[COUNT] -= 1
        scalars[WORKED_NS] += device[RECLAIM_NS]
        counters[RECLAIMED] += 1
        if status[page] == PREFETCHED:
            counters[WASTED] += 1
            scalars[PREFETCHED_NOW] -= 1
        if slot[page] < 0:
            cursor = scalars[SLOT_CURSOR]
            while page_of_slot[cursor] >= 0:
                cursor = cursor + 1 if cursor + 1 < len(page_of_slot) else 1
            slot[page] = cursor
            page_of_slot[cursor] = page
            scalars[SLOT_CURSOR] = cursor + 1 if cursor + 1 < len(page_of_slot) else 1
        status[page] = SWAPPED
        dirty[page] = 0
    scalars[COUNT] += 1


@njit(cache=True, inline="always")
def read_page(at_slot, now_ns, scalars, device):  # type: ignore[no-untyped-def]
    """Submit a read and return when it ends; a slot right after the last one is merged with it."""
    merged = at_slot == scalars[LAST_SLOT] + 1 and scalars[DEVICE_FREE_NS] > now_ns
    gap = device[TRANSFER_NS] if merged else device[SERVICE_NS]
    done = max(now_ns + device[LATENCY_NS], scalars[DEVICE_FREE_NS] + gap)
    scalars[DEVICE_FREE_NS] = done
    scalars[LAST_SLOT] = at_slot
    return done
