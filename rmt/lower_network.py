"""Networks of floats to int8, with the scales that samples show.

Inputs are the integers that the program will see (`shifted_inputs`): training on them divided by INPUT_SCALE
loses nothing to input rounding. A layer's weights are multiples of max|w| / 127, its biases of that times the
step of its inputs, and its values of the largest that a sample reaches / 127. Whatever is rounded is rounded
half to even.
"""

from collections.abc import Sequence
from math import frexp
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.errors import ProgramError
from kdtool.rmt.networks import INT8_MAX, INT8_MIN, Conv1d, Dense, Layer, Network
from kdtool.rmt.program import VALUE_MAX

__all__ = ["INPUT_SCALE", "FloatLayer", "choose_shifts", "lower_network", "shifted_inputs"]

INPUT_SCALE = 64
"""An input of the float network is an int8 over this: within ±2."""
LEFT_BITS, RIGHT_BITS = 7, 31
COVERED_PERCENT = 99
"""So many samples of an input are not clamped."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class FloatLayer(NamedTuple):
    """A layer before it is lowered: Dense, or with `channels` a Conv1d.

    weights : of shape (n_weights, n_units), as scikit-learn keeps them, a window's position by position
    biases : of shape (n_units,)
    """

    weights: FloatArray
    biases: FloatArray
    channels: int = 0
    stride: int = 1

    def windows(self, values: FloatArray) -> FloatArray:
        """Return what each sum is over: (n_samples, n_inputs) becomes (n_samples, n_positions, n_weights)."""
        firsts = self._firsts(values.shape[1])
        return np.stack([values[:, first : first + len(self.weights)] for first in firsts], axis=1)

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the layer's sums, (n_samples, n_outputs): position by position, units side by side."""
        made: FloatArray = self.windows(values) @ self.weights + self.biases
        return made.reshape(len(values), -1)

    def spread(self, windows: FloatArray, n_inputs: int) -> FloatArray:
        """Return for each input the sum of what the windows that it is in say of it: windows' transpose."""
        made = np.zeros((len(windows), n_inputs))
        for position, first in enumerate(self._firsts(n_inputs)):
            made[:, first : first + len(self.weights)] += windows[:, position]
        return made

    def _firsts(self, n_inputs: int) -> range:
        return range(0, n_inputs - len(self.weights) + 1, max(self.channels * self.stride, 1))


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
    layers: Sequence[FloatLayer],
    classes: Sequence[int],
    samples: IntArray,
) -> Network:
    """Lower layers with ReLU between them.

    samples : what `shifted_inputs` makes of training samples, from which the layers' scales are taken
    Raises ProgramError when a bias does not fit into 32 bits.
    """
    values, step, made = samples / INPUT_SCALE, 1 / INPUT_SCALE, []
    for number, layer in enumerate(layers):
        weight_step = float(np.abs(layer.weights).max()) / INT8_MAX or 1.0
        fixed = np.rint(layer.biases / (step * weight_step))
        if np.abs(fixed).max() > VALUE_MAX or not np.isfinite(fixed).all():
            raise ProgramError(
                f"layer {number} has a bias of {np.abs(fixed).max():.3g} steps: train it longer"
            )
        scale = 0, 0
        if number < len(layers) - 1:
            values = np.maximum(layer.sums(values), 0)
            next_step = float(values.max()) / INT8_MAX or 1.0
            scale = _multiplier(step * weight_step / next_step)
            step = next_step
        made.append(_lowered(layer, weight_step, fixed, *scale))
    return Network(name, inputs, tuple(shifts), tuple(made), tuple(int(answer) for answer in classes))


def _lowered(layer: FloatLayer, weight_step: float, fixed: FloatArray, multiplier: int, shift: int) -> Layer:
    rows = np.rint(layer.weights.T / weight_step).astype(np.int64).tolist()
    weights, biases = tuple(map(tuple, rows)), tuple(fixed.astype(np.int64).tolist())
    if layer.channels:
        return Conv1d(layer.channels, layer.stride, weights, biases, multiplier, shift)
    return Dense(weights, biases, multiplier, shift)


def _multiplier(ratio: float) -> tuple[int, int]:
    """Return (multiplier, shift), multiplier / 2**shift being `ratio` to 31 bits.

    >>> _multiplier(0.75), _multiplier(1e-30)
    ((1610612736, 31), (1, 62))
    """
    fraction, exponent = frexp(ratio)
    shift = min(max(31 - exponent, 1), 62)
    multiplier = round(fraction * 2.0 ** (exponent + shift))  # half to even
    return min(max(multiplier, 1), VALUE_MAX), shift
