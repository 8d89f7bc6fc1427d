"""Tables: no two entries of one priority match one input, and none is hidden behind a larger one."""

import numpy as np
import numpy.typing as npt

from kdtool.rmt import Program, Table
from kdtool.verify.finding import Finding, proved, refuted, unknown

__all__ = ["MAX_ENTRIES", "check_table", "check_tables"]

MAX_ENTRIES = 8192
"""Pairs are compared all with all: 8192 entries are 67 million pairs, some seconds."""

BLOCK = 256
BoolMatrix = npt.NDArray[np.bool_]


def check_tables(program: Program) -> list[Finding]:
    """Check every table's entries against each other."""
    return [check_table(table) for table in program.tables]


def check_table(table: Table) -> Finding:
    """Look for two entries of one priority that match one input."""
    n_entries = len(table.entries)
    if n_entries > MAX_ENTRIES:
        return unknown(
            "entries", f"table {table.name}: {n_entries} entries, more than {MAX_ENTRIES} to compare"
        )
    if n_entries < 2 or not table.match_fields:
        return proved("entries", f"table {table.name}: {n_entries} entries, none overlaps another")
    pairs = np.array([entry.match for entry in table.entries], np.int64)
    priority = np.array([entry.priority for entry in table.entries], np.int64)
    kinds = [f.match_type for f in table.match_fields]
    for start in range(0, n_entries, BLOCK):
        rows = slice(start, min(start + BLOCK, n_entries))
        overlap = np.ones((rows.stop - start, n_entries), np.bool_)
        for f, kind in enumerate(kinds):
            overlap &= _overlap(kind, pairs[rows, f], pairs[:, f])
        same = overlap & (priority[rows, None] == priority[None, :])
        same[np.arange(rows.stop - start), np.arange(start, rows.stop)] = False
        if same.any():
            i, j = np.argwhere(same)[0]
            witness = f"entries {start + int(i)} and {int(j)}, priority {int(priority[j])}"
            return refuted("entries", f"table {table.name}: two entries of one priority overlap", witness)
    return proved("entries", f"table {table.name}: {n_entries} entries, none of one priority overlap")


def _overlap(kind: str, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> BoolMatrix:
    """Return whether cell a[i] and cell b[j] of one field match some common value."""
    first, second, other, last = a[:, None, 0], a[:, None, 1], b[None, :, 0], b[None, :, 1]
    if kind in ("RANGE", "EXACT"):
        result = (first <= last) & (other <= second)
    elif kind == "TERNARY":
        result = ((first ^ other) & second & last) == 0
    else:
        result = (((first ^ other) & 0xFFFFFFFF) >> (32 - np.minimum(second, last))) == 0
    return np.asarray(result, np.bool_)
