"""What a cgroup knows of its own lists: statistics up to 2 s old, and what reclaim has cost.

    STAT_INACTIVE, STAT_ACTIVE     lengths of the lists, and
    STAT_ACTIVATIONS               refault activations so far, as of the last flush
    ANON_COST                      lruvec->anon_cost

Follows lruvec_page_state() and flush_memcg_stats_dwork() in mm/memcontrol.c, lru_note_cost() in mm/swap.c and
inactive_is_low() in mm/vmscan.c, v6.18.
"""

from kdtool.replay.memory import (
    ACTIVATIONS,
    ACTIVE_COUNT,
    ANON_COST,
    COUNT,
    FLUSH_AT_NS,
    FLUSH_PERIOD_NS,
    NOW_NS,
    STAT_ACTIVATIONS,
    STAT_ACTIVE,
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
    scalars[STAT_INACTIVE] = scalars[COUNT] - scalars[ACTIVE_COUNT]
    scalars[STAT_ACTIVATIONS] = scalars[ACTIVATIONS]


@inner
def flush_stats(scalars):  # type: ignore[no-untyped-def]
    """Bring the statistics up to date if it is time."""
    if scalars[NOW_NS] >= scalars[FLUSH_AT_NS]:
        if scalars[FLUSH_PERIOD_NS]:
            behind = scalars[NOW_NS] - scalars[FLUSH_AT_NS]
            scalars[FLUSH_AT_NS] += (behind // scalars[FLUSH_PERIOD_NS] + 1) * scalars[FLUSH_PERIOD_NS]
        update_stats(scalars)


@inner
def note_cost(io_pages, rotated, scalars):  # type: ignore[no-untyped-def]
    """Add to what reclaiming anonymous pages has cost of late: lrunote_cost()."""
    cost = io_pages * SWAP_CLUSTER_MAX + rotated
    scalars[ANON_COST] += cost
    if cost and scalars[ANON_COST] > (scalars[STAT_INACTIVE] + scalars[STAT_ACTIVE]) // 4:
        scalars[ANON_COST] //= 2


@inner
def inactive_is_low(scalars):  # type: ignore[no-untyped-def]
    """Compare the lists by the statistics: inactive_is_low()."""
    gib = (scalars[STAT_INACTIVE] + scalars[STAT_ACTIVE]) >> GIB_PAGES_SHIFT
    ratio = 1
    while (ratio + 1) * (ratio + 1) <= 10 * gib:
        ratio += 1
    return scalars[STAT_INACTIVE] * ratio < scalars[STAT_ACTIVE]
