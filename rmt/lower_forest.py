"""Forests of floats to integers: random forests and boosted trees.

Features are integers, so x <= t is the same as x <= floor(t), and splits lose nothing. Scores are made
integers by one rule: score * 2**bits, rounded to the nearest integer, half to even; `bits` is the largest
number up to SCORE_BITS with which no sum can leave 32 bits. What that changes is for the learner to count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, frexp

import numpy as np
import numpy.typing as npt

from kdtool.errors import ProgramError
from kdtool.rmt.models import Forest, ScoreTree
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN

__all__ = ["SCORE_BITS", "FloatTree", "lower_forest"]

SCORE_BITS = 16
"""A fraction of 2**-17 is the most that a score is wrong by."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FloatTree:
    """A tree as scikit-learn keeps it, each array of shape (n_nodes,); a leaf has children -1.

    score : (n_nodes, n_classes), what a leaf adds to each class; rows of splits do not count
    """

    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    score: FloatArray


def lower_forest(
    name: str,
    inputs: tuple[str, ...],
    classes: Sequence[int],
    base_scores: FloatArray,
    trees: Sequence[FloatTree],
) -> Forest:
    """Return the forest whose sums are those of `trees` and `base_scores`, (n_classes,), in fixed point.

    Raises ProgramError when scores are not finite, or so large that no bit of them fits.
    """
    bits = _score_bits(base_scores, trees)
    return Forest(
        name=name,
        inputs=inputs,
        classes=tuple(int(answer) for answer in classes),
        base_scores=tuple(int(score) for score in _fixed_point(base_scores, bits)),
        trees=tuple(_lower_tree(tree, bits) for tree in trees),
    )


def _fixed_point(score: FloatArray, bits: int) -> IntArray:
    return np.rint(score * 2.0**bits).astype(np.int64)


def _score_bits(base_scores: FloatArray, trees: Sequence[FloatTree]) -> int:
    """Return how many bits after the point leave room for every sum, each rounding included."""
    largest = np.abs(base_scores) + sum(np.abs(tree.score[tree.left < 0]).max(axis=0) for tree in trees)
    reach = float(largest.max())
    if not np.isfinite(reach):
        raise ProgramError("a forest's scores are not finite: train with a smaller learning rate")
    if reach == 0:
        return SCORE_BITS
    # reach * 2**bits is at most 2**30, and as many roundings as there are trees add less than that.
    bits = min(SCORE_BITS, 30 - frexp(reach)[1])
    if bits < 0:
        raise ProgramError(f"a forest's sums reach {reach:.3g}, more than 2^30: train with smaller scores")
    return bits


def _lower_tree(tree: FloatTree, bits: int) -> ScoreTree:
    leaf = tree.left < 0
    score = _fixed_point(np.where(leaf[:, None], tree.score, 0), bits)
    counts = (score != 0).sum(axis=1)
    floors = [0 if is_leaf else floor(t) for is_leaf, t in zip(leaf, tree.threshold, strict=True)]
    return ScoreTree(
        feature=tuple(np.where(leaf, -1, tree.feature).tolist()),
        threshold=tuple(min(max(t, VALUE_MIN), VALUE_MAX) for t in floors),
        left=tuple(tree.left.tolist()),
        right=tuple(tree.right.tolist()),
        first=(0, *np.cumsum(counts).tolist()),
        score_class=tuple(np.nonzero(score)[1].tolist()),
        score=tuple(score[score != 0].tolist()),
    )
