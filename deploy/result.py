"""What a live run did, as a row with the keys of `kdtool replay`. What only replay can know is None."""

from dataclasses import dataclass
from typing import Any

from kdtool.deploy import layout
from kdtool.deploy.agent import Agent
from kdtool.deploy.governor import Governor, Progress
from kdtool.deploy.lags import lag_quantile_ns

__all__ = ["Run", "progress_of", "to_row"]


@dataclass(frozen=True)
class Run:
    """Where and how long it ran. kernel : what wait4 and memory.stat counted of a command, else empty."""

    name: str
    device: str
    memory_pages: int | None
    wall_ns: int
    ended_by: str
    exit_code: int | None
    page_cluster: int
    kernel: dict[str, int]


def progress_of(agent: Agent) -> Progress:
    """Return what the guards look at. A page whose fault was before our request was not prefetched."""
    count = agent.arrays.counters
    evicted, stall, faults = int(count[layout.EVICTED]), agent.stall, agent.faults()
    return Progress(
        majors=agent.majors,
        issued=int(count[layout.ISSUED] - count[layout.OVERTAKEN]),
        used=int(count[layout.USED]),
        wasted=evicted + int(count[layout.EXPIRED]),
        evicted=evicted,
        faults=faults,
        stall_ns=0 if stall is None else stall.stall_ns,
    )


def to_row(agent: Agent, governor: Governor, run: Run) -> dict[str, Any]:
    """Return the result of a run that has ended, ratios None where nothing was counted.

    Replay's keys, and then what the agent saw and did, and `kernel`, what wait4 and memory.stat counted.
    `stall_ns` is what `stalls` major faults took, from begin to end; None if not measured: `stall_reason`.
    `agent_ns`: from an event to the end of the call, the median wait and the mean call; None where there was
    no call.
    """
    made, count = progress_of(agent), [int(value) for value in agent.arrays.counters]
    own = _own_figures(agent, governor, run, count)
    return {
        "trace": run.name,
        "policy": agent.decider.name,
        "policy_version": agent.decider.version,
        "memory_pages": run.memory_pages,
        "device": run.device,
        "agent_ns": own["median_lag_ns"] + own["mean_call_ns"] if count[layout.CALLS] else None,
        "reclaim": "kernel",
        "accesses": None,
        "hits": None,
        "minor_faults": agent.source.minors(),
        "major_faults": made.majors,
        "late_hits": None,
        "cold_faults": None,
        "prefetch_issued": made.issued,
        "prefetch_used": made.used,
        "prefetch_wasted": made.wasted,
        "prefetch_unresolved": made.issued - made.used - made.wasted,
        "accuracy": made.accuracy,
        "coverage": made.coverage,
        "hit_rate": None,
        "pollution_faults": None,
        "pollution": None,
        "stall_ns": None if agent.stall is None else agent.stall.stall_ns,
        "runtime_ns": run.wall_ns,
        "decisions": count[layout.DECISIONS],
        "seed": 0,
        **own,
    }


def _own_figures(agent: Agent, governor: Governor, run: Run, count: list[int]) -> dict[str, Any]:
    counted, stall = agent.source.counted(), agent.stall
    lags = agent.arrays.counters[layout.LAG_COUNTS :]
    return {
        "ended_by": run.ended_by,
        "exit_code": run.exit_code,
        "page_cluster": run.page_cluster,
        "agent_cpu_ns": agent.cpu_ns,
        "active_ns": int(governor.active_s * 1e9),
        "steps_back": governor.steps_back,
        "trials": governor.trials,
        "gain": governor.gain,
        "source": agent.source.path,
        "source_reason": agent.source_reason,
        "stalls": None if stall is None else stall.stalls,
        "stalls_missed": None if stall is None else stall.missed,
        "stall_reason": agent.stall_reason,
        "samples": {"counted": counted.counted, "seen": count[layout.SAMPLES], "lost": counted.lost},
        "events": count[layout.EVENTS],
        "overtaken": count[layout.OVERTAKEN],
        "dropped": count[layout.DROPPED],
        "late": count[layout.LATE],
        "rate_limited": count[layout.LIMITED],
        "calls": count[layout.CALLS],
        "longest_lag_ns": count[layout.LAG_NS],
        "median_lag_ns": lag_quantile_ns(lags, 0.5),
        "p90_lag_ns": lag_quantile_ns(lags, 0.9),
        "p99_lag_ns": lag_quantile_ns(lags, 0.99),
        "mean_call_ns": count[layout.CALL_NS] // max(count[layout.CALLS], 1),
        "rooms": count[layout.ROOMS],
        "mean_room_ns": count[layout.ROOM_NS] // max(count[layout.ROOMS], 1),
        "processes": agent.processes.taken,
        "kernel": run.kernel,
    }
