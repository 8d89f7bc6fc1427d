"""Small networks of integers: what a `Network` is made of, and the bounds of its sums.

    inputs --shift, clamp--> int8 --layer, requantise, ReLU--> int8 .. --last layer--> sums --> answer

Values of a Conv1d lie position by position, the channels of a position side by side: value c of position p is
number p * channels + c.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["INT8_MAX", "INT8_MIN", "PRODUCTS_A_STEP", "Conv1d", "Dense", "Layer", "Network", "Sum"]

INT8_MIN, INT8_MAX = -128, 127
PRODUCTS_A_STEP = 8
"""So many products take about as long as a comparison of a tree, which is a step."""


@dataclass(frozen=True)
class Sum:
    """One value of a layer: biases[unit] + the values from `first` on times weights[unit]."""

    unit: int
    first: int


@dataclass(frozen=True)
class Dense:
    """Each value is a sum over all values of the layer before.

    weights : a row of int8 for each value; biases : int32
    multiplier, shift : the value is sum * multiplier / 2**shift, rounded (see `inference`) and clamped to
        0 .. INT8_MAX; 0 and 0 in the last layer, whose sums are compared as they are
    """

    weights: tuple[tuple[int, ...], ...]
    biases: tuple[int, ...]
    multiplier: int
    shift: int

    def n_outputs(self, n_inputs: int) -> int:
        """Return how many values the layer has; 0 when it does not fit onto n_inputs."""
        return len(self.weights) if n_inputs == len(self.weights[0]) else 0

    def sums(self, n_inputs: int) -> Iterator[Sum]:
        """Yield the layer's values in order; n_inputs fits."""
        return (Sum(unit, 0) for unit in range(len(self.weights)))


@dataclass(frozen=True)
class Conv1d:
    """Filters over a window of positions, which moves by `stride` positions; no padding.

    channels : of the layer before, at each position
    weights : a row of int8 for each filter, kernel * channels long, position by position
    biases, multiplier, shift : as in Dense
    """

    channels: int
    stride: int
    weights: tuple[tuple[int, ...], ...]
    biases: tuple[int, ...]
    multiplier: int
    shift: int

    def n_outputs(self, n_inputs: int) -> int:
        """Return how many values the layer has; 0 when it does not fit onto n_inputs."""
        kernel, torn = divmod(len(self.weights[0]), self.channels)
        n_positions = n_inputs // self.channels
        if torn or n_inputs % self.channels or n_positions < kernel:
            return 0
        return len(self.weights) * ((n_positions - kernel) // self.stride + 1)

    def sums(self, n_inputs: int) -> Iterator[Sum]:
        """Yield the layer's values in order; n_inputs fits."""
        n_filters = len(self.weights)
        for position in range(self.n_outputs(n_inputs) // n_filters):
            first = position * self.stride * self.channels
            yield from (Sum(unit, first) for unit in range(n_filters))


Layer = Dense | Conv1d


@dataclass(frozen=True)
class Network:
    """Layers of integers; the answer is that of the class whose sum in the last layer is largest.

    Input j is shifted right by input_shifts[j] bits, rounded (left, if that is negative), and clamped to
    int8. Class c stands for the difference of `classes[c]` pages, 0 for no prediction; of equal sums the
    first wins.
    """

    name: str
    inputs: tuple[str, ...]
    input_shifts: tuple[int, ...]
    layers: tuple[Layer, ...]
    classes: tuple[int, ...]

    @property
    def widths(self) -> list[int]:
        """Return how many values each layer has, the inputs first."""
        widths = [len(self.inputs)]
        for layer in self.layers:
            widths.append(layer.n_outputs(widths[-1]))
        return widths

    @property
    def n_weights(self) -> int:
        """Return the number of weights of all layers."""
        return sum(len(layer.weights) * len(layer.weights[0]) for layer in self.layers)

    @property
    def steps(self) -> int:
        """Return the steps of an answer: inputs, sums, and products, PRODUCTS_A_STEP of a sum at a time."""
        widths = self.widths
        products = sum(
            n * -(-len(layer.weights[0]) // PRODUCTS_A_STEP)
            for layer, n in zip(self.layers, widths[1:], strict=True)
        )
        return sum(widths) + products

    def sum_bounds(self) -> list[tuple[int, int]]:
        """Return for each layer the smallest and the largest that any sum can be at any time, exactly."""
        low, bounds = INT8_MIN, []
        for layer in self.layers:
            ends = [_reach(row, bias, low) for row, bias in zip(layer.weights, layer.biases, strict=True)]
            bounds.append((min(least for least, _ in ends), max(most for _, most in ends)))
            low = 0  # after ReLU
        return bounds


def _reach(weights: Sequence[int], bias: int, low: int) -> tuple[int, int]:
    """Return the ends of bias + weights * values, values from `low` <= 0 to INT8_MAX, on the way as well."""
    products = [sorted((weight * low, weight * INT8_MAX)) for weight in weights]
    return bias + sum(least for least, _ in products), bias + sum(most for _, most in products)
