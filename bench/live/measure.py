"""Live runs, interleaved: in each round every variant of every program runs once, one after another.

So that what changes on the machine meanwhile meets all variants alike. Each round has a swap device
of its own for each kind; cluster readahead needs one that rotates, and then all others would get it too.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.fidelity.looks import Looker, Numbers, looker_at, of_cell
from bench.fidelity.machine import Watch, own_swap
from bench.live.store import LiveStore
from bench.live.workloads import Pair
from kdtool.deploy.agent import Placement
from kdtool.deploy.request import DeployRequest
from kdtool.deploy.session import deploy
from kdtool.errors import CommandError, unknown_name
from kdtool.fidelity.footprint import limit_bytes
from kdtool.fidelity.runs import run_once, wait_for_moment
from kdtool.fidelity.settings import Setting, find_setting
from kdtool.kernel.host import page_cluster
from kdtool.learners.session import TrainingRequest, train_traces
from kdtool.live.policies import load_decider
from kdtool.traces import Trace

__all__ = [
    "AGENT_NS",
    "VARIANTS",
    "Say",
    "Variant",
    "choose_variants",
    "learn",
    "limit_of",
    "looks_of",
    "measure",
    "moment_of",
    "unlimited_ns",
]

Say = Callable[[str], None]
AGENT_NS = 300_000
"""How late the agent is that they are learned for: see `median_lag_ns` of the results of kdtool deploy."""
TRIES = 5
DISTURBED_PAUSE_S = 3.0
"""Runs that others disturbed, or that the kernel killed for the limit, are made again so often."""
UNLIMITED, LOOKS = "unlimited", "looks"
"""What is kept beside the variants' runs."""


@dataclass(frozen=True)
class Variant:
    """Linux alone (`policy` None), or with the agent: a baseline or what was `learned`, by a source."""

    name: str
    setting: str
    policy: str | None = None
    source: str = "auto"

    @property
    def kernel(self) -> Setting:
        """Return how the kernel is set up."""
        return find_setting(self.setting)


VARIANTS = (
    Variant("linux-0", "none"),
    Variant("linux-vma", "vma"),
    Variant("linux-cluster", "cluster"),
    Variant("watched-0", "none", "none"),
    Variant("leap-paper", "vma", "leap-paper"),
    Variant("stride", "vma", "stride"),
    Variant("learned", "vma", "learned"),
    Variant("learned-0", "none", "learned"),
    Variant("learned-perf", "vma", "learned", "perf"),
)
"""The agent runs beside the kernel's default readahead; learned-0: beside none; watched-0: it prefetches
nothing, and only keeps the kernel's statistics up to date. What was learned decides in the kernel, where that
is allowed; learned-perf: in the agent."""


def choose_variants(names: Sequence[str] | None) -> list[Variant]:
    """Return the variants of these names, all when None; ParameterError for an unknown one."""
    known = {variant.name: variant for variant in VARIANTS}
    for name in names or ():
        if name not in known:
            raise unknown_name("variant", name, known)
    return [known[name] for name in (known if names is None else names)]


def learn(pair: Pair, store: LiveStore, degree_pages: int | None, say: Say) -> None:
    """Learn the pair's program from its recording, unless that was done: from all of it but 1 %."""
    trace = store.trace(pair.learn)
    wanted = {
        "trace_sha256": Trace(trace).sha256,
        "asked_degree_pages": degree_pages,
        "agent_ns": AGENT_NS,
    }
    if store.learned(pair, wanted):
        return
    say(f"{pair.name}: learning from {pair.learn.name}")
    request = TrainingRequest(part="99%", degree_pages=degree_pages, agent_ns=AGENT_NS)
    summary = train_traces([trace], store.program(pair), request, lambda *_: None)
    store.keep_learned(pair, summary | wanted)


def limit_of(pair: Pair, store: LiveStore, percent: int) -> int:
    """Return the memory of the pair's runs: `percent` of its footprint, in bytes."""
    footprint = store.footprint(pair.run)
    assert footprint is not None, "footprints are measured first"
    return limit_bytes(footprint, percent)


def unlimited_ns(pair: Pair, store: LiveStore) -> int:
    """Return how long the program takes without a limit: the median of the rounds."""
    footprint = store.footprint(pair.run)
    assert footprint is not None, "footprints are measured first"
    walls_ns = [run["wall_ns"] for run in store.runs(pair, UNLIMITED, 0)]
    return int(median(walls_ns)) if walls_ns else footprint.wall_ns


