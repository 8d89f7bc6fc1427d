"""From repeats to a number of the cost model: integers, the median and the quartiles by nearest rank.

What comes in spells is a mean: a program that writes for a second pays for all of them, and short repeats
fall into one or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from kdtool.errors import CapabilityError

__all__ = ["IN_SPELLS", "MIN_REPEATS", "OTHERS", "Number", "summarize"]

MIN_REPEATS = 3
"""Fewer tell nothing of the spread."""
IN_SPELLS = ("writeout_ns",)
"""2.5 us of CPU time a page, and for some 10 to 50 ms 15 (virtual disk, Linux 6.18: docs/deploy-notes.md)."""


@dataclass(frozen=True)
class Number:
    """A number, where it comes from, and how its repeats lay.

    value : what replay takes: the median, of IN_SPELLS the mean, or 0 where noise made that negative
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
    >>> summarize("writeout_ns", [2, 2, 8], "a test").value
    4
    """
    used = sorted(sample for sample in samples if sample is not None)
    if len(used) < MIN_REPEATS:
        raise CapabilityError(
            f"{field}: only {len(used)} of {len(samples)} repeats could be used, {else_why}"
        )
    median, low, high = (_rank(used, quarters) for quarters in (2, 1, 3))
    value = round(mean(used)) if field in IN_SPELLS else median
    return Number(max(value, 0), source, median, (low, high), len(used))


def _rank(ordered: Sequence[int], quarters: int) -> int:
    """Return the smallest element that is not below `quarters` quarters of them."""
    return ordered[max(-(-quarters * len(ordered) // 4) - 1, 0)]
