"""Networks in the Numba VM: the mirror of `inference.run_network`, as a function that has an address."""

from numba import types

from kdtool.rmt.jit import addressed, inner
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, PRODUCTS_A_STEP
from kdtool.rmt.pointers import WORDS, later

__all__ = ["ADDRESS"]


@inner
def _round_shift(value, bits):  # type: ignore[no-untyped-def]
    if bits <= 0:
        return value << -bits
    odd = value >> bits & 1
    return (value + (1 << (bits - 1)) - 1 + odd) >> bits


@inner
def _shift_inputs(params, at, n_inputs, x, values):  # type: ignore[no-untyped-def]
    for i in range(n_inputs):
        value = _round_shift(x[params[at + 2 * i]], params[at + 2 * i + 1])
        values[i] = min(max(value, INT8_MIN), INT8_MAX)


@inner
def _run_layer(params, layer, state, source, target):  # type: ignore[no-untyped-def]
    """Compute a layer from the values at `source`; return where in params the next one begins."""
    n_units, n_weights, n_positions = params[layer], params[layer + 1], params[layer + 2]
    step, multiplier, shift = params[layer + 3], params[layer + 4], params[layer + 5]
    biases = layer + 6
    for position in range(n_positions):
        weights = biases + n_units
        for unit in range(n_units):
            total = params[biases + unit]
            for i in range(n_weights):
                total += params[weights + i] * source[position * step + i]
            weights += n_weights
            if multiplier != 0:
                total = min(max(_round_shift(total * multiplier, shift), 0), INT8_MAX)
            target[position * n_units + unit] = total
    state[0] += n_positions * n_units * (1 + (n_weights + PRODUCTS_A_STEP - 1) // PRODUCTS_A_STEP)
    return biases + n_units + n_units * n_weights


def _run_network(params, network, state, x, values):  # type: ignore[no-untyped-def]
    """Return the answer of the class with the largest sum, the first of several."""
    n_inputs, n_layers, width = params[network + 1], params[network + 2], params[network + 3]
    source, target = values, later(values, width)
    _shift_inputs(params, network + 4, n_inputs, x, source)
    state[0] += n_inputs
    at, n_classes = network + 4 + 2 * n_inputs, 0
    for _ in range(n_layers):
        n_classes = params[at] * params[at + 2]
        at = _run_layer(params, at, state, source, target)
        source, target = target, source
    best = 0
    for c in range(1, n_classes):
        if source[c] > source[best]:
            best = c
    return params[at + best]


ADDRESS: int = addressed(types.int64(WORDS, types.int64, WORDS, WORDS, WORDS), _run_network)
"""Where the code lies in this process: it means nothing in another, but in a fork."""
