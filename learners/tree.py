"""A decision tree that predicts the next difference in pages."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from sklearn.tree import DecisionTreeClassifier

from kdtool.features import Dataset, FeatureSet
from kdtool.features.sets import RUN_LAG
from kdtool.rmt import (
    Action,
    Budget,
    Entry,
    Guards,
    MatchField,
    Program,
    Table,
    lower_tree,
    worst_case,
)

__all__ = ["TreeLearner"]

MAX_CLASSES = 64
MIN_CLASS_SAMPLES = 4
MIN_LEAF_SAMPLES = 8
"""Fewer say nothing of how sure a leaf is."""


class TreeLearner:
    """scikit-learn's decision tree over the next delta as a class, lowered to integers.

    Idea: deltas that occur rarely are one class, "no prediction". A leaf answers its majority class if
    that has at least `min_confidence_permille` of its training samples, and otherwise has no
    answer. A table before the tree follows settled strides, so that one it was never shown is not lost.
    State of the result: one register. Cost: depth comparisons a prediction.
    References: Breiman et al., Classification and Regression Trees, 1984; the use of a tree for swap
    prefetching: Toward Reconfigurable Kernel Datapaths with Learned Optimizations, HotOS'21.
    """

    name = "tree"

    def candidates(self) -> list[dict[str, int]]:
        """Return depths and confidences from cautious to bold."""
        return [
            {"max_depth": depth, "min_confidence_permille": confidence}
            for depth in (10, 14)
            for confidence in (500, 800)
        ]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner."""
        model = DecisionTreeClassifier(
            max_depth=setting["max_depth"], min_samples_leaf=MIN_LEAF_SAMPLES, random_state=seed
        )
        model.fit(dataset.X, _classes(dataset.y))
        fitted = model.tree_
        share = fitted.value[:, 0, :] / fitted.value[:, 0, :].sum(axis=1, keepdims=True)
        answer = model.classes_[share.argmax(axis=1)].astype(np.int64)
        answer[share.max(axis=1) * 1000 < setting["min_confidence_permille"]] = 0
        tree = lower_tree(
            "next_delta",
            dataset.feature_names,
            feature=fitted.feature,
            threshold=fitted.threshold,
            left=fitted.children_left,
            right=fitted.children_right,
            value=answer,
        )
        program = Program(
            name=f"tree-{features.name}",
            hook="mm.swapin",
            registers=(features.register,),
            features=features.features,
            models=(tree,),
            tables=(
                _settled_stride(),
                Table("next_page", (), (), Action("infer", model=tree.name)),
            ),
            guards=Guards(degree_pages=degree_pages),
            budget=Budget(steps=1, state_bytes=1),
        )
        return replace(program, budget=worst_case(program))


def _settled_stride() -> Table:
    """Follow a stride that was seen RUN_LAG times in a row.

    It comes before the tree, which answers for strides that it never saw with those that it did.
    """
    settled = Entry(match=((RUN_LAG, RUN_LAG),), priority=1, action=Action("follow", feature="d1"))
    return Table("settled_stride", (MatchField(f"r{RUN_LAG}", "RANGE"),), (settled,), Action("no_action"))


def _classes(y: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Keep the most frequent deltas; the others, and 0, become 0: no prediction."""
    values, counts = np.unique(y, return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")][:MAX_CLASSES]
    frequent = frequent[np.isin(frequent, values[counts >= MIN_CLASS_SAMPLES])]
    return np.where(np.isin(y, frequent), y, 0)
