"""From repeats to a number of the cost model: integers, the median and the quartiles by nearest rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdtool.errors import CapabilityError

__all__ = ["MIN_REPEATS", "OTHERS", "Number", "summarize"]

MIN_REPEATS = 3
"""Fewer tell nothing of the spread."""


@dataclass(frozen=True)
class Number:
    """A number, where it comes from, and how its repeats lay.

    value : what replay takes: the median, or 0 where noise made that negative
    quartiles : a quarter of the repeats is at most the first, three quarters at most the second
    """

    value: int
    source: str
    median: int
    quartiles: tuple[int, int]
    repeats: int

    def to_entry(self) -> dict[str, Any]:
        """Return the entry of a device file."""
        return {**vars(self), "quartiles": list(self.quartiles)}


OTHERS = "others swapped or read the device meanwhile: end them and try again, or give a longer --duration"


def summarize(field: str, samples: Sequence[int | None], source: str, else_why: str = OTHERS) -> Number:
    """Return the number that `samples`, one a repeat, stand for; None is a repeat that could not be used.

    else_why : why so few could be, and what to do, if they are too few

    Raises CapabilityError when fewer than MIN_REPEATS can be used.

    >>> summarize("cold_ns", [5, 1, None, 3, 4, 2], "a test")
    Number(value=3, source='a test', median=3, quartiles=(2, 4), repeats=5)
    """
    used = sorted(sample for sample in samples if sample is not None)
    if len(used) < MIN_REPEATS:
        raise CapabilityError(
            f"{field}: only {len(used)} of {len(samples)} repeats could be used, {else_why}"
        )
    median, low, high = (_rank(used, quarters) for quarters in (2, 1, 3))
    return Number(max(median, 0), source, median, (low, high), len(used))


def _rank(ordered: Sequence[int], quarters: int) -> int:
    """Return the smallest element that is not below `quarters` quarters of them."""
    return ordered[max(-(-quarters * len(ordered) // 4) - 1, 0)]
