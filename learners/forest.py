"""A random forest that predicts the next difference in pages."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from kdtool.features import Dataset, FeatureSet
from kdtool.learners.nextpage import frequent_deltas, lowering_loss, next_page_program
from kdtool.rmt import Forest, Program
from kdtool.rmt.lower_forest import FloatTree, lower_forest

__all__ = ["ForestLearner", "lower_random_forest"]

MAX_CLASSES = 32
MIN_LEAF_SAMPLES = 8
"""Fewer say nothing of how sure a leaf is."""
NAME = "next_delta"


class ForestLearner:
    """scikit-learn's random forest (or extremely randomised trees) over the next delta as a class.

    Idea: each tree's leaf says how the classes were distributed there, and the mean decides. One class more,
    without a prediction, begins with `min_confidence_permille` of what all trees together can say: what is
    not surer than that is not predicted. Deltas that occur rarely are one class, "no prediction".
    State of the result: one register, a sum a class. Cost: comparisons and scores of every tree.
    References: Breiman, Random Forests, 2001; Geurts et al., Extremely Randomized Trees, 2006.
    """

    name = "forest"

    def candidates(self) -> list[dict[str, int]]:
        """Return both kinds of forest."""
        return [
            {"n_estimators": 16, "max_depth": 10, "min_confidence_permille": 500, "extra_trees": extra}
            for extra in (0, 1)
        ]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner."""
        kind = ExtraTreesClassifier if setting["extra_trees"] else RandomForestClassifier
        model = kind(
            n_estimators=setting["n_estimators"],
            max_depth=setting["max_depth"],
            min_samples_leaf=MIN_LEAF_SAMPLES,
            random_state=seed,
        )
        model.fit(dataset.X, frequent_deltas(dataset.y, MAX_CLASSES))
        least = setting["min_confidence_permille"] / 1000
        forest = lower_random_forest(NAME, dataset.feature_names, model, least)
        program = next_page_program(f"forest-{features.name}", features, forest, degree_pages, dataset)
        loss = lowering_loss(forest, dataset.X, float_answers(model, dataset.X, least))
        return replace(program, provenance=loss)


def lower_random_forest(name: str, inputs: tuple[str, ...], model: Any, min_confidence: float) -> Forest:
    """Lower a fitted RandomForestClassifier or ExtraTreesClassifier whose classes are differences in pages.

    The first class of the result is no prediction: it wins where no class has more than min_confidence.
    """
    answers = [0, *model.classes_.tolist()]
    base_scores = np.zeros(len(answers))
    base_scores[0] = min_confidence * len(model.estimators_)
    trees = []
    for estimator in model.estimators_:
        fitted = estimator.tree_
        share = fitted.value[:, 0, :] / fitted.value[:, 0, :].sum(axis=1, keepdims=True)
        score = np.column_stack([np.zeros(len(share)), share])
        trees.append(
            FloatTree(fitted.feature, fitted.threshold, fitted.children_left, fitted.children_right, score)
        )
    return lower_forest(name, inputs, answers, base_scores, trees)


def float_answers(model: Any, X: npt.NDArray[np.integer], min_confidence: float) -> npt.NDArray[np.int64]:
    """Return what the classifier itself answers to each row, 0 where it is not surer than min_confidence."""
    share = model.predict_proba(X)
    best = model.classes_[share.argmax(axis=1)]
    return np.where(share.max(axis=1) > min_confidence, best, 0).astype(np.int64)
