"""The shape of a program: what its BPF code is made for. All else is data, replaceable while the code runs.

Code: registers, features, the match fields of each table. Room: pages a decision, entries a table, nodes and
depth of the trees, which tables may infer. Programs that share their code fit a shape with room for them all.
"""

from dataclasses import dataclass

from kdtool.errors import ProgramError
from kdtool.rmt.program import Feature, MatchField, Program, Register, Table

__all__ = ["Shape", "TableShape", "shape_of"]


@dataclass(frozen=True)
class TableShape:
    """A table's match fields, the entries that there is room for, and whether an action may infer."""

    match_fields: tuple[MatchField, ...]
    entries: int
    infers: bool


@dataclass(frozen=True)
class Shape:
    """What code is made for; `nodes` are those of all trees together, `depth` the deepest tree's."""

    registers: tuple[Register, ...]
    features: tuple[Feature, ...]
    tables: tuple[TableShape, ...]
    degree_pages: int
    nodes: int
    depth: int

    def depth_of(self, register: Register) -> int:
        """Return how many pages of a register's history any feature looks at."""
        return 1 + max((f.lag for f in self.features if f.register == register.name), default=0)


def shape_of(program: Program, *others: Program) -> Shape:
    """Return the smallest shape that has room for all of them.

    Raises ProgramError, naming what differs, when they cannot share their code.

    >>> from kdtool.rmt.examples import stride_program
    >>> shape_of(stride_program(), stride_program(degree_pages=8)).degree_pages
    8
    """
    for other in others:
        difference = _difference(program, other)
        if difference:
            raise ProgramError(
                f"program {other.name!r} differs from {program.name!r} in its {difference}: code made for "
                f"one cannot run the other; load it as a program of its own"
            )
    programs = (program, *others)
    tables = zip(*(p.tables for p in programs), strict=True)
    return Shape(
        registers=program.registers,
        features=program.features,
        tables=tuple(_room(versions) for versions in tables),
        degree_pages=max(p.guards.degree_pages for p in programs),
        nodes=max(sum(len(m.feature) for m in p.models) for p in programs),
        depth=max((m.depth for p in programs for m in p.models), default=0),
    )


def _difference(first: Program, second: Program) -> str:
    fields = [[t.match_fields for t in p.tables] for p in (first, second)]
    differs = {
        "registers": first.registers != second.registers,
        "features": first.features != second.features,
        "number of tables": len(first.tables) != len(second.tables),
        "match fields": fields[0] != fields[1],
    }
    return next((what for what, is_so in differs.items() if is_so), "")


def _room(versions: tuple[Table, ...]) -> TableShape:
    infers = any(
        action.name == "infer"
        for table in versions
        for action in (*(entry.action for entry in table.entries), table.default_action)
    )
    return TableShape(versions[0].match_fields, max(len(table.entries) for table in versions), infers)
