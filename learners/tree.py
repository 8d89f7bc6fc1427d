"""A decision tree that predicts the next difference in pages."""

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from kdtool.features import Dataset, FeatureSet
from kdtool.learners.nextpage import frequent_deltas, next_page_program
from kdtool.rmt import Program, lower_tree

__all__ = ["TreeLearner"]

MAX_CLASSES = 64
MIN_LEAF_SAMPLES = 8
"""Fewer say nothing of what comes next."""


class TreeLearner:
    """scikit-learn's decision tree over the next delta as a class, lowered to integers.

    Idea: deltas that occur rarely are one class, "no prediction". A leaf answers its majority class, however
    small the majority: leaves that keep quiet when less than half agree lose coverage and gain no accuracy
    (docs/training.md). A table before the tree follows settled strides, so that one it was never shown is
    not lost.
    State of the result: one register. Cost: depth comparisons a prediction.
    References: Breiman et al., Classification and Regression Trees, 1984; the use of a tree for swap
    prefetching: Toward Reconfigurable Kernel Datapaths with Learned Optimizations, HotOS'21.
    """

    name = "tree"

    def candidates(self) -> list[dict[str, int]]:
        """Return two sizes of tree."""
        return [{"max_depth": depth} for depth in (10, 14)]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner."""
        model = DecisionTreeClassifier(
            max_depth=setting["max_depth"], min_samples_leaf=MIN_LEAF_SAMPLES, random_state=seed
        )
        model.fit(dataset.X, frequent_deltas(dataset.y, MAX_CLASSES))
        fitted = model.tree_
        answer = model.classes_[fitted.value[:, 0, :].argmax(axis=1)].astype(np.int64)
        tree = lower_tree(
            "next_delta",
            dataset.feature_names,
            feature=fitted.feature,
            threshold=fitted.threshold,
            left=fitted.children_left,
            right=fitted.children_right,
            value=answer,
        )
        return next_page_program(f"tree-{features.name}", features, tree, degree_pages, dataset)
