"""Pages that a CPU has charged to the memory cgroup ahead, and not used: its stock.

    charge a page ─► of the CPU's stock ─none─► 64 pages, if all are below the limit ─no─► the page alone
    room is made  ─► the stocks of all CPUs go back first

What is charged counts as used: by it the agent sees how little room there is. While memory is full nobody
has a stock: reclaim frees less than 64 pages beyond what is asked for. Beside an agent that keeps more room
the workload has one, and the agent, which runs on another CPU, has one of its own: of the two that of who
runs is scalars[STOCK], the other scalars[OTHER_STOCK]. Without an agent neither is kept.

Follows try_charge_memcg(), consume_stock() and drain_all_stock() in mm/memcontrol.c, v6.18. Differs from
the kernel: threads of the workload share a stock.
"""

from kdtool.replay.memory import COUNT, OTHER_STOCK, STOCK
from kdtool.rmt.jit import aside, inner

__all__ = ["MOST_STOCKED", "change_cpu", "charge", "drain_stocks", "is_full", "used_pages"]

MEMCG_CHARGE_BATCH = 64
MOST_STOCKED = 2 * (MEMCG_CHARGE_BATCH - 1)
"""Pages in both stocks."""


@aside
def charge(capacity, scalars):  # type: ignore[no-untyped-def]
    """Charge a page for which there is room."""
    if scalars[STOCK]:
        scalars[STOCK] -= 1
    elif scalars[COUNT] + scalars[OTHER_STOCK] + MEMCG_CHARGE_BATCH <= capacity:
        scalars[STOCK] = MEMCG_CHARGE_BATCH - 1
    scalars[COUNT] += 1


@inner
def is_full(capacity, scalars):  # type: ignore[no-untyped-def]
    """Tell whether there is no page of the limit for who runs and has no stock."""
    return scalars[COUNT] + scalars[OTHER_STOCK] >= capacity


@inner
def used_pages(scalars):  # type: ignore[no-untyped-def]
    """Return how many pages are charged."""
    return scalars[COUNT] + scalars[STOCK] + scalars[OTHER_STOCK]


@inner
def drain_stocks(scalars):  # type: ignore[no-untyped-def]
    """Give back what is not used."""
    scalars[STOCK] = scalars[OTHER_STOCK] = 0


@inner
def change_cpu(scalars):  # type: ignore[no-untyped-def]
    """Have the agent run where the workload did, or the reverse."""
    scalars[STOCK], scalars[OTHER_STOCK] = scalars[OTHER_STOCK], scalars[STOCK]
