"""What learners of the next difference share: classes, the program around a model, the loss of lowering."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdtool.features import FeatureSet
from kdtool.features.sets import RUN_LAG
from kdtool.rmt import Action, Budget, Entry, Guards, MatchField, Model, Program, Table, worst_case

__all__ = ["frequent_deltas", "lowering_loss", "next_page_program"]

MIN_CLASS_SAMPLES = 4


def frequent_deltas(y: npt.NDArray[np.int32], max_classes: int) -> npt.NDArray[np.int32]:
    """Keep the most frequent deltas; the others, and 0, become 0: no prediction."""
    values, counts = np.unique(y, return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")][:max_classes]
    frequent = frequent[np.isin(frequent, values[counts >= MIN_CLASS_SAMPLES])]
    return np.where(np.isin(y, frequent), y, 0)


def next_page_program(name: str, features: FeatureSet, model: Model, degree_pages: int) -> Program:
    """Return the program that follows settled strides and asks `model` about everything else."""
    program = Program(
        name=name,
        hook="mm.swapin",
        registers=(features.register,),
        features=features.features,
        models=(model,),
        tables=(_settled_stride(), Table("next_page", (), (), Action("infer", model=model.name))),
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


def _settled_stride() -> Table:
    """Follow a stride that was seen RUN_LAG times in a row.

    It comes before the model, which answers for strides that it never saw with those that it did.
    """
    settled = Entry(match=((RUN_LAG, RUN_LAG),), priority=1, action=Action("follow", feature="d1"))
    return Table("settled_stride", (MatchField(f"r{RUN_LAG}", "RANGE"),), (settled,), Action("no_action"))
