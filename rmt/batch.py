"""A model's answers to many inputs at once, by the functions that the Numba VM decides with."""

import numpy as np
import numpy.typing as npt

from kdtool.rmt.jit import jit
from kdtool.rmt.models import Model
from kdtool.rmt.numba_models import call_model, sum_forest, walk_tree
from kdtool.rmt.packedmodels import INFER_NETWORK, INFER_TREE, model_words, pack_models
from kdtool.rmt.pointers import later, words

__all__ = ["answers"]


def answers(model: Model, X: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return what `model` answers to each row of X, of shape (n_rows, n_inputs): differences in pages."""
    packed: list[int] = []
    kind, at = pack_models(packed, [model], model.inputs)[model.name]
    state = np.zeros(1 + len(model.inputs) + model_words([model]), np.int64)
    out = np.zeros(len(X), np.int64)
    _answer_all(np.array(packed, np.int64), kind, at, state, np.ascontiguousarray(X, np.int64), out)
    return out


@jit()
def _answer_all(packed, kind, model, values, X, out):  # type: ignore[no-untyped-def]
    """Answer each row of X, copied to where a VM keeps its features; fill `out`."""
    params, state = words(packed), words(values)
    x = later(state, 1)
    n_inputs = X.shape[1]
    for row in range(len(X)):
        for i in range(n_inputs):
            x[i] = X[row, i]
        if kind == INFER_TREE:
            out[row] = walk_tree(params, model, state, x)
        elif kind == INFER_NETWORK:
            out[row] = call_model(params[model], params, model, state, x, later(x, n_inputs))
        else:
            out[row] = sum_forest(params, model, state, x, later(x, n_inputs))
