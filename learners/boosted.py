"""Boosted trees that predict the next difference in pages."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError, ProgramError
from kdtool.features import Dataset, FeatureSet
from kdtool.learners.nextpage import frequent_deltas, lowering_loss, next_page_program
from kdtool.rmt import Forest, Program
from kdtool.rmt.lower_forest import FloatTree, lower_forest

__all__ = ["BoostedLearner", "lower_boosted"]

MAX_CLASSES, MAX_TREES = 16, 256
NAME = "next_delta"


class BoostedLearner:
    """LightGBM's multiclass boosting over the next delta as a class.

    Idea: each round adds a small tree a class, which corrects the sum of those before it; the class with the
    largest sum is the answer. Deltas that occur rarely are one class, "no prediction".
    State of the result: one register, a sum a class. Cost: comparisons of every tree, a score each.
    Reference: Ke et al., LightGBM, NIPS 2017.
    """

    name = "boosted"

    def candidates(self) -> list[dict[str, int]]:
        """Return a few small trees and fewer larger ones."""
        return [{"n_estimators": 16, "max_depth": 5}, {"n_estimators": 8, "max_depth": 8}]

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Fit on all of `dataset`; see Learner. CapabilityError without LightGBM."""
        y = frequent_deltas(dataset.y, MAX_CLASSES)
        lightgbm = _lightgbm()
        model = lightgbm.LGBMClassifier(
            n_estimators=min(setting["n_estimators"], MAX_TREES // MAX_CLASSES),
            max_depth=setting["max_depth"],
            num_leaves=2 ** setting["max_depth"],
            learning_rate=0.3,
            random_state=seed,
            n_jobs=1,
            deterministic=True,
            force_row_wise=True,
            verbose=-1,
        )
        X = dataset.X.astype(np.float64)
        model.fit(X, y)
        forest = lower_boosted(NAME, dataset.feature_names, model)
        program = next_page_program(f"boosted-{features.name}", features, forest, degree_pages, dataset)
        loss = lowering_loss(forest, dataset.X, float_answers(model, X))
        return replace(program, provenance={**loss, "lightgbm": lightgbm.__version__})


def lower_boosted(name: str, inputs: tuple[str, ...], model: Any) -> Forest:
    """Lower a fitted LGBMClassifier whose classes are differences in pages.

    With two classes LightGBM fits one tree a round: its sum is the second class's, against 0.
    Raises ProgramError for splits that are no comparison (categories).
    """
    dump = model.booster_.dump_model()
    answers = [int(answer) for answer in model.classes_]
    a_round = dump["num_tree_per_iteration"]
    trees = []
    for number, info in enumerate(dump["tree_info"]):
        scored = number % a_round if a_round > 1 else min(1, len(answers) - 1)
        rows: list[list[float]] = []
        _add_node(rows, info["tree_structure"])
        feature, threshold, left, right, value = np.array(rows).T
        score = np.zeros((len(rows), len(answers)))
        score[:, scored] = value
        left, right, feature = (column.astype(np.int64) for column in (left, right, feature))
        trees.append(FloatTree(feature, threshold, left, right, score))
    return lower_forest(name, inputs, answers, np.zeros(len(answers)), trees)


def float_answers(model: Any, X: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the class that the booster itself finds likeliest for each row."""
    raw = model.booster_.predict(X, raw_score=True)
    best = raw.argmax(axis=1) if raw.ndim == 2 else (raw > 0).astype(np.int64)
    classes = np.array(model.classes_, np.int64)
    answers: npt.NDArray[np.int64] = classes[np.minimum(best, len(classes) - 1)]
    return answers


def _add_node(rows: list[list[float]], node: dict[str, Any]) -> int:
    """Append a node of LightGBM's dump and all below it, parents first; return its number."""
    at = len(rows)
    if "leaf_value" in node:
        rows.append([-1, 0, -1, -1, node["leaf_value"]])
        return at
    if node["decision_type"] != "<=":
        raise ProgramError(f"a split by {node['decision_type']!r}, only <= can be lowered: use no categories")
    rows.append([node["split_feature"], node["threshold"], 0, 0, 0])
    rows[at][2] = _add_node(rows, node["left_child"])
    rows[at][3] = _add_node(rows, node["right_child"])
    return at


def _lightgbm() -> ModuleType:
    try:
        import lightgbm
    except ImportError:
        raise CapabilityError(
            "learner 'boosted' needs LightGBM, which is not installed: pip install 'kdtool[boosted]'"
        ) from None
    module: ModuleType = lightgbm
    return module
