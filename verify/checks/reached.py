"""Reached: for every entry of every table there is an input that it may decide.

An entry that no value of its fields can match, that others take everything from, or that stands behind a
table which always decides is a mistake of whoever wrote it. Features count as independent of each other, so
that an entry which is not found here may still never be reached.
"""

from collections.abc import Mapping

from kdtool.rmt import Program, Table
from kdtool.verify.finding import Finding, proved, refuted
from kdtool.verify.intervals import Interval, walk_program

__all__ = ["check_reached"]


def check_reached(program: Program) -> list[Finding]:
    """Name the first entry of each table that is never reached, with the reason."""
    walk = walk_program(program)
    findings = []
    for table in program.tables:
        of_it = [each for each in walk.unreached if each.table == table.name]
        if not of_it:
            said = f"table {table.name}: {len(table.entries)} entries, each within reach of its fields"
            findings.append(proved("reached", f"{said}{_narrowed(table, walk.claims)}"))
        elif of_it[0].entry is None:
            findings.append(refuted("reached", f"table {table.name} is never asked", of_it[0].reason))
        else:
            more = f", nor are {len(of_it) - 1} others" if len(of_it) > 1 else ""
            said = f"table {table.name}: entry {of_it[0].entry} is never reached{more}"
            findings.append(refuted("reached", said, of_it[0].reason))
    return findings


def _narrowed(table: Table, claims: Mapping[str, Interval]) -> str:
    """Say what tables before leave of the fields."""
    left = {f.name: claims[f"tables.{table.name}.{f.name}"] for f in table.match_fields}
    said = [
        f"{name} in [{low}, {high}]"
        for name, (low, high) in left.items()
        if (low, high) != claims[f"values.{name}"]
    ]
    return f"; {', '.join(said)} is left to it" if said else ""
