"""How many table entries a tree takes, counted before any is made, for each way of mapping it onto tables.

    range      one table, a range in each field: an entry a leaf
    encoded    a table a field turns its value into the number of its interval; one more, over those numbers,
               has an entry a leaf (Xiong and Zilberman, Do switches dream of machine learning?, HotNets 2019)
    node walk  a table a level, keyed by the node: an entry a split; the comparison is made by the action
    ternary    as range, where fields match by masks only: each range becomes prefixes, their numbers multiply

Unit of work: one tree. kdtool builds `range`; the others say what another target would take.
"""

from dataclasses import dataclass
from math import prod

from kdtool.rmt.lower import leaf_boxes
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN, Tree

__all__ = ["Mapping", "count_mappings", "n_prefixes"]

BITS = 32
OFFSET = 1 << 31


@dataclass(frozen=True)
class Mapping:
    """What one way takes: its entries, in how many tables one after another, and the widest key in bits."""

    name: str
    entries: int
    tables: int
    key_bits: int

    def fits(self, max_entries: int) -> bool:
        """Tell whether that many entries are enough."""
        return self.entries <= max_entries


def count_mappings(tree: Tree) -> list[Mapping]:
    """Return what each way takes for `tree`; a leaf without a prediction needs no entry.

    >>> from kdtool.rmt.examples import stride_program
    >>> for mapping in count_mappings(stride_program().models[0]):
    ...     print(mapping.name, mapping.entries, mapping.tables, mapping.key_bits)
    range 1 1 64
    encoded 5 2 2
    node walk 2 2 3
    ternary 120 1 64
    """
    boxes = [box for box, value in leaf_boxes(tree) if value]
    fields = sorted({split for split in tree.feature if split >= 0})
    cuts = {f: {t for s, t in zip(tree.feature, tree.threshold, strict=True) if s == f} for f in fields}
    code_bits = sum(len(found).bit_length() for found in cuts.values())
    splits = sum(split >= 0 for split in tree.feature)
    return [
        Mapping("range", len(boxes), 1, BITS * len(tree.inputs)),
        Mapping("encoded", sum(len(found) + 1 for found in cuts.values()) + len(boxes), 2, max(code_bits, 1)),
        Mapping("node walk", splits, max(tree.depth, 1), max(len(tree.feature).bit_length(), 1)),
        Mapping("ternary", sum(prod(map(_prefixes, box)) for box in boxes), 1, BITS * len(tree.inputs)),
    ]


def _prefixes(bounds: tuple[int, int]) -> int:
    """Return how many prefixes make up a range of signed numbers, open where it reaches the last of them."""
    low = 0 if bounds[0] <= VALUE_MIN else bounds[0] + OFFSET
    high = (1 << BITS) - 1 if bounds[1] == VALUE_MAX else bounds[1] + OFFSET
    return n_prefixes(low, high)


def n_prefixes(low: int, high: int) -> int:
    """Return the least number of aligned blocks of 2**k numbers that make up low .. high, both included.

    >>> n_prefixes(0, 255), n_prefixes(1, 14), n_prefixes(5, 5)
    (1, 6, 1)
    """
    count = 0
    while low <= high:
        aligned = low & -low if low else 1 << BITS
        while aligned > high - low + 1:
            aligned >>= 1
        low += aligned
        count += 1
    return count
