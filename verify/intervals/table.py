"""What each entry of a table can get, of a box of values: what it matches and larger priorities leave.

The box that is left is a set of boxes. It is cut exactly while it is at most MAX_BOXES of them, and where an
entry matches scattered values nothing is cut away: an entry may then seem to get what another one takes,
never the other way round.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kdtool.rmt import Entry, Table
from kdtool.verify.intervals.interval import Interval, hull, is_solid, matched

__all__ = ["Box", "Shares", "share_out"]

MAX_BOXES = 16
MAX_ENTRIES = 8192
"""Of a larger table nothing is cut, or it would take seconds."""

Box = tuple[Interval, ...]


@dataclass(frozen=True)
class Shares:
    """entries : the smallest box around what each gets, None for nothing; rest : around the default's."""

    entries: tuple[Box | None, ...]
    rest: Box | None


def share_out(table: Table, box: Box) -> Shares:
    """Share `box`, an interval for each match field, out among the entries of `table`."""
    left, got = [box], [None] * len(table.entries)  # type: list[Box], list[Box | None]
    cuts = len(table.entries) <= MAX_ENTRIES
    for number, entry in sorted(enumerate(table.entries), key=lambda each: -each[1].priority):
        parts, rest = _take(table, entry, left)
        if parts:
            got[number] = _around(parts)
            if cuts and len(rest) <= MAX_BOXES:
                left = rest
    return Shares(tuple(got), _around(left) if left else None)


def _take(table: Table, entry: Entry, boxes: list[Box]) -> tuple[list[Box], list[Box]]:
    """Return what `entry` gets of each of `boxes`, and what remains."""
    parts: list[Box] = []
    rest: list[Box] = []
    for box in boxes:
        part = _match(table, entry, box)
        if part is None:
            rest.append(box)
            continue
        parts.append(part)
        kinds = (f.match_type for f in table.match_fields)
        if all(map(is_solid, kinds, entry.match, part)):
            rest += _without(box, part)
        else:
            rest.append(box)
    return parts, rest


def _match(table: Table, entry: Entry, box: Box) -> Box | None:
    part = []
    for f, cell, within in zip(table.match_fields, entry.match, box, strict=True):
        found = matched(f.match_type, cell, within)
        if found is None:
            return None
        part.append(found)
    return tuple(part)


def _without(box: Box, part: Box) -> Iterator[Box]:
    """Yield disjoint boxes that make up `box` without `part`, which lies in it."""
    for axis, ((low, high), (first, last)) in enumerate(zip(box, part, strict=True)):
        before, after = part[:axis], box[axis + 1 :]
        if low < first:
            yield (*before, (low, first - 1), *after)
        if last < high:
            yield (*before, (last + 1, high), *after)


def _around(boxes: list[Box]) -> Box:
    return tuple(hull(each) for each in zip(*boxes, strict=True))
