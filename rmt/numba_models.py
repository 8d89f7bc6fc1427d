"""Models in the Numba VM: mirrors of `inference`, over `params` and `state` as laid out in `packed`.

A network's code is compiled when the first network is packed, and called by its address: no program without
one waits for it.

x_at and sums_at : where in `state` the features lie, and the words in which a forest adds up
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kdtool.rmt.jit import inner
from kdtool.rmt.packedmodels import NODE_WORDS

__all__ = ["call_model", "sum_forest", "walk_tree"]


@inner
def walk_tree(params, root, state, x_at):  # type: ignore[no-untyped-def]
    """Return the value of the leaf that x falls into."""
    node = root
    while params[node] >= 0:
        state[0] += 1
        side = 2 if state[x_at + params[node]] <= params[node + 1] else 3
        node = root + params[node + side] * NODE_WORDS
    return params[node + 4]


@inner
def sum_forest(params, forest, state, x_at, sums_at):  # type: ignore[no-untyped-def]
    """Return the answer of the class with the largest sum, the first of several."""
    n_classes, n_trees, classes = params[forest], params[forest + 1], forest + 2
    for c in range(n_classes):
        state[sums_at + c] = params[classes + 2 * c]
    for t in range(n_trees):
        scores = walk_tree(params, params[classes + 2 * n_classes + t], state, x_at)
        for i in range(params[scores]):
            state[sums_at + params[scores + 1 + 2 * i]] += params[scores + 2 + 2 * i]
        state[0] += params[scores]
    state[0] += n_classes
    best = 0
    for c in range(1, n_classes):
        if state[sums_at + c] > state[sums_at + best]:
            best = c
    return params[classes + 2 * best + 1]


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
