"""Networks of floats to int8, with the scales that samples show.

Inputs are the integers that the program will see (`shifted_inputs`): training on them divided by INPUT_SCALE
loses nothing to input rounding. A layer's weights are multiples of max|w| / 127, its biases of that times the
step of its inputs, and its values of the largest that a sample reaches / 127. Whatever is rounded is rounded
half to even.
"""

from collections.abc import Sequence
from math import frexp

import numpy as np
import numpy.typing as npt

from kdtool.errors import ProgramError
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, Dense, Network
from kdtool.rmt.program import VALUE_MAX

__all__ = ["INPUT_SCALE", "choose_shifts", "lower_network", "shifted_inputs"]

INPUT_SCALE = 64
"""An input of the float network is an int8 over this: within ±2."""
LEFT_BITS, RIGHT_BITS = 7, 31
COVERED_PERCENT = 99
"""So many samples of an input are not clamped."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def choose_shifts(X: npt.NDArray[np.integer]) -> tuple[int, ...]:
    """Return for each column of X, (n_samples, n_inputs), the shift that makes most of it fill int8."""
    reach = np.percentile(np.abs(X.astype(np.int64)), COVERED_PERCENT, axis=0)
    bits = [frexp(float(value))[1] - 7 for value in reach]
    return tuple(min(max(shift, -LEFT_BITS), RIGHT_BITS) for shift in bits)


def shifted_inputs(X: npt.NDArray[np.integer], shifts: Sequence[int]) -> IntArray:
    """Return X as the network's inputs are: shifted, rounded half to even, clamped to int8."""
    scaled = np.rint(X.astype(np.float64) * np.exp2(-np.array(shifts, np.float64)))
    return np.clip(scaled, INT8_MIN, INT8_MAX).astype(np.int64)


def lower_network(
    name: str,
    inputs: tuple[str, ...],
    shifts: Sequence[int],
    layers: Sequence[tuple[FloatArray, FloatArray]],
    classes: Sequence[int],
    samples: IntArray,
) -> Network:
    """Lower layers with ReLU between them, each (weights, biases) as scikit-learn keeps them.

    weights : of shape (n_inputs, n_outputs)
    samples : what `shifted_inputs` makes of training samples, from which the layers' scales are taken
    Raises ProgramError when a bias does not fit into 32 bits.
    """
    values, step, made = samples / INPUT_SCALE, 1 / INPUT_SCALE, []
    for number, (weights, biases) in enumerate(layers):
        weight_step = float(np.abs(weights).max()) / INT8_MAX or 1.0
        rows = np.rint(weights.T / weight_step).astype(np.int64)
        fixed = np.rint(biases / (step * weight_step))
        if np.abs(fixed).max() > VALUE_MAX or not np.isfinite(fixed).all():
            raise ProgramError(
                f"layer {number} has a bias of {np.abs(fixed).max():.3g} steps: train it longer"
            )
        scale = 0, 0
        if number < len(layers) - 1:
            values = np.maximum(values @ weights + biases, 0)
            next_step = float(values.max()) / INT8_MAX or 1.0
            scale = _multiplier(step * weight_step / next_step)
            step = next_step
        made.append(Dense(tuple(map(tuple, rows.tolist())), tuple(fixed.astype(np.int64).tolist()), *scale))
    return Network(name, inputs, tuple(shifts), tuple(made), tuple(int(answer) for answer in classes))


def _multiplier(ratio: float) -> tuple[int, int]:
    """Return (multiplier, shift), multiplier / 2**shift being `ratio` to 31 bits.

    >>> _multiplier(0.75), _multiplier(1e-30)
    ((1610612736, 31), (1, 62))
    """
    fraction, exponent = frexp(ratio)
    shift = min(max(31 - exponent, 1), 62)
    multiplier = round(fraction * 2.0 ** (exponent + shift))  # half to even
    return min(max(multiplier, 1), VALUE_MAX), shift
