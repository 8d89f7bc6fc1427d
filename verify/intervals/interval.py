"""Intervals of integers, both ends included; and what of an interval a table's cell matches.

An EXACT, RANGE or LPM cell matches an interval: numbers with one prefix follow each other, signed ones too.
A TERNARY cell may match scattered values; they are bounded by the least and the most.
"""

from collections.abc import Iterable

from kdtool.rmt import VALUE_MAX, VALUE_MIN

__all__ = ["Claims", "Interval", "clamp", "hull", "is_solid", "matched", "meet"]

Interval = tuple[int, int]
BITS = 32
SIGN, ALL_ONES = 1 << 31, (1 << BITS) - 1


class Claims(dict[str, Interval]):
    """What is claimed of each value, by its dotted name."""

    def add(self, name: str, interval: Interval) -> None:
        """Claim that the value called `name` may lie in `interval`, too."""
        known = self.get(name, interval)
        self[name] = min(known[0], interval[0]), max(known[1], interval[1])


def hull(intervals: Iterable[Interval]) -> Interval:
    """Return the smallest interval that holds all of `intervals`, one at least.

    >>> hull([(3, 4), (-1, 0)])
    (-1, 4)
    """
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


def meet(one: Interval, other: Interval) -> Interval | None:
    """Return what lies in both, None if nothing does."""
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, high) if low <= high else None


def clamp(interval: Interval, low: int = VALUE_MIN, high: int = VALUE_MAX) -> Interval:
    """Return where values of `interval` are once they are clamped to [low, high]."""
    return min(max(interval[0], low), high), min(max(interval[1], low), high)


def matched(match_type: str, cell: tuple[int, int], within: Interval) -> Interval | None:
    """Return the least and the largest value in `within` (32 bits, signed) that `cell` matches, if one does.

    >>> matched("LPM", (-256, 24), (-300, -250)), matched("TERNARY", (1, 3), (2, 12))
    ((-256, -250), (5, 9))
    """
    solid = _solid(match_type, cell)
    if solid is not None:
        return meet(solid, within)
    first, second = cell
    if first & ~second:
        return None  # it asks for a bit that its mask hides
    mask = second & ALL_ONES
    value = (first & ALL_ONES ^ SIGN) & mask
    low = _least(value, mask, within[0] + SIGN)
    high = _least(~value & mask, mask, ALL_ONES - within[1] - SIGN)
    found = (low - SIGN, ALL_ONES - high - SIGN)
    return found if within[0] <= found[0] <= found[1] <= within[1] else None


def is_solid(match_type: str, cell: tuple[int, int], within: Interval) -> bool:
    """Tell whether every value in `within`, whose ends are those that `matched` returns, matches."""
    if _solid(match_type, cell) is not None:
        return True
    # Where the ends differ first, both values of that bit occur, and of each bit below it.
    varying = (1 << ((within[0] + SIGN) ^ (within[1] + SIGN)).bit_length()) - 1
    return cell[1] & varying == 0


def _solid(match_type: str, cell: tuple[int, int]) -> Interval | None:
    """Return the interval that a cell matches, None for values that are scattered, or none at all."""
    first, second = cell
    if match_type in ("EXACT", "RANGE"):
        return cell
    if match_type == "TERNARY":
        mask = second & ALL_ONES
        hidden = ALL_ONES - mask
        if hidden & (hidden + 1) or first & ~second:
            return None
        second = mask.bit_count()
    size = 1 << BITS - second
    low = first & -size if second else -SIGN
    return low, low + size - 1


def _least(value: int, mask: int, low: int) -> int:
    """Return the least x >= low, both of 32 bits, with x & mask == value; 2**32 or more if there is none."""
    if low & mask == value:
        return low
    for bit in range(BITS):
        above = -1 << bit + 1
        carried = low & above | 1 << bit
        if not low >> bit & 1 and not (carried ^ value) & mask & (above | 1 << bit):
            return carried | value & ~above & ~(1 << bit)
    return 1 << BITS
