"""Networks as data of a policy (layout.py): a row for each input and each sum, in the order they are made.

A value is (product + half + odd) >> shift: product = sum * multiplier, half = 2**(shift - 1) - 1, and odd the
last bit of product >> shift. The shift is at least 1: what is shifted by 0 bits or to the left is multiplied
by twice as much, and halved.
"""

import struct
from collections.abc import Iterator

from kdtool.rmt.bpf.layout import (
    ANSWER_BYTES,
    BLOCK_BYTES,
    LOW_BIT,
    NETWORK_BYTES,
    ROW_BYTES,
    Layout,
)
from kdtool.rmt.bpf.shape import WEIGHTS_A_BLOCK, weight_blocks
from kdtool.rmt.networks import INT8_MIN, Network
from kdtool.rmt.networks import Layer as NetworkLayer

__all__ = ["Networks"]

Row = tuple[int, int, int, int, int, int, int, int]


class Networks:
    """The regions of networks, filled from the front."""

    def __init__(self, value: bytearray, layout: Layout, features: list[str]) -> None:
        self._value, self._layout, self._features = value, layout, features
        self._rows = self._blocks = self._answers = self._networks = 0

    def add(self, network: Network) -> int:
        """Add a network; return its offset."""
        first = ROW_BYTES * self._rows
        for number, (name, shift) in enumerate(zip(network.inputs, network.input_shifts, strict=True)):
            self._add_row(_input_row(8 * self._features.index(name), 8 * number, shift))
        end_of_inputs = ROW_BYTES * self._rows
        source = 0
        for layer, width in zip(network.layers, network.widths, strict=False):
            for row in self._layer_rows(layer, source, width):
                self._add_row(row)
            source += width
        answers = ANSWER_BYTES * self._answers
        at = self._layout.answers + answers
        struct.pack_into(f"<{len(network.classes)}q", self._value, at, *network.classes)
        self._answers += len(network.classes)
        offset = NETWORK_BYTES * self._networks
        self._networks += 1
        words = (
            first,
            end_of_inputs,
            ROW_BYTES * self._rows,
            8 * source,
            answers,
            ANSWER_BYTES * self._answers,
        )
        struct.pack_into("<6Q", self._value, self._layout.networks + offset, *words)
        return offset

    def _layer_rows(self, layer: NetworkLayer, source: int, width: int) -> Iterator[Row]:
        """Add a layer's weights; yield its rows, over the `width` values from number `source` on."""
        starts = [self._add_weights(row) for row in layer.weights]
        size = BLOCK_BYTES * weight_blocks(layer)
        for number, each in enumerate(layer.sums(width)):
            start = starts[each.unit]
            half = (1 << (layer.shift - 1)) - 1 if layer.shift else 0
            yield (
                8 * (source + each.first), 8 * (source + width + number), layer.biases[each.unit],
                start, start + size, layer.multiplier, layer.shift, half,
            )  # fmt: skip

    def _add_weights(self, weights: tuple[int, ...]) -> int:
        """Add a unit's weights, filled up to whole blocks; return their offset."""
        start = BLOCK_BYTES * self._blocks
        struct.pack_into(f"<{len(weights)}q", self._value, self._layout.weights + start, *weights)
        self._blocks += -(-len(weights) // WEIGHTS_A_BLOCK)
        return start

    def _add_row(self, row: Row) -> None:
        struct.pack_into("<8q", self._value, self._layout.rows + ROW_BYTES * self._rows, *row)
        self._rows += 1


def _input_row(source: int, target: int, shift: int) -> Row:
    multiplier, right = (1, shift) if shift > 0 else (2 << -shift, 1)
    return source, INT8_MIN << LOW_BIT | target, 0, 0, 0, multiplier, right, (1 << (right - 1)) - 1