def measure(
    pairs: Sequence[Pair],
    variants: Sequence[Variant],
    store: LiveStore,
    *,
    runs: int,
    percent: int,
    real_time: bool,
    swap_size: str,
    say: Say,
) -> None:
    """Run what is missing of `runs` rounds; what was measured before is kept."""
    for number in range(runs):
        for pair in pairs:
            _run_unlimited(pair, store, number, say)
        for rotational in (False, True):
            todo = [
                (pair, variant)
                for pair in pairs
                for variant in variants
                if variant.kernel.rotational == rotational
                and len(store.runs(pair, variant.name, limit_of(pair, store, percent))) <= number
            ]
            if not todo:
                continue
            with (
                own_swap(rotational, swap_size, loop=store.loop) as device,
                looker_at(device, rotational) as looker,
            ):
                for pair, variant in todo:
                    if looker is not None:
                        _look(pair, looker, store, number)
                    limit = limit_of(pair, store, percent)
                    wait_for_moment(*moment_of(number))
                    row = _run(pair, variant, store, limit, real_time, device, say)
                    if row is None:
                        say(f"{pair.name} {variant.name}: given up for this round")
                        continue
                    done = store.runs(pair, variant.name, limit)
                    store.keep_runs(pair, variant.name, limit, [*done, row])
                    say(f"{pair.name} {variant.name} {number + 1}: {_describe(row)}")


def moment_of(number: int) -> tuple[int, int]:
    """Return which of how many moments of the kernel's statistics period the runs of a round start at.

    Any rounds are spread over the period (van der Corput), also if one command makes the first and another
    the rest: of `runs` even parts, the last round of 1, 2, 3 ... would always be in the last one.
    """
    return int(f"{number % 16:04b}"[::-1], 2), 16


def looks_of(pair: Pair, store: LiveStore) -> Numbers:
    """Return what the swap device took while the pair was measured; empty if nobody looked."""
    return of_cell(store.runs(pair, LOOKS, 0))


def _look(pair: Pair, looker: Looker, store: LiveStore, number: int) -> None:
    """Look at the disk, once a round and pair: before the first of its runs."""
    done = store.runs(pair, LOOKS, 0)
    if len(done) <= number:
        store.keep_runs(pair, LOOKS, 0, [*done, looker.look()])


def _run_unlimited(pair: Pair, store: LiveStore, number: int, say: Say) -> None:
    """Run it without a limit in each round, too: the machine is not always as fast, and replay goes by it."""
    done = store.runs(pair, UNLIMITED, 0)
    if len(done) <= number:
        _, run = run_once(pair.run.command(store.binaries), None)
        store.keep_runs(pair, UNLIMITED, 0, [*done, {"wall_ns": run.wall_ns}])
        say(f"{pair.name} {UNLIMITED} {number + 1}: {run.wall_ns / 1e9:.2f} s")


def _run(
    pair: Pair, variant: Variant, store: LiveStore, limit: int, real_time: bool, device: str, say: Say
) -> dict[str, Any] | None:
    """Run it once that counts; None when others disturb it or the kernel kills it again and again."""
    command = pair.run.command(store.binaries)
    killed = 0
    for _ in range(TRIES):
        watch = Watch(variant.kernel, device)
        with page_cluster(variant.kernel.page_cluster):
            row = _run_once(command, pair, variant, store, limit, real_time)
            changed = watch()
        if row["ended_by"] == "signal":
            raise KeyboardInterrupt
        if row["oom_kills"]:
            killed += 1
            say(f"{pair.name} {variant.name}: killed by the kernel for its memory limit; again")
            continue
        if row["exit_code"]:
            raise CommandError(f"{pair.name}: ended with {row['exit_code']}: run its command alone")
        if changed is None:
            return row | {"oom_kills": killed, "load": round(os.getloadavg()[0], 2)}
        say(f"{pair.name} {variant.name}: disturbed: {changed}; again")
        time.sleep(DISTURBED_PAUSE_S)
    return None


def _run_once(
    command: tuple[str, ...],
    pair: Pair,
    variant: Variant,
    store: LiveStore,
    limit: int,
    real_time: bool,
) -> dict[str, Any]:
    """Run it once; the same figures whoever reads ahead, None where there is no agent."""
    if variant.policy is None:
        facts, run = run_once(command, limit)
        return {
            "wall_ns": run.wall_ns, "major_faults": run.major_faults, "swap_ins": run.swap_ins,
            "coverage": None, "accuracy": None, "agent_cpu_ns": None, "steps_back": None,
            "oom_kills": facts.oom_kills, "exit_code": facts.exit_code, "ended_by": facts.ended_by,
        }  # fmt: skip
    name = str(store.program(pair)) if variant.policy == "learned" else variant.policy
    request = DeployRequest(
        command=command,
        memory_bytes=limit,
        placement=Placement(real_time=real_time),
        source=variant.source,
        quiet_stdout=True,
    )
    row = deploy(request, load_decider(name))
    kept = ("coverage", "accuracy", "agent_cpu_ns", "steps_back", "exit_code", "ended_by", "active_ns")
    kept += ("prefetch_issued", "prefetch_used", "prefetch_wasted", "overtaken", "calls", "longest_lag_ns")
    kept += ("source", "median_lag_ns", "p90_lag_ns", "p99_lag_ns", "mean_call_ns", "stall_ns", "stalls")
    return {"wall_ns": row["runtime_ns"], **row["kernel"], **{key: row[key] for key in kept}}


def _describe(row: dict[str, Any]) -> str:
    text = f"{row['wall_ns'] / 1e9:.2f} s, {row['major_faults']:,} major"
    if row["agent_cpu_ns"] is not None:
        text += f", coverage {row['coverage'] or 0:.2f}, agent {row['agent_cpu_ns'] / 1e9:.2f} s"
    return text
