"""Models in the Numba VM: mirrors of `inference`, over `params` and `state` as laid out in `packed`.

x_at and sums_at : where in `state` the features lie, and the words in which a forest adds up
"""

from kdtool.rmt.jit import inner
from kdtool.rmt.packedmodels import NODE_WORDS

__all__ = ["sum_forest", "walk_tree"]


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
