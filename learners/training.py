"""From traces to a program: learn on the first part of each trace, choose by replay, never see the rest.

    |------- fit -------|-- choose --|------------- held out -------------|
    0                  75 %        train_rows                         n_refs

Candidates (a feature set and a learner's setting) are fitted on `fit` and replayed over the training
part, counting on `choose`. Those that are ahead of Linux and Leap there in accuracy and coverage come
first, then the shortest run time; the best one is fitted again on all of the training part. What comes
after `train_rows` is for judging: `kdtool replay --from`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from kdtool.errors import ParameterError, TraceError
from kdtool.features import FEATURE_SETS, Dataset, Events, FeatureSet, build_dataset
from kdtool.learners.base import Learner
from kdtool.replay import (
    Device,
    Policy,
    ProgramPolicy,
    Result,
    Shadow,
    Workload,
    load_policy,
    miss_events,
    replay,
    run_shadow,
)
from kdtool.rmt import Program
from kdtool.traces import memory_pages

__all__ = ["Candidate", "TrainingPart", "train", "training_dataset", "training_part"]

FIT_SHARE = Fraction(3, 4)
RIVALS = ("linux-vma", "linux-cluster", "leap-paper")
MIN_EVENTS = 64
"""Fewer swap-ins than this teach nothing that a later part could confirm."""


@dataclass(frozen=True)
class TrainingPart:
    """One trace's training part: its references, where `choose` begins, its run without prefetching."""

    workload: Workload
    choose_row: int
    shadow: Shadow


@dataclass(frozen=True)
class Candidate:
    """A feature set, a learner's setting, and what it reached on `choose`.

    ahead : of every baseline of RIVALS in accuracy and coverage, on every trace
    """

    features: FeatureSet
    setting: dict[str, int]
    runtime_ns: int
    ahead: bool

    @property
    def rank(self) -> tuple[bool, int]:
        """Return the key by which the best candidate is the smallest."""
        return not self.ahead, self.runtime_ns


def training_part(workload: Workload, memory: str, device: Device, train_fraction: Fraction) -> TrainingPart:
    """Cut the training part off: the rows in which `train_fraction` of the swap-ins happen.

    Cut by swap-ins and not by rows, because a program that fills its memory first has none in its
    first half. Raises TraceError when there are too few to learn from.
    """
    if not 0 < train_fraction < 1:
        raise ParameterError(f"--train {float(train_fraction):.0%}: give a percentage between 0 and 100")
    pages = memory_pages(memory, workload.footprint_pages)
    shadow = run_shadow(workload, pages, device)
    rows = np.flatnonzero(shadow.missed)
    n_train = int(len(rows) * train_fraction)
    if n_train < MIN_EVENTS:
        raise TraceError(
            f"{workload.name}: {len(rows)} swap-ins at {pages} pages of memory, {MIN_EVENTS} are needed "
            f"in the training part: train with less --memory or on a longer trace"
        )
    stop = int(rows[n_train - 1]) + 1
    choose = int(rows[int(n_train * FIT_SHARE) - 1]) + 1
    return TrainingPart(workload.prefix(stop), choose, replace(shadow, missed=shadow.missed[:stop]))


def train(
    parts: list[TrainingPart],
    learner: Learner,
    device: Device,
    *,
    degree_pages: int,
    seed: int,
    progress: Callable[[Candidate], None] | None = None,
) -> tuple[Program, Candidate]:
    """Return the best program, fitted on all of the training parts, and the candidate it came from.

    Deterministic: the same parts, learner, device, degree and seed give the same program.
    """
    best: Candidate | None = None
    rivals = [[_choosing(part, load_policy(name), device) for name in RIVALS] for part in parts]
    for features in FEATURE_SETS:
        dataset = _dataset(parts, features, [part.choose_row for part in parts])
        for setting in learner.candidates():
            program = learner.fit(dataset, features, setting, degree_pages=degree_pages, seed=seed)
            candidate = _judge(parts, rivals, program, device, features, setting)
            if progress is not None:
                progress(candidate)
            if best is None or candidate.rank < best.rank:
                best = candidate
    assert best is not None
    whole = training_dataset(parts, best.features)
    program = learner.fit(whole, best.features, best.setting, degree_pages=degree_pages, seed=seed)
    return replace(program, provenance=_provenance(parts, learner, best, device, seed)), best


def training_dataset(parts: list[TrainingPart], features: FeatureSet) -> Dataset:
    """Return what the final program is fitted on: every swap-in of the training parts."""
    return _dataset(parts, features, [None] * len(parts))


def _dataset(parts: list[TrainingPart], features: FeatureSet, stops: Sequence[int | None]) -> Dataset:
    """Build one dataset from all parts; streams of different traces stay apart."""
    built = [
        build_dataset(Events(miss_events(part.workload, part.shadow, stop)), features)
        for part, stop in zip(parts, stops, strict=True)
    ]
    X, y = np.concatenate([d.X for d in built]), np.concatenate([d.y for d in built])
    return Dataset(built[0].feature_names, X, y)


def _judge(
    parts: list[TrainingPart],
    rivals: list[list[Result]],
    program: Program,
    device: Device,
    features: FeatureSet,
    setting: dict[str, int],
) -> Candidate:
    results = [_choosing(part, ProgramPolicy(program), device) for part in parts]
    ahead = all(
        (result.accuracy or 0) >= (rival.accuracy or 0) and (result.coverage or 0) >= (rival.coverage or 0)
        for result, others in zip(results, rivals, strict=True)
        for rival in others
    )
    return Candidate(features, setting, sum(result.runtime_ns for result in results), ahead)


def _choosing(part: TrainingPart, policy: Policy, device: Device) -> Result:
    return replay(part.workload, policy, part.shadow, device, from_row=part.choose_row)


def _provenance(
    parts: list[TrainingPart], learner: Learner, best: Candidate, device: Device, seed: int
) -> dict[str, str | int | list[str]]:
    from importlib.metadata import version

    import kdtool

    return {
        "kdtool": kdtool.__version__,
        "scikit-learn": version("scikit-learn"),
        "learner": learner.name,
        "features": best.features.name,
        **best.setting,
        "seed": seed,
        "device": device.name,
        "traces": [part.workload.sha256 for part in parts],
        "train_rows": [str(part.workload.n_refs) for part in parts],
        "memory_pages": [str(part.shadow.memory_pages) for part in parts],
    }
