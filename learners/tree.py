"""A decision tree that predicts the next difference in pages."""

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from kdtool.features import Dataset, FeatureSet
from kdtool.learners.nextpage import frequent_deltas, next_page_program
from kdtool.rmt import Program, lower_tree

__all__ = ["TreeLearner"]

MAX_CLASSES = 64
MIN_CONFIDENCE_PERMILLE = 300
"""More keeps quiet about what later parts repeat; a rollout that went wrong costs less than one not made."""


class TreeLearner:
    """scikit-learn's decision tree over the next delta as a class, lowered to integers.

    Idea: deltas that occur rarely are one class, "no prediction". A leaf has `min_samples_leaf` training
    samples at least, and answers its majority class if that has at least `min_confidence_permille` of them;
    otherwise it has no answer. A table before the tree follows settled strides, so that one it was never
    shown is not lost.
    State of the result: one register. Cost: depth comparisons a prediction.
    References: Breiman et al., Classification and Regression Trees, 1984; the use of a tree for swap
    prefetching: Toward Reconfigurable Kernel Datapaths with Learned Optimizations, HotOS'21.
    """

    name = "tree"

    def candidates(self) -> list[dict[str, int]]:
        """Return sizes of tree, from one that generalises to one that remembers."""
        sizes = ((14, 32), (10, 8), (14, 8))
        return [
            {
                "max_depth": depth,
                "min_samples_leaf": leaf,
                "min_confidence_permille": MIN_CONFIDENCE_PERMILLE,
            }
            for depth, leaf in sizes
        ]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner."""
        model = DecisionTreeClassifier(
            max_depth=setting["max_depth"], min_samples_leaf=setting["min_samples_leaf"], random_state=seed
        )
        model.fit(dataset.X, frequent_deltas(dataset.y, MAX_CLASSES))
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
        return next_page_program(f"tree-{features.name}", features, tree, degree_pages)
