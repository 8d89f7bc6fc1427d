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
    CHILDREN,
    LEFTS,
    NEXT_BIT,
    NODE,
    OWN,
    RIGHTS,
    SLOT_SHIFT,
    SPLIT_BITS,
    STEPS_BITS,
)
from kdtool.rmt.jit import inline, inner
from kdtool.rmt.packedmodels import CLASS_BITS, LOW_32, TREES_A_WALK
from kdtool.rmt.pointers import WORDS

__all__ = ["call_model", "sum_forest", "walk_tree"]


(NODE_WORD, NODE_BIT), (LEFT_WORD, LEFT_BIT), (RIGHT_WORD, RIGHT_BIT) = OWN
CLASS_MASK, FEATURE = (1 << CLASS_BITS) - 1, (1 << SPLIT_BITS) - 1
NEXT_SHIFT, NEXT = NEXT_BIT - BLOCK_WORDS.bit_length() + 1, 3 * BLOCK_WORDS
STEPS = (1 << STEPS_BITS) - 1
SIGNS = 64 - SLOT_SHIFT.bit_length()
"""Differences have no more than 33 bits. Shifted by 63, LLVM would take them for conditions, and branch."""


@inline
def _compare(params, block, x, features):  # type: ignore[no-untyped-def]
    """Return where the next four blocks begin, and how nodes compare: no branch depends on x.

    That is -1 where the walk goes right at the node, else 0; and of each child a difference, which is
    negative where it goes right there.
    """
    at_node, at_left, at_right = features
    node, children = params[block + NODE], params[block + CHILDREN]
    right = (node >> 32) - x[at_node] >> 63
    return node & LOW_32, right, (children << 32 >> 32) - x[at_left], (children >> 32) - x[at_right]


@inline
def _choose(left, right, mask):  # type: ignore[no-untyped-def]
    """Return `right` if mask is -1, `left` if it is 0."""
    return left ^ ((left ^ right) & mask)


@inline
def _own_features(params, block):  # type: ignore[no-untyped-def]
    return (
        params[block + NODE_WORD] >> NODE_BIT & FEATURE,
        params[block + LEFT_WORD] >> LEFT_BIT & FEATURE,
        params[block + RIGHT_WORD] >> RIGHT_BIT & FEATURE,
    )


@inline
def _named_features(slot):  # type: ignore[no-untyped-def]
    return slot & FEATURE, slot >> SPLIT_BITS & FEATURE, slot >> 2 * SPLIT_BITS & FEATURE


@inline
def _step(params, block, x):  # type: ignore[no-untyped-def]
    """Return the block that comes next. One walk alone would wait for its features, which walk_tree knows."""
    following, right, at_left, at_right = _compare(params, block, x, _own_features(params, block))
    child = _choose(at_left, at_right, right) >> 63
    return following + (right & 2 * BLOCK_WORDS) + (child & BLOCK_WORDS)


@inline
def _last_step(params, compared, state):  # type: ignore[no-untyped-def]
    """Return a leaf's value, and count its steps."""
    following, right, at_left, at_right = compared
    child = _choose(at_left, at_right, right) >> 63
    state[0] += params[following + CHILDREN] >> 32 + (right & 2 * STEPS_BITS) + (child & STEPS_BITS) & STEPS
    return params[following + LEFTS - right] << (child & 32) >> 32


@inline
def walk_tree(params, tree, state, x):  # type: ignore[no-untyped-def]
    """Return the value of the leaf that x falls into."""
    entry = tree + 1
    block, slot = entry + BLOCK_WORDS, params[entry + LEFTS]
    for _ in range(params[tree] - 1):
        following, right, at_left, at_right = _compare(params, block, x, _named_features(slot))
        lefts = params[block + LEFTS] >> (at_left >> SIGNS & SLOT_SHIFT)
        rights = params[block + RIGHTS] >> (at_right >> SIGNS & SLOT_SHIFT)
        slot = _choose(lefts, rights, right)
        block = following + (slot >> NEXT_SHIFT & NEXT)
    return _last_step(params, _compare(params, block, x, _named_features(slot)), state)


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
