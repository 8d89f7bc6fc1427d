"""How long events waited until their pages were queued: counted by quarters of octaves, from 1 µs to 67 ms.

The mean would not do: a backlog of a moment, of milliseconds, says little of what most decisions met. Nor
does the median say all: one in ten may come too late.
"""

import math

import numpy as np
import numpy.typing as npt

from kdtool.rmt.jit import jit

__all__ = ["LAG_CLASSES", "lag_class", "lag_quantile_ns"]

LEAST_OCTAVE, OCTAVES = 10, 16
LAG_CLASSES = 4 * OCTAVES


@jit(nogil=True)
def lag_class(lag_ns):  # type: ignore[no-untyped-def]
    """Return which class a lag is of; what is shorter or longer than all of them goes to the first or last.

    >>> [int(lag_class(ns)) for ns in (0, 1024, 1279, 1280, 2048, 60_000, 1 << 40)]
    [0, 0, 0, 1, 4, 23, 63]
    """
    fraction, exponent = math.frexp(float(max(lag_ns, 1)))  # fraction * 2 ** exponent, from 0.5 to 1
    at = 4 * (exponent - 1 - LEAST_OCTAVE) + int(8 * fraction) - 4
    return min(max(at, 0), LAG_CLASSES - 1)


def lag_quantile_ns(counts: npt.NDArray[np.int64], part: float) -> int:
    """Return the middle of the class up to which `part` of the lags are, at most an eighth off; 0 of none.

    >>> counts = np.zeros(LAG_CLASSES, np.int64)
    >>> counts[[0, 23, 63]] = 2, 3, 1
    >>> [lag_quantile_ns(counts, part) for part in (0.5, 0.9)], lag_quantile_ns(0 * counts, 0.5)
    ([61440, 62914560], 0)
    """
    if not counts.any():
        return 0
    at = int(np.searchsorted(np.cumsum(counts), math.ceil(part * counts.sum())))
    octave, quarter = divmod(at, 4)
    return (2 * (4 + quarter) + 1 << LEAST_OCTAVE + octave) // 8
