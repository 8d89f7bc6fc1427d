"""Models in the Numba VM: mirrors of `inference`, over `params` and `state` as laid out in `packed`.

A network's code is compiled when the first network is packed, and called by its address: no program without
one waits for it.

x, sums : pointers to the features, and to the words in which a forest adds up
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kdtool.rmt.blocks import (
    BLOCK_WORDS,
    CHILD_SHIFT,
    CHILDREN,
    NODE,
    OWN_BITS,
    PAIRS,
    RIGHT_SHIFT,
    RIGHTS,
    SPLIT_BITS,
    STEPS_BITS,
)
from kdtool.rmt.jit import inline, inner
from kdtool.rmt.packedmodels import CLASS_BITS, LOW_32, TREES_A_WALK
from kdtool.rmt.pointers import WORDS

__all__ = ["call_model", "sum_forest", "walk_tree"]


NODE_BIT, LEFT_BIT, RIGHT_BIT = OWN_BITS
CLASS_MASK, FEATURE = (1 << CLASS_BITS) - 1, (1 << SPLIT_BITS) - 1
STEPS = (1 << STEPS_BITS) - 1


@inline
def _compare(params, block, x, features):  # type: ignore[no-untyped-def]
    """Return where the next four blocks begin, and -1 or 0: whether the walk goes right, and at the child.

    No branch depends on x.
    """
    at_node, at_left, at_right = features
    node, children = params[block + NODE], params[block + CHILDREN]
    right = (node >> 32) - x[at_node] >> 63
    left_child = (children << 32 >> 32) - x[at_left]
    right_child = (children >> 32) - x[at_right]
    return node & LOW_32, right, (left_child ^ ((left_child ^ right_child) & right)) >> 63


@inline
def _own_features(params, block):  # type: ignore[no-untyped-def]
    word = params[block + RIGHTS]
    return word >> NODE_BIT & FEATURE, word >> LEFT_BIT & FEATURE, word >> RIGHT_BIT & FEATURE


@inline
def _step(params, block, x):  # type: ignore[no-untyped-def]
    """Return the block that comes next. One walk alone would wait for its features, which walk_tree knows."""
    following, right, child = _compare(params, block, x, _own_features(params, block))
    return following + (right & 2 * BLOCK_WORDS) + (child & BLOCK_WORDS)


@inline
def _last_step(params, compared, state):  # type: ignore[no-untyped-def]
    """Return a leaf's value, and count its steps."""
    following, right, child = compared
    state[0] += params[following + CHILDREN] >> 32 + (right & 2 * STEPS_BITS) + (child & STEPS_BITS) & STEPS
    return params[following + PAIRS - right] << (child & 32) >> 32


@inline
def walk_tree(params, tree, state, x):  # type: ignore[no-untyped-def]
    """Return the value of the leaf that x falls into."""
    entry = tree + 1
    block, pairs, rights = entry + BLOCK_WORDS, params[entry + PAIRS], params[entry + RIGHTS]
    for _ in range(params[tree] - 1):
        features = pairs >> SPLIT_BITS & FEATURE, pairs & FEATURE, rights & FEATURE
        following, right, child = _compare(params, block, x, features)
        pairs = params[block + PAIRS] >> (right & RIGHT_SHIFT) >> (child & CHILD_SHIFT)
        rights = params[block + RIGHTS] >> (right & RIGHT_SHIFT) >> (child & CHILD_SHIFT)
        block = following + (right & 2 * BLOCK_WORDS) + (child & BLOCK_WORDS)
    features = pairs >> SPLIT_BITS & FEATURE, pairs & FEATURE, rights & FEATURE
    return _last_step(params, _compare(params, block, x, features), state)


@inner
def sum_forest(params, forest, state, x, sums):  # type: ignore[no-untyped-def]
    """Return the answer of the class with the largest sum, the first of several.

    Walks go on in turn, so that one waits for its loads while the others go on.
    """
    n_classes, n_trees, steps = params[forest], params[forest + 1], params[forest + 2]
    classes = forest + 4
    for c in range(n_classes):
        sums[c] = params[classes + 2 * c]
    roots = classes + 2 * n_classes
    for t in range(roots, roots + n_trees, TREES_A_WALK):
        first, second, third, fourth = params[t], params[t + 1], params[t + 2], params[t + 3]
        for _ in range(steps - 1):
            first, second = _step(params, first, x), _step(params, second, x)
            third, fourth = _step(params, third, x), _step(params, fourth, x)
        for block in (first, second, third, fourth):
            compared = _compare(params, block, x, _own_features(params, block))
            scores = _last_step(params, compared, state)
            _add_scores(params, scores, params[forest + 3], sums)
    state[0] += n_classes
    best = 0
    for c in range(1, n_classes):
        if sums[c] > sums[best]:
            best = c
    return params[classes + 2 * best + 1]


@inline
def _add_scores(params, scores, n_scores, sums):  # type: ignore[no-untyped-def]
    for i in range(scores, scores + n_scores):
        sums[params[i] & CLASS_MASK] += params[i] >> CLASS_BITS


def _call_model(typing, address, params, model, state, x, values):  # type: ignore[no-untyped-def]
    """Call the function at `address` with the other arguments, and return its answer."""
    signature = types.int64(types.int64, WORDS, types.int64, WORDS, WORDS, WORDS)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where, *others = arguments
        code = ir.FunctionType(ir.IntType(64), [each.type for each in others])
        return builder.call(builder.inttoptr(where, code.as_pointer()), others)

    return signature, generate


call_model: Any = intrinsic(_call_model)
