"""Which place on the swap device the next page gets: Linux's cluster allocator, for one CPU and single pages.

Follows mm/swapfile.c of v6.18: swap_alloc_fast(), cluster_alloc_swap_entry(), alloc_swap_scan_cluster(),
relocate_cluster(), partial_free_cluster(), setup_clusters(). A cluster is SWAPFILE_CLUSTER slots, aligned:

    take   the next free slot after the last one taken, in the same cluster; behind its end, from the
           start of the first cluster on the list nonfull, else free, else frag
    after  a cluster from which a slot was taken goes to the end of full if it has none left, else of frag;
           so does one that was searched in vain
    free   the slot's cluster goes to the end of nonfull, or of free when it is empty

    clusters[c]             (previous, next, list, used slots); the rows after the last cluster are the
                            heads of the lists FREE, NONFULL, FRAG, FULL
    page_of_slot[s]         its page, NO_PAGE when it is free, RESERVED for the header, slot 0
    scalars[NEXT_SLOT]      where the search goes on, 0 nowhere

Devices that rotate have one such place for all CPUs, others one a CPU: for one CPU they are the same.
Differs from the kernel: one CPU, one device, no large folios, no discard. The area is at least twice the
program's pages, so that it is never half full: the kernel then frees slots it would keep, vm_swap_full().
"""

import numpy as np
import numpy.typing as npt

from kdtool.replay.longarrays import zeros
from kdtool.rmt.jit import inner

__all__ = ["NO_PAGE", "SWAPFILE_CLUSTER", "free_slot", "new_clusters", "new_page_of_slot", "take_slot"]

SWAPFILE_CLUSTER = 512
NO_PAGE, RESERVED = -1, -2

MIN_SLOTS = 1 << 16
"""256 MiB: an area of a few clusters would run out of free ones where real ones do not."""

PREVIOUS, NEXT, LIST, USED = 0, 1, 2, 3
FREE, NONFULL, FRAG, FULL, NOWHERE = 0, 1, 2, 3, 4
N_LISTS = 4


def new_page_of_slot(n_pages: int) -> npt.NDArray[np.int32]:
    """Return an empty area for a program of `n_pages`."""
    n_slots = max(2 * n_pages + 1, MIN_SLOTS)
    page_of_slot = zeros(-(-n_slots // SWAPFILE_CLUSTER) * SWAPFILE_CLUSTER, np.int32)
    page_of_slot[:] = NO_PAGE
    page_of_slot[0] = RESERVED
    return page_of_slot


def new_clusters(n_slots: int) -> npt.NDArray[np.int32]:
    """Return the clusters of an empty area of `n_slots`, shape (n_clusters + N_LISTS, 4): setup_clusters().

    Slots that a last cluster would have beyond the area count as used.
    """
    n_clusters = -(-n_slots // SWAPFILE_CLUSTER)
    clusters = np.zeros((n_clusters + N_LISTS, 4), np.int32)
    clusters[:, LIST] = NOWHERE
    clusters[0, USED] = 1
    clusters[n_clusters - 1, USED] += n_clusters * SWAPFILE_CLUSTER - n_slots
    used = clusters[:n_clusters, USED] > 0
    nobody = np.empty(0, np.int64)
    lists = {FREE: np.flatnonzero(~used), NONFULL: np.flatnonzero(used), FRAG: nobody, FULL: nobody}
    for which, members in lists.items():
        head = n_clusters + which
        ring = np.concatenate(([head], members, [head]))
        clusters[ring[:-1], NEXT] = ring[1:]
        clusters[ring[1:], PREVIOUS] = ring[:-1]
        clusters[ring[1:-1], LIST] = which
    return clusters


@inner
def _isolate(cluster, clusters):  # type: ignore[no-untyped-def]
    """Take a cluster off its list."""
    before, after = np.int64(clusters[cluster, PREVIOUS]), np.int64(clusters[cluster, NEXT])
    clusters[before, NEXT] = after
    clusters[after, PREVIOUS] = before
    clusters[cluster, LIST] = NOWHERE


@inner
def _move(cluster, to, clusters):  # type: ignore[no-untyped-def]
    """Put a cluster at the end of a list: move_cluster()."""
    if clusters[cluster, LIST] != NOWHERE:
        _isolate(cluster, clusters)
    head = clusters.shape[0] - N_LISTS + to
    last = clusters[head, PREVIOUS]
    clusters[cluster, PREVIOUS] = last
    clusters[cluster, NEXT] = head
    clusters[last, NEXT] = cluster
    clusters[head, PREVIOUS] = cluster
    clusters[cluster, LIST] = to


@inner
def _scan(cluster, start, page_of_slot, clusters):  # type: ignore[no-untyped-def]
    """Return the first free slot of a cluster from `start` on, counted as used, or 0; then move the cluster.

    alloc_swap_scan_cluster() and relocate_cluster().
    """
    found = 0
    if clusters[cluster, USED] < SWAPFILE_CLUSTER:
        for slot in range(start, min((cluster + 1) * SWAPFILE_CLUSTER, len(page_of_slot))):
            if page_of_slot[slot] == NO_PAGE:
                found = slot
                clusters[cluster, USED] += 1
                break
    to = FRAG if clusters[cluster, USED] < SWAPFILE_CLUSTER else FULL
    if clusters[cluster, LIST] != to:
        _move(cluster, to, clusters)
    return found


@inner
def _new_cluster(page_of_slot, clusters):  # type: ignore[no-untyped-def]
    """Return a slot of the first cluster that has any, or 0: cluster_alloc_swap_entry()."""
    heads = clusters.shape[0] - N_LISTS
    for which in (NONFULL, FREE, FRAG):
        cluster = np.int64(clusters[heads + which, NEXT])
        if cluster < heads:
            _isolate(cluster, clusters)
            return _scan(cluster, cluster * SWAPFILE_CLUSTER, page_of_slot, clusters)
    return 0


@inner
def take_slot(next_slot, page_of_slot, clusters):  # type: ignore[no-untyped-def]
    """Return (slot, next_slot): the slot that the next page gets, and where the search goes on after it.

    The caller enters the page in `page_of_slot`. The slot is 0 when the area is full.
    """
    slot = 0
    if next_slot:
        cluster = next_slot // SWAPFILE_CLUSTER
        if clusters[cluster, LIST] in (NONFULL, FRAG):
            slot = _scan(cluster, next_slot, page_of_slot, clusters)
    if not slot:
        slot = _new_cluster(page_of_slot, clusters)
    after = slot + 1
    inside = after % SWAPFILE_CLUSTER and after < len(page_of_slot)
    full = clusters[slot // SWAPFILE_CLUSTER, LIST] == FULL
    return slot, after if inside and not full else 0


@inner
def free_slot(page, slot, page_of_slot, clusters):  # type: ignore[no-untyped-def]
    """Give the page's slot back if it has one: swap_entries_free()."""
    if slot[page] >= 0:
        page_of_slot[slot[page]] = NO_PAGE
        cluster = np.int64(slot[page]) // SWAPFILE_CLUSTER
        clusters[cluster, USED] -= 1
        if clusters[cluster, USED] == 0:
            _move(cluster, np.int64(FREE), clusters)
        elif clusters[cluster, LIST] != NONFULL:
            _move(cluster, np.int64(NONFULL), clusters)
        slot[page] = -1
