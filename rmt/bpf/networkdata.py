"""Networks as data of a policy (layout.py): a row for each input and each two sums, in the order of making.

The two are those of neighbouring units: a word of weights is the first one's plus 2**32 times the second's.
No sum of products reaches 2**31: 1024 values of 8 bits are the most. Of an odd number of units the last is
paired with one of no weights, whose sum lies where the sum after it will be put, or behind all of them.

A value is (product + half + odd) >> shift: product = sum * multiplier, half = 2**(shift - 1) - 1, and odd the
last bit of product >> shift. The shift is at least 1: what is shifted by 0 bits or to the left is multiplied
by twice as much, and halved.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from kdtool.rmt.bpf.layout import (
    ANSWER_BYTES,
    NETWORK_BYTES,
    ROW_BYTES,
    WEIGHT_BLOCK_BYTES,
    X_BYTES,
    Layout,
)
from kdtool.rmt.bpf.shape import WEIGHTS_A_BLOCK, weight_blocks
from kdtool.rmt.networks import Layer as NetworkLayer
from kdtool.rmt.networks import Network

__all__ = ["Networks"]

Row = tuple[int, int, int, int, int, int, int, int, int]


class Networks:
    """The regions of networks, filled from the front."""

    def __init__(self, value: bytearray, layout: Layout, features: list[str]) -> None:
        self._value, self._layout, self._features = value, layout, features
        self._rows = self._blocks = self._answers = self._networks = 0

    def add(self, network: Network) -> int:
        """Add a network; return its offset."""
        first = ROW_BYTES * self._rows
        for number, (name, shift) in enumerate(zip(network.inputs, network.input_shifts, strict=True)):
            self._add_row(*_input_row(X_BYTES * self._features.index(name), 8 * number, shift))
        end_of_inputs = ROW_BYTES * self._rows
        source = 0
        for layer, width in zip(network.layers, network.widths, strict=False):
            for row in self._layer_rows(layer, source, width):
                self._add_row(*row)
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
        none = (0,) * len(layer.weights[0])
        pairs = list(zip_longest(layer.weights[::2], layer.weights[1::2], fillvalue=none))
        starts = [self._add_weights(*pair) for pair in pairs]
        size = WEIGHT_BLOCK_BYTES * weight_blocks(layer)
        half = (1 << (layer.shift - 1)) - 1 if layer.shift else 0
        for number, each in enumerate(layer.sums(width)):
            if each.unit % 2 == 0:
                first, second = (*layer.biases[each.unit : each.unit + 2], 0)[:2]
                start = starts[each.unit // 2]
                yield (
                    8 * (source + each.first), 8 * (source + width + number), first, second,
                    start, start + size, layer.multiplier, layer.shift, half,
                )  # fmt: skip

    def _add_weights(self, first: Sequence[int], second: Sequence[int]) -> int:
        """Add two units' weights, filled up to whole blocks; return their offset."""
        start = WEIGHT_BLOCK_BYTES * self._blocks
        words = [a + (b << 32) for a, b in zip(first, second, strict=True)]
        struct.pack_into(f"<{len(words)}q", self._value, self._layout.weights + start, *words)
        self._blocks += -(-len(words) // WEIGHTS_A_BLOCK)
        return start

    def _add_row(self, *row: int) -> None:
        struct.pack_into("<2q2i5q", self._value, self._layout.rows + ROW_BYTES * self._rows, *row)
        self._rows += 1


def _input_row(source: int, target: int, shift: int) -> Row:
    multiplier, right = (1, shift) if shift > 0 else (2 << -shift, 1)
    return source, target, 0, 0, 0, 0, multiplier, right, (1 << (right - 1)) - 1
