"""Models in the Numba VM: mirrors of `inference`, over `params` and `state` as laid out in `packed`.

A network's code is compiled when the first network is packed, and called by its address: no program without
one waits for it.

x_at and sums_at : where in `state` the features lie, and the words in which a forest adds up
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kdtool.rmt.jit import inline, inner
from kdtool.rmt.packedmodels import BLOCK_WORDS, CLASS_BITS, LOW_32, TREES_A_WALK

__all__ = ["call_model", "sum_forest", "walk_tree"]


CLASS_MASK = (1 << CLASS_BITS) - 1


@inline
def _step(params, block, x):  # type: ignore[no-untyped-def]
    """Return the block that comes next. No branch depends on x."""
    node, features, children = params[block], params[block + 1], params[block + 2]
    right = np.int64(x[features & 0xFFFF] > node >> 32)
    left_child = np.int64(x[features >> 16 & 0xFFFF] > children << 32 >> 32)
    right_child = np.int64(x[features >> 32 & 0xFFFF] > children >> 32)
    child = left_child ^ ((left_child ^ right_child) & -right)
    return (node & LOW_32) + BLOCK_WORDS * (2 * right + child)


@inline
def walk_tree(params, tree, state, x_at):  # type: ignore[no-untyped-def]
    """Return the value of the leaf that x falls into."""
    x, block = state[x_at:], (tree + 1) & LOW_32
    for _ in range(params[tree]):
        block = _step(params, block, x)
    leaf = params[block + 3]
    state[0] += leaf & LOW_32
    return leaf >> 32


@inner
def sum_forest(params, forest, state, x_at, sums_at):  # type: ignore[no-untyped-def]
    """Return the answer of the class with the largest sum, the first of several.

    Walks go on in turn, so that one waits for its loads while the others go on.
    """
    n_classes, n_trees, steps = params[forest], params[forest + 1], params[forest + 2]
    classes, x, sums = forest + 4, state[x_at:], state[sums_at:]
    for c in range(n_classes):
        sums[c] = params[classes + 2 * c]
    roots = classes + 2 * n_classes
    for t in range(roots, roots + n_trees, TREES_A_WALK):
        first, second = params[t] & LOW_32, params[t + 1] & LOW_32
        third, fourth = params[t + 2] & LOW_32, params[t + 3] & LOW_32
        for _ in range(steps):
            first, second = _step(params, first, x), _step(params, second, x)
            third, fourth = _step(params, third, x), _step(params, fourth, x)
        for block in (first, second, third, fourth):
            leaf = params[block + 3]
            state[0] += leaf & LOW_32
            _add_scores(params, leaf >> 32, params[forest + 3], sums)
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


def _call_model(  # type: ignore[no-untyped-def]
    typing, address, params, model, state, x_at, values_at
):
    """Call the function at `address` with the words of `params` and `state`, and return its answer."""
    signature = types.int64(types.int64, params, types.int64, state, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where, params, model, state, x_at, values_at = arguments
        words = [
            context.make_array(kind)(context, builder, array).data
            for kind, array in ((signature.args[1], params), (signature.args[3], state))
        ]
        word = ir.IntType(64)
        kinds = [words[0].type, word, words[1].type, word, word]
        function = builder.inttoptr(where, ir.FunctionType(word, kinds).as_pointer())
        return builder.call(function, [words[0], model, words[1], x_at, values_at])

    return signature, generate


call_model: Any = intrinsic(_call_model)
