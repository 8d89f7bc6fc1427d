"""Forests: their file format refuses what it must, and what is claimed of them holds."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from builders import refusal_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from strategies import VALUES, forests

from kdtool.errors import CapabilityError, ProgramError
from kdtool.features import FEATURE_SETS, Dataset
from kdtool.learners import boosted
from kdtool.learners.boosted import lower_boosted
from kdtool.learners.forest import lower_random_forest
from kdtool.learners.nextpage import lowering_loss
from kdtool.rmt import LIMITS, Forest, ScoreTree, Tree, from_document, stride_program, to_document
from kdtool.rmt.batch import answers
from kdtool.rmt.inference import sum_forest, walk_tree
from kdtool.rmt.lower_forest import SCORE_BITS, FloatTree, lower_forest

FOREST = Forest(
    name="f",
    inputs=("d1", "s2"),
    classes=(0, 3, 7),
    base_scores=(1, 0, -1),
    trees=(
        ScoreTree((0, -1, -1), (4, 0, 0), (1, -1, -1), (2, -1, -1), (0, 0, 2, 3), (0, 2, 1), (5, -6, 7)),
        ScoreTree((-1,), (0,), (-1,), (-1,), (0, 1), (1,), (2,)),
    ),
)


def column(key, value, at=None):
    """Change a column of the forest's first tree, or one place in it."""

    def change(forest):
        tree = forest["trees"][0]
        if at is None:
            tree[key] = value
        else:
            tree[key][at] = value

    return change


# Each change to a good forest, and what the refusal must say.
BAD = {
    "no tree": (lambda f: f.__setitem__("trees", []), "trees: 0 elements, allowed are 1 to 256"),
    "too many trees": (
        lambda f: f.__setitem__("trees", f["trees"] * 129),
        "258 elements, allowed are 1 to 256",
    ),
    "no class": (lambda f: f.__setitem__("classes", []), "classes: 0 elements"),
    "too many classes": (lambda f: f.__setitem__("classes", [1] * 65), "65 elements, allowed are 1 to 64"),
    "a base score too few": (lambda f: f["base_scores"].pop(), "base_scores: 2 elements, allowed are 3"),
    "an answer too large": (lambda f: f["classes"].__setitem__(0, 2**31), "is not in"),
    "a missing key": (lambda f: f.pop("classes"), "missing key 'classes'"),
    "an unknown key": (column("value", [0]), "unknown key 'value'"),
    "a cycle": (column("left", 0, 0), "cycle"),
    "a feature that is no input": (column("feature", 2, 0), "is not in [-1, 1]"),
    "a class that is none": (column("score_class", 3, 1), "is not in [0, 2]"),
    "a score too large": (column("score", 2**31, 0), "is not in"),
    "a score without a class": (column("score", [5, -6, 7, 8]), "score_class: 3 elements"),
    "first too short": (column("first", [0, 0, 3]), "first: 3 elements, allowed are 4 to 4"),
    "first beyond the scores": (column("first", 4, 2), "is not in [0, 3]"),
    "scores before the first": (column("first", [1, 1, 2, 3]), "begins with 1 and ends with 3, not 0 and 3"),
    "scores after the last": (column("first", [0, 0, 1, 2]), "begins with 0 and ends with 2, not 0 and 3"),
    "a split with scores": (column("first", [0, 1, 2, 3]), "node 0 has scores 0 to 0"),
    "first falls": (column("first", [0, 0, 0, 3]), "scores classes [0, 2, 1]: they must rise"),
    "a class twice": (column("score_class", [0, 0, 1]), "scores classes [0, 0]: they must rise"),
}


def document_with_forest():
    return to_document(replace(stride_program(), models=(*stride_program().models, FOREST)))


@pytest.mark.parametrize("case", BAD)
def test_a_bad_forest_is_refused_with_the_place(case):
    change, message = BAD[case]
    assert message in refusal_of(FOREST, change)


@pytest.mark.parametrize(("limit", "least"), [("forest_nodes", 4), ("forest_scores", 4), ("forest_depth", 1)])
def test_the_limits_of_a_forest_are_for_all_its_trees_together(monkeypatch, limit, least):
    monkeypatch.setattr("kdtool.rmt.modelcodec.LIMITS", replace(LIMITS, **{limit: least}))
    assert from_document(document_with_forest()).models[1] == FOREST
    monkeypatch.setattr("kdtool.rmt.modelcodec.LIMITS", replace(LIMITS, **{limit: least - 1}))
    with pytest.raises(ProgramError, match="allowed are"):
        from_document(document_with_forest())


@settings(max_examples=200, deadline=None)
@given(forests(["a", "b"]), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20))
def test_what_a_forest_does_lies_inside_what_is_claimed_of_it(forest, points):
    bounds, answers = forest.score_bounds(), forest.possible_answers()
    for point in points:
        answer, steps = sum_forest(forest, list(point))
        assert answer in answers
        assert steps <= len(forest.classes) + sum(tree.depth + tree.most_scores for tree in forest.trees)
        for n_trees in range(len(forest.trees) + 1):
            for c, (low, high) in enumerate(bounds):
                assert low <= sum_of(forest, n_trees, c, list(point)) <= high


