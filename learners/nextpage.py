"""What learners of the next difference share: classes, the program around a model, the loss of lowering."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdtool.features import Dataset, FeatureSet
from kdtool.features.sets import RUN_LAG
from kdtool.rmt import (
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Budget,
    Entry,
    Guards,
    MatchField,
    Model,
    Program,
    Table,
    worst_case,
)

__all__ = ["frequent_deltas", "lowering_loss", "next_page_program"]

MIN_CLASS_SAMPLES = 4
MAX_EXCEPTIONS = 16
"""Strides that are left to the model: each is a comparison more at every step of a rollout."""


def frequent_deltas(y: npt.NDArray[np.int32], max_classes: int) -> npt.NDArray[np.int32]:
    """Keep the most frequent deltas; the others, and 0, become 0: no prediction."""
    values, counts = np.unique(y, return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")][:max_classes]
    frequent = frequent[np.isin(frequent, values[counts >= MIN_CLASS_SAMPLES])]
    return np.where(np.isin(y, frequent), y, 0)


def next_page_program(
    name: str, features: FeatureSet, model: Model, degree_pages: int, dataset: Dataset
) -> Program:
    """Return the program that follows settled strides and asks `model` about everything else.

    dataset : what the model was fitted on. It also says which settled strides are the model's
    """
    exceptions = _better_known(model, dataset)
    program = Program(
        name=name,
        hook="mm.swapin",
        registers=(features.register,),
        features=features.features,
        models=(model,),
        tables=(_settled_stride(exceptions), Table("next_page", (), (), Action("infer", model=model.name))),
        guards=Guards(degree_pages=degree_pages),
        budget=Budget(steps=1, state_bytes=1),
    )
    return replace(program, budget=worst_case(program))


def lowering_loss(
    model: Model, X: npt.NDArray[np.integer], expected: npt.NDArray[np.int64]
) -> dict[str, str | int | list[str]]:
    """Count the rows of X at which `model` answers other than `expected`, which the float model says."""
    from kdtool.rmt.batch import answers

    differ = int((answers(model, X) != expected).sum())
    return {"lowered_samples": len(X), "lowered_differently": differ}


def _better_known(model: Model, dataset: Dataset) -> list[int]:
    """Return the strides, once settled, at which `model` does better than to go on with them would.

    A right answer counts for it, a wrong one against it, none is neither. As where each 32nd row of a matrix
    begins a page later than the others. Those at which it does better by most come first.
    """
    from kdtool.rmt.batch import answers

    column = dataset.feature_names.index
    settled = dataset.X[:, column(f"r{RUN_LAG}")] == RUN_LAG
    X, y = dataset.X[settled], dataset.y[settled]
    strides, number = np.unique(X[:, column("d1")], return_inverse=True)
    better = _score(answers(model, X[:, [column(name) for name in model.inputs]]), y)
    better -= _score(strides[number], y)
    gained = np.bincount(number, weights=better)
    order = np.argsort(-gained, kind="stable")[:MAX_EXCEPTIONS]
    return [int(strides[i]) for i in order if gained[i] > 0]


def _score(answer: npt.NDArray[np.integer], y: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    right, wrong = answer == y, (answer != y) & (answer != 0)
    return np.asarray(right, np.int64) - np.asarray(wrong, np.int64)


def _settled_stride(exceptions: Sequence[int]) -> Table:
    """Follow a stride that was seen RUN_LAG times in a row, but for `exceptions`, which are the model's.

    It comes before the model, which answers for strides that it never saw with those that it did.
    """
    settled, any_stride, follow = (RUN_LAG, RUN_LAG), (VALUE_MIN, VALUE_MAX), Action("follow", feature="d1")
    entries = [Entry((settled, any_stride), priority=1, action=follow)]
    entries += [Entry((settled, (d, d)), priority=2, action=Action("no_action")) for d in exceptions]
    fields = (MatchField(f"r{RUN_LAG}", "RANGE"), MatchField("d1", "RANGE"))
    return Table("settled_stride", fields, tuple(entries), Action("no_action"))
