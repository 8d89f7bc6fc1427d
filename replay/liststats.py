"""What a cgroup knows of its own lists: statistics up to 2 s old, and what reclaim has cost.

    STAT_INACTIVE, STAT_ACTIVE     lengths of the lists, and
    STAT_ACTIVATIONS               refault activations so far, as of the last flush
    ANON_COST                      lruvec->anon_cost; `file` is 1 for file pages, whose numbers come next

Follows lruvec_page_state() and flush_memcg_stats_dwork() in mm/memcontrol.c, lru_note_cost() in mm/swap.c and
inactive_is_low() in mm/vmscan.c, v6.18.
"""

from kdtool.replay.memory import (
    ACTIVATIONS,
    ACTIVE_COUNT,
    ANON_COST,
    COUNT,
    FILE_ACTIVATIONS,
    FILE_ACTIVE_COUNT,
    FILE_COST,
    FILE_COUNT,
    FLUSH_AT_NS,
    FLUSH_PERIOD_NS,
    NOW_NS,
    STAT_ACTIVATIONS,
    STAT_ACTIVE,
    STAT_FILE_ACTIVATIONS,
    STAT_FILE_ACTIVE,
    STAT_FILE_INACTIVE,
    STAT_INACTIVE,
)
from kdtool.rmt.jit import inner

__all__ = ["SWAP_CLUSTER_MAX", "flush_stats", "inactive_is_low", "note_cost", "update_stats"]

SWAP_CLUSTER_MAX = 32
GIB_PAGES_SHIFT = 18


@inner
def update_stats(scalars):  # type: ignore[no-untyped-def]
    """Bring the statistics up to date."""
    scalars[STAT_ACTIVE] = scalars[ACTIVE_COUNT]
    scalars[STAT_INACTIVE] = scalars[COUNT] - scalars[FILE_COUNT] - scalars[ACTIVE_COUNT]
    scalars[STAT_ACTIVATIONS] = scalars[ACTIVATIONS]
    scalars[STAT_FILE_ACTIVE] = scalars[FILE_ACTIVE_COUNT]
    scalars[STAT_FILE_INACTIVE] = scalars[FILE_COUNT] - scalars[FILE_ACTIVE_COUNT]
    scalars[STAT_FILE_ACTIVATIONS] = scalars[FILE_ACTIVATIONS]


@inner
def flush_stats(scalars):  # type: ignore[no-untyped-def]
    """Bring the statistics up to date if it is time."""
    if scalars[NOW_NS] >= scalars[FLUSH_AT_NS]:
        if scalars[FLUSH_PERIOD_NS]:
            behind = scalars[NOW_NS] - scalars[FLUSH_AT_NS]
            scalars[FLUSH_AT_NS] += (behind // scalars[FLUSH_PERIOD_NS] + 1) * scalars[FLUSH_PERIOD_NS]
        update_stats(scalars)


@inner
def note_cost(file, io_pages, rotated, scalars):  # type: ignore[no-untyped-def]
    """Add to what reclaiming pages of a kind has cost of late: lru_note_cost()."""
    cost = io_pages * SWAP_CLUSTER_MAX + rotated
    scalars[ANON_COST + file] += cost
    on_lists = scalars[STAT_INACTIVE] + scalars[STAT_ACTIVE]
    on_lists += scalars[STAT_FILE_INACTIVE] + scalars[STAT_FILE_ACTIVE]
    if cost and scalars[ANON_COST] + scalars[FILE_COST] > on_lists // 4:
        scalars[ANON_COST] //= 2
        scalars[FILE_COST] //= 2


@inner
def inactive_is_low(file, scalars):  # type: ignore[no-untyped-def]
    """Compare the lists of a kind by the statistics: inactive_is_low()."""
    inactive, active = scalars[STAT_INACTIVE + file], scalars[STAT_ACTIVE + file]
    gib = (inactive + active) >> GIB_PAGES_SHIFT
    ratio = 1
    while (ratio + 1) * (ratio + 1) <= 10 * gib:
        ratio += 1
    return inactive * ratio < active
