"""How many entries a table that infers a tree takes, counted before any is made, for each way of mapping it.

    range      one table, a range in each field: an entry a leaf
    encoded    a table a field turns its value into the number of its interval; one more, over those numbers,
               has an entry a leaf (Xiong and Zilberman, Do switches dream of machine learning?, HotNets 2019)
    node walk  a table a level, keyed by the node: an entry a split; the comparison is made by the action
    ternary    as range, where fields match by masks only: each range becomes prefixes, their numbers multiply

The entries of the table that infers the tree are counted too: they stay above the tree's.
Unit of work: one table. kdtool builds `range`; the others say what another target would take.
"""

from dataclasses import dataclass
from math import prod

from kdtool.rmt.hooks import Hook
from kdtool.rmt.lower import answer_action, leaf_boxes
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN, Table, Tree

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


def count_mappings(table: Table, tree: Tree, hook: Hook) -> list[Mapping]:
    """Return what each way takes for `table`, whose default is to infer `tree`.

    A leaf that answers nothing at `hook` needs no entry.

    >>> from kdtool.rmt.examples import stride_program
    >>> from kdtool.rmt.hooks import find_hook
    >>> program = stride_program()
    >>> for mapping in count_mappings(program.tables[0], program.models[0], find_hook("mm.swapin")):
    ...     print(mapping.name, mapping.entries, mapping.tables, mapping.key_bits)
    range 2 1 128
    encoded 6 3 64
    node walk 3 3 64
    ternary 121 1 128
    """
    boxes = [box for box, value in leaf_boxes(tree) if answer_action(hook, value) is not None]
    fields = sorted({split for split in tree.feature if split >= 0})
    cuts = {f: {t for s, t in zip(tree.feature, tree.threshold, strict=True) if s == f} for f in fields}
    code_bits = sum(len(found).bit_length() for found in cuts.values())
    splits = sum(split >= 0 for split in tree.feature)
    encoded = sum(len(found) + 1 for found in cuts.values()) + len(boxes)
    ternary = sum(prod(map(_prefixes, box)) for box in boxes) + _ternary_entries(table)
    above, above_bits = len(table.entries), BITS * len(table.match_fields)
    before = 1 if above else 0
    bits = above_bits + BITS * len(tree.inputs)
    return [
        Mapping("range", above + len(boxes), 1, bits),
        Mapping("encoded", above + encoded, before + 2, max(code_bits, above_bits, 1)),
        Mapping(
            "node walk",
            above + splits,
            before + max(tree.depth, 1),
            max(len(tree.feature).bit_length(), above_bits, 1),
        ),
        Mapping("ternary", ternary, 1, bits),
    ]


def _ternary_entries(table: Table) -> int:
    """Return how many entries those of a table are where its ranges become prefixes."""
    is_range = [field.match_type == "RANGE" for field in table.match_fields]
    return sum(
        prod(_prefixes(cell) for cell, ranged in zip(entry.match, is_range, strict=True) if ranged)
        for entry in table.entries
    )


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