def sum_of(forest, n_trees, c, point):
    """Add up what the first `n_trees` trees say of class c, each by a tree of its own."""
    total = forest.base_scores[c]
    for tree in forest.trees[:n_trees]:
        says = tuple(dict(tree.scores(node)).get(c, 0) for node in range(len(tree.feature)))
        columns = (tree.feature, tree.threshold, tree.left, tree.right, says)
        total += walk_tree(Tree("t", forest.inputs, *columns), point)[0]
    return total


def fitted(n_classes=5, n_rows=3000):
    """Features near thresholds that trees split at, and differences that follow from them."""
    rng = np.random.default_rng(0)
    X = rng.integers(-50, 50, (n_rows, 4))
    y = (X[:, 0] + X[:, 1] * X[:, 2] // 25 - X[:, 3]) % n_classes * 3 - 4
    return X, y


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_a_lowered_random_forest_answers_as_the_float_one(kind):
    X, y = fitted()
    model = kind(n_estimators=12, max_depth=7, random_state=0).fit(X[:2000], y[:2000])
    forest = lower_random_forest("f", ("a", "b", "c", "d"), model, 0.3)
    share = model.predict_proba(X)
    expected = np.where(share.max(axis=1) > 0.3, model.classes_[share.argmax(axis=1)], 0)
    loss = lowering_loss(forest, X, expected)
    assert loss["lowered_samples"] == 3000
    assert loss["lowered_differently"] <= 3  # shares within 2**-17 of each other or of the limit
    assert 0 < (expected == 0).sum() < 3000
    assert [sum_forest(forest, x)[0] for x in X[:300].tolist()] == answers(forest, X[:300]).tolist()
    for low, high in forest.score_bounds():
        assert 0 <= low <= high <= 12 * 2**SCORE_BITS + 12


def test_answers_that_differ_are_counted():
    X, y = fitted()
    model = RandomForestClassifier(n_estimators=3, max_depth=4, random_state=0).fit(X, y)
    forest = lower_random_forest("f", ("a", "b", "c", "d"), model, 0.0)
    expected = answers(forest, X)
    expected[[5, 9, 2000]] += 1
    assert lowering_loss(forest, X, expected) == {"lowered_samples": 3000, "lowered_differently": 3}


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_lowered_boosted_trees_answer_as_the_float_ones(n_classes):
    lightgbm = pytest.importorskip("lightgbm", reason="pip install 'kdtool[boosted]'")
    X, y = fitted(n_classes)
    model = lightgbm.LGBMClassifier(n_estimators=8, max_depth=5, n_jobs=1, verbose=-1, random_state=0)
    floats = X.astype(np.float64)
    model.fit(floats[:2000], y[:2000])
    forest = lower_boosted("f", ("a", "b", "c", "d"), model)
    expected = boosted.float_answers(model, floats)
    assert len(set(expected.tolist())) == n_classes
    probability = model.booster_.predict(floats)
    if n_classes == 2:
        probability = np.column_stack([1 - probability, probability])
    if n_classes > 1:
        assert (expected == model.classes_[probability.argmax(axis=1)]).all()
    assert lowering_loss(forest, X, expected)["lowered_differently"] <= 3
    assert all(max(map(abs, bounds)) < 2**31 for bounds in forest.score_bounds())


def leaf_tree(*scores):
    one = np.array([-1])
    return FloatTree(one, np.zeros(1), one, one, np.array([scores]))


def test_scores_round_half_to_even():
    half = 2.0 ** -(SCORE_BITS + 1)
    tree = leaf_tree(half, 3 * half, -half, -3 * half, 2.1 * half, 2.0 * half)
    forest = lower_forest("f", ("a",), range(6), np.zeros(6), [tree])
    assert dict(forest.trees[0].scores(0)) == {1: 2, 3: -2, 4: 1, 5: 1}


@pytest.mark.parametrize("reach", [2.0**13, 2.0**14 - 1, 2.0**14, 2.0**20, 2.0**29])
def test_large_scores_keep_fewer_bits_and_stay_inside_32(reach):
    trees_ = [leaf_tree(reach / 4, -reach / 4)] * 3
    forest = lower_forest("f", ("a",), (1, 2), np.array([reach / 4, 0]), trees_)
    (_, high), (low, _) = forest.score_bounds()
    assert 2**28 <= high < 2**31
    assert -(2**31) <= low <= -(2**27)


@pytest.mark.parametrize(
    ("score", "message"), [(2.0**31, "more than 2"), (np.inf, "not finite"), (np.nan, "not finite")]
)
def test_scores_that_have_no_room_are_refused(score, message):
    with pytest.raises(ProgramError, match=message):
        lower_forest("f", ("a",), (1,), np.zeros(1), [leaf_tree(score)])


def test_without_lightgbm_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    setting = boosted.BoostedLearner().candidates()[0]
    data = Dataset(("d1",), np.zeros((9, 1), np.int32), np.zeros(9, np.int32))
    with pytest.raises(CapabilityError, match=r"needs LightGBM, .*: pip install 'kdtool\[boosted\]'"):
        boosted.BoostedLearner().fit(data, FEATURE_SETS[0], setting, degree_pages=1, seed=0)
