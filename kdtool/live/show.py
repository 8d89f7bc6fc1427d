"""What `kdtool deploy` says: a live line while it runs, a table at the end, and what runs (`--status`)."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdtool.deploy.agent import Agent
from kdtool.deploy.governor import Governor
from kdtool.deploy.layout import DECISIONS
from kdtool.deploy.result import progress_of
from kdtool.deploy.session import Show, show_nothing

__all__ = ["live_line", "live_text", "print_row", "print_running"]

REFRESH_S = 0.5


@contextmanager
def live_line() -> Iterator[Show]:
    """Give what shows the progress on one line of a terminal's standard error."""
    if not sys.stderr.isatty():
        yield show_nothing
        return
    shown_s = 0.0

    def show(agent: Agent, governor: Governor) -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s >= REFRESH_S:
            shown_s = time.monotonic()
            print(f"\r\033[K{live_text(agent, governor)}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def live_text(agent: Agent, governor: Governor) -> str:
    """Return the live line."""
    made = progress_of(agent)
    return (
        f"kdtool: {governor.state}, by {agent.source.path}, {made.majors:,} major, {_stalled(agent)}"
        f"{int(agent.arrays.counters[DECISIONS]):,} decisions, "
        f"{made.issued:,} prefetched, {made.used:,} used, accuracy {_share(made.accuracy)}, "
        f"coverage {_share(made.coverage)}, {agent.cpu_ns / 1e9:.1f} s CPU; Ctrl-C ends it"
    )


def _stalled(agent: Agent) -> str:
    return "" if agent.stall is None else f"stalled {agent.stall.stall_ns / 1e9:.1f} s, "


def print_row(row: dict[str, Any]) -> None:
    """Print a result for people."""
    pages = f" · memory {row['memory_pages']:,} pages" if row["memory_pages"] is not None else ""
    print(f"{row['trace']} · {row['policy']}{pages} · {row['device']} · page-cluster {row['page_cluster']}")
    print(
        f"  {row['runtime_ns'] / 1e9:.2f} s, ended by {row['ended_by']}"
        + ("" if row["exit_code"] is None else f", exit code {row['exit_code']}")
    )
    print(
        f"  {row['major_faults']:,} major faults · {row['prefetch_issued']:,} pages prefetched, "
        f"{row['prefetch_used']:,} used, {row['prefetch_wasted']:,} wasted · "
        f"accuracy {_share(row['accuracy'])} · coverage {_share(row['coverage'])}"
    )
    if row["stall_ns"] is None:
        print(f"  stall time not measured: {row['stall_reason']}")
    else:
        each_us = row["stall_ns"] / max(row["stalls"], 1) / 1e3
        print(f"  stalled {row['stall_ns'] / 1e9:.2f} s in {row['stalls']:,} faults, {each_us:.0f} us each")
    print(f"  decided by {row['source']}: {row['source_reason']}")
    print(
        f"  agent: {row['agent_cpu_ns'] / 1e9:.2f} s of CPU, active {row['active_ns'] / 1e9:.1f} s, "
        f"stepped back {row['steps_back']} times · {row['samples']['lost']:,} events lost"
    )


def print_running(agents: list[dict[str, Any]]) -> None:
    """Print a line for each living agent."""
    for each in agents:
        print(f"{each['pid']}: {each['policy']} for {each['cgroup']}{_doing(each)}")
    if not agents:
        print("no agent is running")


def _doing(agent: dict[str, Any]) -> str:
    """Return what a living agent said of itself; nothing before it has said anything."""
    if "state" not in agent:
        return f", by {agent['source']} ({agent['source_reason']})"
    stalled = "" if agent["stalled"] is None else f", stalled {agent['stalled'] / 1e9:.1f} s"
    return (
        f", by {agent['source']} ({agent['source_reason']}), {agent['state']}, "
        f"{agent['issued']:,} prefetched, {agent['used']:,} used{stalled}"
    )


def _share(value: float | None) -> str:
    """Return a ratio in percent.

    >>> _share(0.987), _share(None)
    ('98.7%', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}%"
