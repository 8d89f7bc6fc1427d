"""What replay says of live runs: each policy in the same memory, on this host's swap device.

    references of the input that is measured ─► replay, by what `kdtool calibrate` wrote ─► run time, coverage

An agent's policy is replayed with all that is around it: the kernel's own readahead, and the guards that try
it first and may take it off. Where it acts the kernel's statistics are kept up to date; else they are so
every 2 s, from a moment on that is chance: the median of a few is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kdtool.errors import ParameterError
from kdtool.fidelity.predict import MOMENTS, at_own_speed, placed_at, replay_moments, starting_moments
from kdtool.live.governed import ReplayedGuards
from kdtool.replay import Device, LiveSetting, Policy, Result, Workload, replay, run_shadow

__all__ = ["ByAgent", "Predicted", "lateness_ns", "predict"]


@dataclass(frozen=True)
class Predicted:
    """What replay says of a program under a policy; coverage None for Linux's own settings."""

    wall_s: float
    coverage: float | None


@dataclass(frozen=True)
class ByAgent:
    """A policy by an agent that asks `agent_ns` after a fault, beside the kernel's `readahead`."""

    policy: Policy
    agent_ns: int
    readahead: Policy


def lateness_ns(runs: Sequence[Mapping[str, Any]], otherwise_ns: int) -> int:
    """Return how long after a fault the agent asked in these runs: the median of what they say.

    runs : rows of kdtool deploy; those in which it asked for nothing say nothing, and if there is no other,
        `otherwise_ns` is returned

    Raises ParameterError for rows of a version that kept other figures.
    """
    if any("median_lag_ns" not in run for run in runs):
        raise ParameterError(
            "runs of an earlier version do not say how late the agent was as a rule: measure them anew, in "
            "another --work"
        )
    late = [run["median_lag_ns"] + run["mean_call_ns"] for run in runs if run["calls"]]
    return int(median(late)) if late else otherwise_ns


def predict(
    workload: Workload,
    memory_pages: int,
    device: Device,
    wall_ns: int,
    *,
    alone: Mapping[str, Policy],
    acting: Mapping[str, ByAgent],
) -> dict[str, Predicted]:
    """Return what replay says, by the names of `alone`, Linux's own settings, and `acting`, the agent's.

    wall_ns : what the program took without a limit: its instructions take as long as makes it so
    """
    profile = at_own_speed(workload, device, wall_ns)
    predicted: dict[str, Predicted] = {}
    by_agent: dict[str, list[Result]] = {name: [] for name in acting}
    moments = starting_moments(MOMENTS)
    replayed = replay_moments(workload, list(alone.values()), memory_pages, profile, moments)
    for name, results in zip(alone, replayed, strict=True):
        predicted[name] = _of(results, acts=False)
    for placed, moment in placed_at(workload, moments):
        shadow = run_shadow(placed, memory_pages, profile, "linux", moment)
        for name, agent in acting.items():
            device = profile.by_agent(agent.agent_ns)
            live = LiveSetting(agent.readahead, ReplayedGuards(agent.policy, device, moment))
            by_agent[name].append(replay(placed, agent.policy, shadow, device, live=live))
    return predicted | {name: _of(results, acts=True) for name, results in by_agent.items()}


def _of(results: Sequence[Result], *, acts: bool) -> Predicted:
    wall_s = median(result.runtime_ns for result in results) / 1e9
    return Predicted(wall_s, median(result.coverage or 0.0 for result in results) if acts else None)
