"""A program's tables and trees as the bytes of a map's value, which the code of its shape reads.

Every match becomes one of two unsigned comparisons of 64 bits: EXACT and RANGE are x - low <= width, LPM and
TERNARY are x & mask == value. A tree is laid out level by level, so that siblings are neighbours; a leaf is
its own left child and no feature is above its threshold: a walk of more steps than it is deep ends there.
"""

import struct

from kdtool.errors import ProgramError
from kdtool.rmt.bpf.layout import (
    CHILD_BIT,
    FEATURE_BIT,
    NODE_BYTES,
    POLICY_HEADER_BYTES,
    THRESHOLD_BIT,
    VALUE_BYTES,
    Layout,
    TableLayout,
)
from kdtool.rmt.bpf.shape import Shape, shape_of
from kdtool.rmt.program import VALUE_MAX, Action, Entry, MatchField, Program, Table, Tree

__all__ = ["INFER", "STOP", "pack_policy"]

CONSTANT, STOP, FOLLOW, INFER = range(4)
EVERYTHING = 2**64 - 1
LOW_32 = 2**32 - 1


def pack_policy(layout: Layout, program: Program, version: int) -> bytes:
    """Return the value of `policy` (layout.py), policy_bytes long, for `program` as number `version`.

    Raises ProgramError, naming what, when the program is not of the layout's shape or has no room in it.
    """
    _check_room(layout.shape, program)
    value = bytearray(layout.policy_bytes)
    header = struct.pack(
        "<QqqQ", version, 8 * program.guards.degree_pages, program.guards.delta_limit_pages, 0
    )
    value[:POLICY_HEADER_BYTES] = header
    features = [f.name for f in program.features]
    roots: dict[str, int] = {}
    n_nodes = 0
    for tree in program.models:
        roots[tree.name] = NODE_BYTES * n_nodes
        nodes, values = _nodes(tree, n_nodes, features)
        struct.pack_into(f"<{len(nodes)}q", value, layout.nodes + NODE_BYTES * n_nodes, *nodes)
        struct.pack_into(f"<{len(values)}i", value, layout.values + VALUE_BYTES * n_nodes, *values)
        n_nodes += len(nodes)
    for table, place in zip(program.tables, layout.tables, strict=True):
        value[place.offset : place.offset + place.size_bytes] = _region(table, place, features, roots)
    return bytes(value)


def _check_room(shape: Shape, program: Program) -> None:
    wanted = shape_of(program)
    if (wanted.registers, wanted.features) != (shape.registers, shape.features) or [
        table.match_fields for table in wanted.tables
    ] != [table.match_fields for table in shape.tables]:
        raise ProgramError(
            f"program {program.name!r} has other registers, features or match fields than the code that "
            f"runs: load it as a program of its own"
        )
    rooms = {
        "pages a decision": (wanted.degree_pages, shape.degree_pages),
        "tree nodes": (wanted.nodes, shape.nodes),
        "comparisons to a leaf": (wanted.depth, shape.depth),
    }
    for number, (table, has) in enumerate(zip(wanted.tables, shape.tables, strict=True)):
        rooms[f"entries in table {program.tables[number].name}"] = (table.entries, has.entries)
        rooms[f"inferring actions in table {program.tables[number].name}"] = (table.infers, has.infers)
    for what, (needs, has_room) in rooms.items():
        if needs > has_room:
            raise ProgramError(
                f"program {program.name!r} has {int(needs)} {what}, the code that runs has room for "
                f"{int(has_room)}: load it with this program among those to make room for"
            )


def _nodes(tree: Tree, root: int, features: list[str]) -> tuple[list[int], list[int]]:
    """Return a tree's nodes and values level by level; `root` is the number of the first."""
    order: list[int] = [0]
    nodes, values = [], []
    for place, node in enumerate(order):
        split, threshold, left, feature = tree.feature[node], VALUE_MAX, root + place, 0
        if split >= 0:
            threshold, left = tree.threshold[node], root + len(order)
            feature = features.index(tree.inputs[split])
            order += [tree.left[node], tree.right[node]]
        nodes.append(threshold << THRESHOLD_BIT | left << CHILD_BIT | feature << FEATURE_BIT)
        values.append(tree.value[node])
    return nodes, values


def _region(table: Table, place: TableLayout, features: list[str], roots: dict[str, int]) -> bytes:
    """Return a table's entries by falling priority, and its default action until the region is full."""
    ranked = sorted(table.entries, key=lambda entry: -entry.priority)
    packed = b"".join(
        _action(entry.action, features, roots) + _cells(table.match_fields, entry) for entry in ranked
    )
    default = _action(table.default_action, features, roots)
    for field in table.match_fields:
        default += struct.pack("<QQ", 0, EVERYTHING if field.match_type in ("EXACT", "RANGE") else 0)
    return packed + default * ((place.size_bytes - len(packed)) // place.stride)


def _action(action: Action, features: list[str], roots: dict[str, int]) -> bytes:
    kind, argument = CONSTANT, 0
    if action.name == "stop":
        kind = STOP
    elif action.name == "follow":
        kind, argument = FOLLOW, 8 * features.index(action.feature)
    elif action.name == "infer":
        kind, argument = INFER, roots[action.model]
    return struct.pack("<qII", action.delta, kind, argument)


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
