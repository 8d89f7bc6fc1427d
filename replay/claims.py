"""Places in the swap cache that are reserved and still empty: who asks for such a page sleeps for ticks.

    reserve a place ─► charge the page ──at the limit: reclaim, 0.1 to 10 ms──► put it there, read it
                         └─ somebody else asks for the page: sleeps until the next tick but one, asks again

Follows __read_swap_cache_async() in mm/swap_state.c, v6.18: swapcache_prepare() reserves,
mem_cgroup_swapin_charge_folio() may reclaim, and whoever finds the place taken and no page in it calls
schedule_timeout_uninterruptible(1). A timer never fires early, so that one of one tick fires at the second
from now (calc_index(), kernel/time/timer.c). Where one thread faults and no agent asks, nobody meets anybody.

    claims[i]     (page, when its place was reserved, when the page was put there), of the latest page with
                  that slot; times are of the clock that all share
"""

from kdtool.replay.memory import AGENT_NS, CLAIM_SLOTS, JIFFY_NS, NOW_NS, WAITED_NS
from kdtool.replay.plug import send_writes
from kdtool.replay.reclaim import make_room
from kdtool.rmt.jit import inner

__all__ = ["is_claimed", "make_room_for", "wait_for_place"]


@inner
def make_room_for(page, capacity, memory, device):  # type: ignore[no-untyped-def]
    """Take room for a page that comes from swap, whose place is reserved meanwhile: see make_room()."""
    scalars, claims, at = memory[6], memory[21], page & CLAIM_SLOTS - 1
    from_ns = scalars[NOW_NS]
    make_room(capacity, memory, device)
    if device[AGENT_NS] and scalars[NOW_NS] > from_ns:
        claims[at, 0], claims[at, 1], claims[at, 2] = page, from_ns, scalars[NOW_NS]


@inner
def is_claimed(page, now_ns, memory):  # type: ignore[no-untyped-def]
    """Tell whether a page's place is reserved and empty at `now_ns`."""
    claims, at = memory[21], page & CLAIM_SLOTS - 1
    return claims[at, 0] == page and claims[at, 1] <= now_ns < claims[at, 2]


@inner
def wait_for_place(page, memory, device):  # type: ignore[no-untyped-def]
    """Sleep for ticks as long as a page's place is reserved and empty; return whether it was."""
    scalars = memory[6]
    now_ns = scalars[NOW_NS]
    if is_claimed(page, now_ns, memory):
        send_writes(memory, device)
    while is_claimed(page, scalars[NOW_NS], memory):
        wake_ns = (scalars[NOW_NS] // scalars[JIFFY_NS] + 2) * scalars[JIFFY_NS]
        scalars[WAITED_NS] += wake_ns - scalars[NOW_NS]
        scalars[NOW_NS] = wake_ns
    return scalars[NOW_NS] > now_ns
