"""A program's tables and models as the bytes of a map's value, which the code of its shape reads.

Every match becomes one of two unsigned comparisons of 64 bits: EXACT and RANGE are x - low <= width, LPM and
TERNARY are x & mask == value. Models are packed by `modeldata`.
"""

import struct

from kdtool.errors import ProgramError
from kdtool.rmt.bpf.layout import (
    POLICY_HEADER_BYTES,
    X_BYTES,
    Layout,
    TableLayout,
)
from kdtool.rmt.bpf.modeldata import Models, pack_models
from kdtool.rmt.bpf.shape import Shape, looked_at, shape_of, tree_bytes
from kdtool.rmt.program import Action, Entry, MatchField, Program, Table

__all__ = ["CONSTANT", "COUNT", "STOP", "pack_policy"]

CONSTANT, STOP, FOLLOW = range(3)
COUNT, CLASSIFY = 6, 7
"""After those of modeldata.py, which are 3 to 5."""
EVERYTHING = 2**64 - 1
LOW_32 = 2**32 - 1


def pack_policy(layout: Layout, program: Program, version: int) -> bytes:
    """Return the value of `policy` (layout.py), policy_bytes long, for `program` as number `version`.

    Raises ProgramError, naming what, when the program is not of the layout's shape or has no room in it.
    """
    _check_room(layout.shape, program)
    value = bytearray(layout.policy_bytes)
    guards, classes = program.guards, layout.shape.hook.classes
    default = classes.index(program.default_class) if classes else 0
    header = struct.pack("<QqqQ", version, 8 * guards.degree_pages, guards.delta_limit_pages, default)
    value[:POLICY_HEADER_BYTES] = header
    models = pack_models(value, layout, program)
    for table, place in zip(program.tables, layout.tables, strict=True):
        value[place.offset : place.offset + place.size_bytes] = _region(table, place, layout.shape, models)
    return bytes(value)


def _check_room(shape: Shape, program: Program) -> None:
    wanted = shape_of(program)
    if _code(wanted) != _code(shape):
        raise ProgramError(
            f"program {program.name!r} has another hook, or other counters, registers, features or match "
            f"fields than the code that runs: load it as a program of its own"
        )
    steps = max(wanted.steps, shape.steps), max(wanted.forests.steps, shape.forests.steps)
    rooms = {
        "pages a decision": (wanted.degree_pages, shape.degree_pages),
        "bytes of tree nodes": (tree_bytes(program, *steps), shape.tree_bytes),
        "pairs of comparisons to a leaf": (wanted.steps, shape.steps),
        "forests": (wanted.forests.forests, shape.forests.forests),
        "classes in a forest": (wanted.forests.classes, shape.forests.classes),
        "pairs of comparisons to a forest's leaf": (wanted.forests.steps, shape.forests.steps),
        "trees in forests": (wanted.forests.trees, shape.forests.trees),
        "leaves in forests": (wanted.forests.leaves, shape.forests.leaves),
        "scores in a forest's leaf": (wanted.forests.leaf_scores, shape.forests.leaf_scores),
        "networks": (wanted.networks.networks, shape.networks.networks),
        "values in a network": (wanted.networks.values, shape.networks.values),
        "inputs and sums in networks": (wanted.networks.rows, shape.networks.rows),
        "blocks of weights in networks": (wanted.networks.blocks, shape.networks.blocks),
        "classes in networks": (wanted.networks.classes, shape.networks.classes),
    }
    computed: set[int] = set()
    for number, (table, has) in enumerate(zip(wanted.tables, shape.tables, strict=True)):
        computed.update(has.features)
        not_computed = looked_at(program, program.tables[number]) - computed
        rooms[f"features that only table {program.tables[number].name} looks at"] = (len(not_computed), 0)
        rooms[f"entries in table {program.tables[number].name}"] = (table.entries, has.entries)
        rooms[f"actions with a tree in table {program.tables[number].name}"] = (table.trees, has.trees)
        rooms[f"actions with a network in table {program.tables[number].name}"] = (
            table.networks,
            has.networks,
        )
        rooms[f"actions with a forest in table {program.tables[number].name}"] = (table.forests, has.forests)
    for what, (needs, has_room) in rooms.items():
        if needs > has_room:
            raise ProgramError(
                f"program {program.name!r} has {int(needs)} {what}, the code that runs has room for "
                f"{int(has_room)}: load it with this program among those to make room for"
            )


def _code(shape: Shape) -> tuple[object, ...]:
    """Return the part of a shape that is code."""
    fields = [table.match_fields for table in shape.tables]
    return shape.hook, shape.counters, shape.registers, shape.features, fields


def _region(table: Table, place: TableLayout, shape: Shape, models: Models) -> bytes:
    """Return a table's entries by falling priority, and its default action until the region is full."""
    ranked = sorted(table.entries, key=lambda entry: -entry.priority)
    packed = b"".join(
        _action(entry.action, shape, models) + _cells(table.match_fields, entry) for entry in ranked
    )
    default = _action(table.default_action, shape, models)
    for field in table.match_fields:
        default += struct.pack("<QQ", 0, EVERYTHING if field.match_type in ("EXACT", "RANGE") else 0)
    return packed + default * ((place.size_bytes - len(packed)) // place.stride)


def _action(action: Action, shape: Shape, models: Models) -> bytes:
    answer, kind, argument = action.delta, CONSTANT, 0
    if action.name == "stop":
        kind = STOP
    elif action.name == "follow":
        kind, argument = FOLLOW, X_BYTES * [f.name for f in shape.features].index(action.feature)
    elif action.name == "infer":
        kind, argument = models[action.model]
    elif action.name == "count":
        kind, argument = COUNT, 8 * shape.counters.index(action.counter)
    elif action.name == "classify":
        answer, kind = shape.hook.classes.index(action.class_name), CLASSIFY
    return struct.pack("<qII", answer, kind, argument)


def _cells(match_fields: tuple[MatchField, ...], entry: Entry) -> bytes:
    return b"".join(
        struct.pack("<QQ", *_cell(field.match_type, *pair))
        for field, pair in zip(match_fields, entry.match, strict=True)
    )


def _cell(match_type: str, first: int, second: int) -> tuple[int, int]:
    """Return (low, width) or (mask, value).

    >>> _cell("RANGE", 3, 9), _cell("TERNARY", 2, 3), _cell("LPM", 256, 24)
    ((3, 6), (3, 2), (4294967040, 256))
    """
    if match_type in ("EXACT", "RANGE"):
        return first & EVERYTHING, second - first
    if match_type == "TERNARY":
        return second & EVERYTHING, first & EVERYTHING
    mask = LOW_32 << (32 - second) & LOW_32
    return mask, first & mask
