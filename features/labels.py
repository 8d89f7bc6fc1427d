"""What is learned: the next page of the same stream. The only place in the project that looks ahead."""

import numpy as np
import numpy.typing as npt

from kdtool.rmt import VALUE_MAX, VALUE_MIN

__all__ = ["next_deltas"]


def next_deltas(
    stream: npt.NDArray[np.int64], vpn: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return each event's distance in pages to the next event of its stream, and where there is one.

    `stream` and `vpn` have shape (n_events,); distances are clamped to the VM's range of values.

    >>> delta, known = next_deltas(np.array([0, 1, 0]), np.array([5, 100, 9]))
    >>> delta[known].tolist(), known.tolist()
    ([4], [True, False, False])
    """
    order = np.argsort(stream, kind="stable")
    same = stream[order][1:] == stream[order][:-1]
    delta = np.zeros(len(vpn), np.int64)
    known = np.zeros(len(vpn), np.bool_)
    ahead = np.diff(vpn[order])
    delta[order[:-1][same]] = np.clip(ahead[same], VALUE_MIN, VALUE_MAX)
    known[order[:-1][same]] = True
    return delta, known
