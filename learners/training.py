"""From traces to a program: learn on the first part of each trace, choose by replay, never see the rest.

    |------- fit -------|-- choose --|------------- held out -------------|
    0                  75 %        train_rows                         n_refs

Candidates (a feature set and a learner's setting) are fitted on `fit` and replayed over the training
part, counting on `choose`. Those that are ahead of Linux and Leap there in accuracy and coverage come
first, then the shortest run time; the best one is fitted again on all of the training part. What comes
after `train_rows` is for judging: `kdtool replay --from`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kdtool.features import FEATURE_SETS, Dataset, FeatureSet
from kdtool.learners.base import Learner
from kdtool.learners.parts import TrainingPart, part_dataset
from kdtool.replay import Device, Policy, ProgramPolicy, Result, load_policy, replay
from kdtool.rmt import Program

__all__ = ["Candidate", "train"]

RIVALS = ("linux-vma", "linux-cluster", "leap-paper")
MAX_FIT_SAMPLES, MAX_FINAL_SAMPLES = 100_000, 400_000
"""More swap-ins than this are thinned evenly before a fit: they repeat what the others say and take time."""


@dataclass(frozen=True)
class Candidate:
    """A feature set, a learner's setting, and what it reached on `choose`.

    runtime_ns : added up over traces and judged memories
    ahead : of every baseline of RIVALS in accuracy and coverage, on every trace and judged memory
    """

    features: FeatureSet
    setting: dict[str, int]
    runtime_ns: int
    ahead: bool

    @property
    def rank(self) -> tuple[bool, int]:
        """Return the key by which the best candidate is the smallest."""
        return not self.ahead, self.runtime_ns


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
    rivals = [_choosing(parts, load_policy(name), device) for name in RIVALS]
    for features in FEATURE_SETS:
        dataset = _thinned(part_dataset(parts, features, whole=False), MAX_FIT_SAMPLES)
        for setting in learner.candidates():
            program = learner.fit(dataset, features, setting, degree_pages=degree_pages, seed=seed)
            candidate = _judge(parts, rivals, program, device, features, setting)
            if progress is not None:
                progress(candidate)
            if best is None or candidate.rank < best.rank:
                best = candidate
    assert best is not None
    whole = _thinned(part_dataset(parts, best.features, whole=True), MAX_FINAL_SAMPLES)
    program = learner.fit(whole, best.features, best.setting, degree_pages=degree_pages, seed=seed)
    return replace(
        program, provenance={**program.provenance, **_provenance(parts, learner, best, device, seed)}
    ), best


def _thinned(dataset: Dataset, max_samples: int) -> Dataset:
    step = -(-len(dataset.y) // max_samples)
    return replace(dataset, X=dataset.X[::step], y=dataset.y[::step])


def _judge(
    parts: list[TrainingPart],
    rivals: list[list[Result]],
    program: Program,
    device: Device,
    features: FeatureSet,
    setting: dict[str, int],
) -> Candidate:
    results = _choosing(parts, ProgramPolicy(program), device)
    ahead = all(
        (result.accuracy or 0) >= (rival.accuracy or 0) and (result.coverage or 0) >= (rival.coverage or 0)
        for others in rivals
        for result, rival in zip(results, others, strict=True)
    )
    return Candidate(features, setting, sum(result.runtime_ns for result in results), ahead)


def _choosing(parts: list[TrainingPart], policy: Policy, device: Device) -> list[Result]:
    """Replay every part at every judged memory, counting on `choose`."""
    return [
        replay(part.workload, policy, shadow, device, from_row=part.choose_row)
        for part in parts
        for shadow in part.judged
    ]


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
