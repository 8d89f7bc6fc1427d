"""Training a small network that will be int8: backpropagation through what quantisation makes of it.

    samples / INPUT_SCALE --layer, ReLU, quantise--> .. --last layer--> a score a class --softmax--> loss

Each pass rounds the weights to multiples of their layer's largest / 127, and the values of a hidden layer to
multiples of the batch's largest / 127, as lowering will; the gradient takes both as if nothing was rounded
(the straight-through estimator). The weights that are kept are floats. What is random comes from one seed.
References: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013; Jacob et al.,
Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018;
Kingma and Ba, Adam, 2015.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdtool.rmt.lower_network import FloatLayer
from kdtool.rmt.networks import INT8_MAX

__all__ = ["best_classes", "new_layer", "train_network"]

BATCH_ROWS = 256
LEARNING_RATE = 0.004
MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam, as the paper proposes."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def new_layer(
    rng: np.random.Generator, n_weights: int, n_units: int, channels: int = 0, stride: int = 1
) -> FloatLayer:
    """Return a layer with random weights (He et al., 2015), a convolution if it has channels, and no bias."""
    weights = rng.normal(0, np.sqrt(2 / n_weights), (n_weights, n_units))
    return FloatLayer(weights, np.zeros(n_units), channels, stride)


def best_classes(layers: Sequence[FloatLayer], values: FloatArray) -> IntArray:
    """Return the number of the class with the largest score for each row of `values`, by floats alone."""
    for layer in layers[:-1]:
        values = np.maximum(layer.sums(values), 0)
    best: IntArray = layers[-1].sums(values).argmax(axis=1)
    return best


def train_network(
    layers: Sequence[FloatLayer], values: FloatArray, y: IntArray, n_steps: int, rng: np.random.Generator
) -> list[FloatLayer]:
    """Return `layers` after `n_steps` of Adam, with a rate that falls to 0, on batches drawn by `rng`.

    values : float64 (n_samples, n_inputs); y : int64 (n_samples,), the number of each sample's class
    """
    parameters = [each.copy() for layer in layers for each in (layer.weights, layer.biases)]
    moments = [(np.zeros_like(each), np.zeros_like(each)) for each in parameters]
    for step in range(1, n_steps + 1):
        rows = rng.integers(0, len(y), min(BATCH_ROWS, len(y)))
        gradients = _gradients(_with(layers, parameters), values[rows], y[rows])
        rate = LEARNING_RATE * (1 - (step - 1) / n_steps)
        for each, moment, gradient in zip(parameters, moments, gradients, strict=True):
            np.subtract(each, rate * _direction(*moment, gradient, step), out=each)
    return _with(layers, parameters)


def _direction(mean: FloatArray, square: FloatArray, gradient: FloatArray, step: int) -> FloatArray:
    """Take a gradient into the moments of one parameter; return Adam's direction at `step`, from 1 on."""
    mean += (1 - MEAN_DECAY) * (gradient - mean)
    square += (1 - SQUARE_DECAY) * (gradient**2 - square)
    size: FloatArray = np.sqrt(square / (1 - SQUARE_DECAY**step)) + EPSILON
    return mean / (1 - MEAN_DECAY**step) / size


def _with(layers: Sequence[FloatLayer], parameters: Sequence[FloatArray]) -> list[FloatLayer]:
    pairs = zip(parameters[::2], parameters[1::2], strict=True)
    return [
        FloatLayer(weights, biases, layer.channels, layer.stride)
        for layer, (weights, biases) in zip(layers, pairs, strict=True)
    ]


def _gradients(layers: Sequence[FloatLayer], values: FloatArray, y: IntArray) -> list[FloatArray]:
    """Return the gradient of the mean cross-entropy by weights and biases of each layer, in turn."""
    inputs, sums, rounded = [], [], [layer._replace(weights=_quantised(layer.weights)) for layer in layers]
    for layer in rounded:
        inputs.append(values)
        sums.append(layer.sums(values))
        values = _quantised(np.maximum(sums[-1], 0))
    scores = np.exp(sums[-1] - sums[-1].max(axis=1, keepdims=True))
    error = scores / scores.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    gradients: list[FloatArray] = []
    for number in reversed(range(len(layers))):
        layer = rounded[number]
        n_weights, n_units = layer.weights.shape
        at = error.reshape(len(y), -1, n_units)
        windows = layer.windows(inputs[number]).reshape(-1, n_weights)
        gradients[:0] = [windows.T @ at.reshape(-1, n_units), at.sum(axis=(0, 1))]
        if number:
            error = layer.spread(at @ layer.weights.T, inputs[number].shape[1]) * (sums[number - 1] > 0)
    return gradients


def _quantised(values: FloatArray) -> FloatArray:
    """Return the nearest multiples of the largest / 127, half to even."""
    step = float(np.abs(values).max()) / INT8_MAX or 1.0
    rounded: FloatArray = np.rint(values / step) * step
    return rounded
