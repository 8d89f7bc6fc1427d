"""Quantiles of latencies in bounded memory: an integer histogram whose buckets are 1/1024 wide.

    value  0 1 ... 2047   2048 2050 ... 4094   4096 4100 ... 8188   ...
    width  1              2                    4

Values below 2048 are exact; of larger ones the quantile is the lowest value of its bucket: at most 1/1024
(0.1 %) below the exact one. The bucketing is that of HdrHistogram (G. Tene), with 10 bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Histogram", "bit_lengths"]

BITS = 10
N_BUCKETS = (63 - BITS + 1) << BITS

Integers = npt.NDArray[np.int64]


class Histogram:
    """Counts of values of at least 0 and less than 2**63.

    State: 432 KiB, whatever was counted.

    >>> latencies = Histogram()
    >>> latencies.add(np.array([5, 7, 7, 100_000]))
    >>> latencies.quantile(50), latencies.quantile(99), latencies.largest
    (7, 99968, 100000)
    """

    def __init__(self) -> None:
        self._counts = np.zeros(N_BUCKETS, np.int64)
        self.count = self.largest = 0

    def add(self, values: Integers) -> None:
        """Count values."""
        if not len(values):
            return
        self._counts += np.bincount(_buckets(values), minlength=N_BUCKETS)
        self.count += len(values)
        self.largest = max(self.largest, int(values.max()))

    def quantile(self, percent: int) -> int:
        """Return the least value that `percent` % of all are not above, as said at the head of the module.

        ValueError when nothing was counted.
        """
        if not self.count:
            raise ValueError("a quantile of nothing")
        rank = max(1, -(-self.count * percent // 100))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        shift = max(0, (bucket >> BITS) - 1)
        return (bucket - (shift << BITS)) << shift

    def document(self) -> dict[str, Any]:
        """Return how many there are, quantiles and the largest, exact one; None for each without any."""
        if not self.count:
            return {"count": 0, "p50": None, "p99": None, "max": None}
        return {
            "count": self.count,
            "p50": self.quantile(50),
            "p99": self.quantile(99),
            "max": self.largest,
        }


def _buckets(values: Integers) -> Integers:
    shift = np.maximum(bit_lengths(values) - (BITS + 1), 0)
    return (shift << BITS) + (values >> shift)


def bit_lengths(values: Integers) -> Integers:
    """Return how many bits each value of at least 0 has, as int.bit_length.

    >>> bit_lengths(np.array([0, 1, 2, 255, 256, 2**60 - 1])).tolist()
    [0, 1, 2, 8, 9, 60]
    """
    _, exponents = np.frexp(values)
    lengths = exponents.astype(np.int64)
    # A float rounds 2**60 - 1 up to 2**60: such a value has a bit less.
    lengths -= (values > 0) & (values >> np.maximum(lengths - 1, 0) == 0)
    return lengths
