"""From traces to a program: learn on the first part of each trace, choose by replay, never see the rest.

    |------- fit -------|-- choose --|------------- held out -------------|
    0                  75 %        train_rows                         n_refs

Candidates (a feature set and a learner's setting) are fitted on `fit` and replayed over the training
part, counting on `choose`. All count as equal that save nearly as much run time as the one that saves the
most, and of these the one with the smallest model is taken: `choose` is like `fit`, so that small
differences there say less of what is to come than how much a model has by heart. It is fitted again on all
of the training part. What comes after `train_rows` is for judging: `kdtool replay --from`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from kdtool.errors import TraceError
from kdtool.features import FEATURE_SETS, Dataset, FeatureSet
from kdtool.learners.base import Learner
from kdtool.learners.degree import choose_degree, fitting_degrees
from kdtool.learners.judging import judged_ns
from kdtool.learners.parts import TrainingPart, part_dataset
from kdtool.replay import Device, ProgramPolicy, load_policy
from kdtool.rmt import Model, Network, Program

__all__ = ["Candidate", "best_candidate", "train", "usual_degree"]

EQUAL_PERMILLE = 50
"""Candidates are equal that lack no more than this of what the best saves: the moment of the kernel's
statistics period at which a program starts changes what a candidate saves by up to 8 % (convolution)."""
MAX_FIT_SAMPLES, MAX_FINAL_SAMPLES = 100_000, 400_000
"""More swap-ins than this are thinned evenly before a fit: they repeat what the others say and take time."""
DEGREE_PAGES, AGENT_DEGREE_PAGES = 16, 32
"""How far ahead a program predicts for the kernel; candidates for an agent, whose degree is chosen then."""


@dataclass(frozen=True)
class Candidate:
    """A feature set, a learner's setting, and what it reached on `choose`.

    runtime_ns : added up over traces and judged memories
    size : leaves of its trees, or weights of its network
    """

    features: FeatureSet
    setting: dict[str, int]
    runtime_ns: int
    size: int


def train(
    parts: list[TrainingPart],
    learner: Learner,
    device: Device,
    *,
    degree_pages: int | None = None,
    seed: int,
    progress: Callable[[Candidate, int], None] | None = None,
) -> tuple[Program, Candidate]:
    """Return the best program, fitted on all of the training parts, and the candidate it came from.

    degree_pages : how many pages it predicts at once; None: DEGREE_PAGES, for an agent what
        choose_degree() says. Then `degree_ms` of the program's provenance has what each took
    progress : gets each candidate and how many there are; each degree counts as one, when it is chosen

    Deterministic: the same parts, learner, device, degree and seed give the same program.
    """
    usual_pages, chooses = usual_degree(device), degree_pages is None and device.agent_ns > 0
    samples = _samples(parts)
    n_steps = len(samples) * len(learner.candidates()) + len(fitting_degrees(parts)) * chooses

    def report(candidate: Candidate) -> None:
        if progress is not None:
            progress(candidate, n_steps)

    best, sample = _best_candidate(parts, samples, learner, device, degree_pages or usual_pages, seed, report)
    facts = _provenance(parts, learner, best, device, seed)

    def fit(dataset: Dataset, pages: int) -> Program:
        return learner.fit(dataset, best.features, best.setting, degree_pages=pages, seed=seed)

    if chooses:
        degree_pages, runtime_ns = choose_degree(
            parts, partial(fit, sample), device, lambda ns: report(replace(best, runtime_ns=ns))
        )
        facts["degree_ms"] = [f"{pages}: {ns // 1_000_000}" for pages, ns in runtime_ns.items()]
    whole = _thinned(part_dataset(parts, best.features, whole=True), MAX_FINAL_SAMPLES)
    program = fit(whole, degree_pages or usual_pages)
    return replace(program, provenance={**program.provenance, **facts}), best


def usual_degree(device: Device) -> int:
    """Return how many pages ahead programs predict until a degree is chosen."""
    return AGENT_DEGREE_PAGES if device.agent_ns else DEGREE_PAGES


def _best_candidate(
    parts: list[TrainingPart],
    samples: list[tuple[FeatureSet, Dataset]],
    learner: Learner,
    device: Device,
    degree_pages: int,
    seed: int,
    report: Callable[[Candidate], None],
) -> tuple[Candidate, Dataset]:
    """Fit and judge every candidate; return the best, and the samples that it was fitted on."""
    none_ns = judged_ns(parts, load_policy("none"), device)
    candidates = []
    for features, dataset in samples:
        for setting in learner.candidates():
            program = learner.fit(dataset, features, setting, degree_pages=degree_pages, seed=seed)
            runtime_ns = judged_ns(parts, ProgramPolicy(program), device)
            size = sum(map(_size, program.models))
            candidates.append(Candidate(features, setting, runtime_ns, size))
            report(candidates[-1])
    best = best_candidate(candidates, none_ns)
    return best, next(dataset for features, dataset in samples if features is best.features)


def best_candidate(candidates: Sequence[Candidate], none_ns: int) -> Candidate:
    """Return the smallest of those that are equal to the fastest.

    none_ns : the run time without prefetching
    """
    fastest_ns = min(candidate.runtime_ns for candidate in candidates)
    equal_ns = fastest_ns + max(none_ns - fastest_ns, 0) * EQUAL_PERMILLE // 1000
    return min(
        (candidate for candidate in candidates if candidate.runtime_ns <= equal_ns),
        key=lambda candidate: (candidate.size, candidate.runtime_ns),
    )


def _samples(parts: list[TrainingPart]) -> list[tuple[FeatureSet, Dataset]]:
    """Return the samples of each feature set that has any, but of none that has those of one before it.

    As threads are the process where there is but one. Of a program that never comes back to a region, that
    set has none. Raises TraceError when no set has any.
    """
    found: list[tuple[FeatureSet, Dataset]] = []
    for features in FEATURE_SETS:
        own = _thinned(part_dataset(parts, features, whole=False), MAX_FIT_SAMPLES)
        if len(own.y) and not any(_same(own, other) for _, other in found):
            found.append((features, own))
    if not found:
        traces = ", ".join(part.workload.name for part in parts)
        streams = ", ".join(features.name for features in FEATURE_SETS)
        raise TraceError(
            f"{traces}: no swap-in to learn from has another after it in its stream ({streams}): "
            f"train on a longer trace or with less --memory"
        )
    return found


def _same(one: Dataset, other: Dataset) -> bool:
    return np.array_equal(one.y, other.y) and np.array_equal(one.X, other.X)


def _thinned(dataset: Dataset, max_samples: int) -> Dataset:
    step = max(1, -(-len(dataset.y) // max_samples))
    return replace(dataset, X=dataset.X[::step], y=dataset.y[::step])


def _size(model: Model) -> int:
    return model.n_weights if isinstance(model, Network) else model.n_leaves


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
        "agent_ns": device.agent_ns,
        "traces": [part.workload.sha256 for part in parts],
        "train_rows": [str(part.workload.n_refs) for part in parts],
        "memory_pages": [str(part.shadow.memory_pages) for part in parts],
    }
