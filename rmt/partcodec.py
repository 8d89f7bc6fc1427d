"""Registers, features and tables of a program's file: each is checked against what was read before it."""

from dataclasses import dataclass

from kdtool.rmt.fields import Node
from kdtool.rmt.hooks import PAGE, Hook
from kdtool.rmt.program import (
    ACTION_NAMES,
    FEATURE_OPS,
    LIMITS,
    MATCH_TYPES,
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Entry,
    Feature,
    MatchField,
    Model,
    Register,
    Table,
)

__all__ = ["Scope", "read_feature", "read_register", "read_table"]

OLD_ACTIONS, OLD_OPS = ACTION_NAMES[:5], FEATURE_OPS[:3]
PARAMETERS = {
    "predict": "delta", "infer": "model", "follow": "feature", "count": "counter", "classify": "class_name",
}  # fmt: skip


@dataclass(frozen=True)
class Scope:
    """What names may refer to.

    is_old : the file is of version 1.1 or older, which has fewer keys
    """

    hook: Hook
    is_old: bool
    counters: tuple[str, ...]
    registers: tuple[Register, ...] = ()
    features: tuple[Feature, ...] = ()
    models: tuple[Model, ...] = ()


def read_register(node: Node, scope: Scope) -> Register:
    """Return a register; ProgramError names the place of what is wrong."""
    node.keys("name", "key", "size", "history", *(() if scope.is_old else ("records",)))
    size = node["size"].integer(1, LIMITS.register_size)
    if size & (size - 1):
        node["size"].refuse(f"{size} is not a power of two")
    key = tuple(item.text(scope.hook.field_names) for item in node["key"].items(4, 1))
    records = PAGE if scope.is_old else node["records"].text(scope.hook.recordable)
    return Register(node["name"].text(), key, size, node["history"].integer(2, LIMITS.history), records)


def read_feature(node: Node, scope: Scope) -> Feature:
    """Return a feature of one of the scope's registers, or of a field."""
    node.keys("name", "op", "register", "lag", *(() if scope.is_old else ("field",)))
    name, op = node["name"].text(), node["op"].text(OLD_OPS if scope.is_old else FEATURE_OPS)
    if name in scope.hook.field_names:
        node["name"].refuse(f"{name!r} is a context field: choose another name")
    if op == "field":
        field = node["field"].text(scope.hook.values)
        if node["register"].value != "":
            node["register"].refuse('a feature that is a field of the event has no register: give ""')
        return Feature(name, op, "", node["lag"].integer(0, 0), field)
    if not scope.is_old and node["field"].value != "":
        node["field"].refuse(f'a feature {op!r} is of a register: give ""')
    named = node["register"].text([r.name for r in scope.registers])
    register = next(r for r in scope.registers if r.name == named)
    if op == "value" and register.records not in scope.hook.values:
        node["op"].refuse(f"register {named!r} records {register.records!r}, an address: take a difference")
    return Feature(name, op, named, node["lag"].integer(int(op != "value"), register.history - 1))


def read_table(node: Node, scope: Scope) -> Table:
    """Return a table over the scope's features and the hook's values."""
    node.keys("name", "match_fields", "entries", "default_action")
    known = [*(f.name for f in scope.features), *scope.hook.values]
    match_fields = tuple(
        _match_field(item, known) for item in node["match_fields"].items(LIMITS.match_fields)
    )
    return Table(
        name=node["name"].text(),
        match_fields=match_fields,
        entries=tuple(_entry(item, match_fields, scope) for item in node["entries"].items(LIMITS.entries)),
        default_action=_action(node["default_action"], scope),
    )


def _match_field(node: Node, known: list[str]) -> MatchField:
    node.keys("name", "match_type", "bitwidth", "signed")
    if not node["signed"].flag():
        node["signed"].refuse("match fields are signed: give true")
    return MatchField(
        node["name"].text(known), node["match_type"].text(MATCH_TYPES), node["bitwidth"].integer(32, 32)
    )


def _entry(node: Node, match_fields: tuple[MatchField, ...], scope: Scope) -> Entry:
    node.keys("match", "priority", "action")
    pairs = []
    for item, match_field in zip(
        node["match"].items(len(match_fields), len(match_fields)), match_fields, strict=True
    ):
        pairs.append(_pair(item, match_field))
    return Entry(tuple(pairs), node["priority"].integer(1, VALUE_MAX), _action(node["action"], scope))


def _pair(node: Node, match_field: MatchField) -> tuple[int, int]:
    first, second = node.integers(2, VALUE_MIN - 1, VALUE_MAX)
    match match_field.match_type:
        case "RANGE" if first > second:
            node.refuse(f"low {first} is larger than high {second}")
        case "EXACT" if first != second:
            node.refuse(f"an EXACT pair repeats its value, got {first} and {second}")
        case "TERNARY" if first & ~second:
            node.refuse(f"value {first} has bits outside its mask {second}")
        case "LPM" if not 0 <= second <= 32 or first & ((1 << (32 - second)) - 1):
            node.refuse(f"prefix length {second} must be in [0, 32] and value {first} zero below it")
    return first, second


def _action(node: Node, scope: Scope) -> Action:
    parameters = list(PARAMETERS.values())[: 3 if scope.is_old else None]
    node.keys("name", *parameters)
    name = node["name"].text(OLD_ACTIONS if scope.is_old else ACTION_NAMES)
    delta = node["delta"].integer(VALUE_MIN, VALUE_MAX)
    if name == "predict" and delta == 0:
        node["delta"].refuse("a predicted difference of 0 pages: use stop")
    named = _named(node, name, scope)
    for owner, parameter in PARAMETERS.items():
        if parameter in parameters and owner != name and node[parameter].value not in (0, ""):
            node.refuse(f"action {name!r} takes no such parameter: it belongs to {owner!r}")
    if name in (("predict", "follow") if scope.hook.classes else ("classify",)):
        answered = "a class" if scope.hook.classes else "pages"
        node["name"].refuse(f"hook {scope.hook.name} answers {answered}, which {name!r} does not")
    return Action(name, delta, **named)


def _named(node: Node, name: str, scope: Scope) -> dict[str, str]:
    """Return the parameter of the action `name` that is a name, checked."""
    known = {
        "infer": [m.name for m in scope.models],
        "follow": [f.name for f in scope.features],
        "count": scope.counters,
        "classify": scope.hook.classes,
    }
    return {PARAMETERS[name]: node[PARAMETERS[name]].text(known[name])} if name in known else {}
