"""The road from a trace to tables: train, replay, verify, build, as the commands of the same names do it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdtool.fidelity.predict import CURRENT, replay_moments, starting_moments
from kdtool.learners.session import TrainingRequest, train_traces
from kdtool.replay import Result, load_device, load_policy, load_workload
from kdtool.replay.sweep import Sweep, replay_sweep
from kdtool.rmt import read_program
from kdtool.traces import Trace
from kdtool.verify import build_tables, verify_program
from kdtool.verify.build import check_on_trace

__all__ = ["BASELINES", "MEMORIES", "Built", "walk"]

BASELINES = ("none", "linux-vma", "linux-cluster", "leap-paper", "oracle")
MEMORIES = ("25%", "50%", "75%")
DEVICE = "ssd"


@dataclass(frozen=True)
class Built:
    """What came of one trace.

    features, leaves, depth, samples : of the tree that was learned
    train_rows : references that training saw; results count from there on
    verdict : of the verifier
    table_entries : entries of the match-action tables
    decisions_compared : decisions of tables and model that were compared on the trace, all equal
    results : one for each memory and policy on the part that training never saw
    predicted : the whole program in 50 % of memory, as the kernel runs it; by policy, one for each of the
        moments at which it may start, see starting_moments()
    predicted_current : the same for `none` with statistics that are always up to date
    """

    trace: str
    footprint_pages: int
    features: str
    leaves: int
    depth: int
    samples: int
    train_rows: int
    verdict: str
    table_entries: int
    decisions_compared: int
    results: list[Result]
    predicted: dict[str, list[Result]]
    predicted_current: list[Result]

    def to_row(self) -> dict[str, Any]:
        """Return everything but the results as a JSON object."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in ("results", "predicted", "predicted_current")
        }


def walk(trace: Path, report: Callable[[str], None]) -> Built:
    """Train, replay, verify and build from `trace`; the program and its tables are written beside it.

    Raises a KdtoolError when any step fails; a program that is not proved is such a failure.
    """
    name = trace.stem
    report(f"{name}: learning")
    program_file = trace.with_name(f"{name}.rmt.json")
    training = train_traces(
        [trace], program_file, TrainingRequest(device=DEVICE), lambda candidate, total: None
    )
    train_rows = training["train_rows"][0]
    program = read_program(program_file)
    report(f"{name}: replaying {len(BASELINES) + 1} policies × {len(MEMORIES)} memories")
    workload = load_workload(Trace(trace))
    policies = tuple(load_policy(policy) for policy in (*BASELINES, str(program_file)))
    devices = (load_device(DEVICE),)
    results = list(replay_sweep(workload, Sweep(policies, MEMORIES, devices, str(train_rows))))
    report(f"{name}: replaying the whole program at 50 %")
    half_pages = workload.footprint_pages // 2
    swapping = policies[:3]
    by_policy = replay_moments(workload, swapping, half_pages, devices[0], starting_moments())
    (current,) = replay_moments(workload, policies[:1], half_pages, devices[0], CURRENT)
    report(f"{name}: verifying and building")
    tables, _ = build_tables(program, trace.parent)
    return Built(
        trace=trace.name,
        footprint_pages=workload.footprint_pages,
        features=training["features"],
        leaves=training["leaves"],
        depth=training["depth"],
        samples=training["samples"],
        train_rows=train_rows,
        verdict=verify_program(program).verdict,
        table_entries=sum(len(table.entries) for table in tables.tables),
        decisions_compared=check_on_trace(program, tables, trace, "50%"),
        results=results,
        predicted={policy.name: found for policy, found in zip(swapping, by_policy, strict=True)},
        predicted_current=current,
    )
