"""Tables in the formats of P4Runtime: P4Info, what they are, and TableEntry updates, which fill them.

    Program of tables ──p4info()──► {"pkgInfo", "tables", "actions", "counters"}  protobuf's JSON of
                                                                                  config.v1.P4Info
                      ──updates()─► {"deviceId", "updates"}                       of v1.WriteRequest
    both ──tables_from_p4()──► the same tables
    p4info ──counters_from_p4()──► the same counters

P4 keys are unsigned bit strings, ours signed 32-bit integers: a number x becomes x + 2**31, so that order is
kept; in a ternary key that is the sign bit, flipped where the mask looks at it. What P4Runtime cannot say is
kept in annotations: a prefix whose priority is not its length is TERNARY there, and a table of exact keys has
no priorities. A counter is an indirect one of a single cell that counts packets; there is an action for each
counter, class and feature that an action names. Bytes are base64 of the shortest big-endian form.
Specification: P4Runtime 1.4.1, sections 6 (P4Info), 8.3 (bytestrings) and 9.1 (TableEntry).
Not exported: models (build tables of them first), registers and features, which P4Info has no words for here.
"""

import base64
import binascii
import re
from typing import Any

from kdtool.errors import ProgramError
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN, Action, Entry, MatchField, Program, Table

__all__ = ["counters_from_p4", "p4info", "tables_from_p4", "updates"]

TABLE_ID, ACTION_ID, COUNTER_ID = 0x02 << 24, 0x01 << 24, 0x12 << 24
"""The kind of an object is the first byte of its id: p4.config.v1.P4Ids.Prefix."""
BITS = 32
SIGN, ALL_ONES = 1 << 31, (1 << BITS) - 1
KEPT_TYPE = re.compile(r"@kdtool_match\((\w+)\)")
KEPT_PRIORITY = re.compile(r"@kdtool_priority\((\d+)\)")
DELTA = "delta"
NAMED = {"follow": "feature", "count": "counter", "classify": "class_name"}
"""Actions that are one in P4 for each name that their parameter may be: `count_hot`."""

Document = dict[str, Any]


def p4info(program: Program) -> Document:
    """Return what the tables of `program` are; ProgramError when one infers with a model."""
    actions = _action_names(program)
    return {
        "pkgInfo": {"name": program.name, "version": "1", "arch": "kdtool"},
        "tables": [_table_info(number, table, actions) for number, table in enumerate(program.tables, 1)],
        "actions": [_action_info(number, name) for number, name in enumerate(actions, 1)],
        **_counters(program),
    }


def updates(program: Program, device_id: int = 1) -> Document:
    """Return the updates that fill the tables of `program`: entries, and default actions."""
    actions = _action_names(program)
    found = []
    for number, table in enumerate(program.tables, 1):
        table_id = TABLE_ID | number
        for entry in table.entries:
            about: Document = {"tableId": table_id, "match": _matches(table, entry)}
            if not _is_exact(table):
                about["priority"] = entry.priority
            about["action"] = {"action": _action(entry.action, actions)}
            found.append({"type": "INSERT", "entity": {"tableEntry": about}})
        default = {"action": _action(table.default_action, actions)}
        about = {"tableId": table_id, "isDefaultAction": True, "action": default}
        found.append({"type": "MODIFY", "entity": {"tableEntry": about}})
    return {"deviceId": str(device_id), "updates": found}


def tables_from_p4(info: Document, write: Document) -> tuple[Table, ...]:
    """Return the tables that `p4info` and `updates` describe; ProgramError for what they did not make."""
    try:
        names = {action["preamble"]["id"]: action["preamble"]["name"] for action in info["actions"]}
        entries: dict[int, list[Document]] = {table["preamble"]["id"]: [] for table in info["tables"]}
        for update in write["updates"]:
            about = update["entity"]["tableEntry"]
            entries[about["tableId"]].append(about)
        return tuple(_read_table(table, entries[table["preamble"]["id"]], names) for table in info["tables"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, binascii.Error) as error:
        raise ProgramError(f"not tables that kdtool wrote ({error!r}): build --target p4runtime") from None


def counters_from_p4(info: Document) -> tuple[str, ...]:
    """Return the names of the counters that `p4info` describes; ProgramError for what it did not make."""
    try:
        return tuple(str(counter["preamble"]["name"]) for counter in info.get("counters", ()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ProgramError(f"not counters that kdtool wrote ({error!r}): build --target p4runtime") from None


def _action_names(program: Program) -> list[str]:
    """Return the actions that the tables use."""
    used = [entry.action for table in program.tables for entry in table.entries]
    used += [table.default_action for table in program.tables]
    models = sorted({action.model for action in used if action.name == "infer"})
    if models:
        raise ProgramError(
            f"program {program.name!r} infers with {models[0]!r}, which P4Runtime has no entry for: "
            f"build --target tables first"
        )
    return sorted({_action_name(action) for action in used})


def _action_name(action: Action) -> str:
    parameter = NAMED.get(action.name)
    return f"{action.name}_{getattr(action, parameter)}" if parameter else action.name


def _counters(program: Program) -> Document:
    """Return the key `counters`; protobuf's JSON leaves out what is empty."""
    found = [
        {
            "preamble": {"id": COUNTER_ID | number, "name": name, "alias": name},
            "spec": {"unit": "PACKETS"},
            "size": "1",
        }
        for number, name in enumerate(program.counters, 1)
    ]
    return {"counters": found} if found else {}


def _is_exact(table: Table) -> bool:
    """Tell whether keys alone say which entry matches: then P4Runtime has no priorities."""
    kinds = {each.match_type for each in table.match_fields}
    alike = len({entry.priority for entry in table.entries}) <= 1
    return (
        kinds == {"EXACT"} and alike and len({entry.match for entry in table.entries}) == len(table.entries)
    )


def _table_info(number: int, table: Table, actions: list[str]) -> Document:
    used = {_action_name(each.action) for each in table.entries} | {_action_name(table.default_action)}
    preamble: Document = {"id": TABLE_ID | number, "name": table.name, "alias": table.name}
    if _is_exact(table) and table.entries:
        preamble["annotations"] = [f"@kdtool_priority({table.entries[0].priority})"]
    exact = _is_exact(table)
    return {
        "preamble": preamble,
        "matchFields": [_field_info(at, each, exact) for at, each in enumerate(table.match_fields, 1)],
        "actionRefs": [{"id": ACTION_ID | actions.index(name) + 1} for name in sorted(used)],
        "size": str(max(len(table.entries), 1)),
    }


def _field_info(at: int, field: MatchField, exact: bool) -> Document:
    kind = field.match_type
    # A table with priorities has a ternary or range key; an exact one is a range of one number.
    said = {"LPM": "TERNARY", "EXACT": "EXACT" if exact else "RANGE"}.get(kind, kind)
    about: Document = {"id": at, "name": field.name, "bitwidth": BITS, "matchType": said}
    if said != kind:
        about["annotations"] = [f"@kdtool_match({kind})"]
    return about


def _action_info(number: int, name: str) -> Document:
    about: Document = {"preamble": {"id": ACTION_ID | number, "name": name, "alias": name}}
    if name == "predict":
        about["params"] = [{"id": 1, "name": DELTA, "bitwidth": BITS}]
    return about


def _matches(table: Table, entry: Entry) -> list[Document]:
    exact, cells = _is_exact(table), zip(table.match_fields, entry.match, strict=True)
    found = (_match(at, field, pair, exact) for at, (field, pair) in enumerate(cells, 1))
    return [match for match in found if match is not None]


def _match(at: int, field: MatchField, pair: tuple[int, int], exact: bool) -> Document | None:
    """Return the match of one field; None for one that matches everything, which P4Runtime leaves out."""
    first, second = pair
    if field.match_type in ("TERNARY", "LPM"):
        mask = second & ALL_ONES if field.match_type == "TERNARY" else ALL_ONES << BITS - second & ALL_ONES
        value = first & ALL_ONES ^ SIGN & mask
        return {"fieldId": at, "ternary": {"value": _bytes(value), "mask": _bytes(mask)}} if mask else None
    if exact:
        return {"fieldId": at, "exact": {"value": _bytes(first + SIGN)}}
    if first <= VALUE_MIN and second == VALUE_MAX:
        return None
    return {"fieldId": at, "range": {"low": _bytes(first + SIGN), "high": _bytes(second + SIGN)}}


def _action(action: Action, actions: list[str]) -> Document:
    about: Document = {"actionId": ACTION_ID | actions.index(_action_name(action)) + 1}
    if action.name == "predict":
        about["params"] = [{"paramId": 1, "value": _bytes(action.delta + SIGN)}]
    return about


def _bytes(value: int) -> str:
    """Return the shortest big-endian bytes of a number, one at least, in base64."""
    return base64.b64encode(value.to_bytes(max((value.bit_length() + 7) // 8, 1))).decode()


def _number(text: str) -> int:
    return int.from_bytes(base64.b64decode(text, validate=True))


def _signed(value: int) -> int:
    return value - (1 << BITS) if value & SIGN else value


def _read_table(about: Document, updates_of_it: list[Document], names: dict[int, str]) -> Table:
    """Return a table from its P4Info and its entries."""
    preamble, fields = about["preamble"], [_read_field(each) for each in about["matchFields"]]
    kept = KEPT_PRIORITY.fullmatch((preamble.get("annotations") or [""])[0])
    priority = int(kept[1]) if kept else 0
    defaults = [each for each in updates_of_it if each.get("isDefaultAction")]
    entries = tuple(
        Entry(_read_matches(fields, each["match"]), each.get("priority", priority), _read_action(each, names))
        for each in updates_of_it
        if not each.get("isDefaultAction")
    )
    return Table(preamble["name"], tuple(fields), entries, _read_action(defaults[0], names))


def _read_field(about: Document) -> MatchField:
    kept = KEPT_TYPE.fullmatch((about.get("annotations") or [""])[0])
    return MatchField(about["name"], kept[1] if kept else about["matchType"])


def _read_matches(fields: list[MatchField], found: list[Document]) -> tuple[tuple[int, int], ...]:
    by_field = {match["fieldId"]: match for match in found}
    return tuple(_read_match(field, by_field.get(at, {})) for at, field in enumerate(fields, 1))


def _read_match(field: MatchField, match: Document) -> tuple[int, int]:
    if field.match_type in ("TERNARY", "LPM"):
        mask = _number(match["ternary"]["mask"]) if match else 0
        value = _signed(_number(match["ternary"]["value"]) ^ SIGN & mask) if match else 0
        return value, mask.bit_count() if field.match_type == "LPM" else _signed(mask)
    if not match:
        return VALUE_MIN, VALUE_MAX
    if "exact" in match:
        value = _number(match["exact"]["value"]) - SIGN
        return value, value
    return _number(match["range"]["low"]) - SIGN, _number(match["range"]["high"]) - SIGN


def _read_action(about: Document, names: dict[int, str]) -> Action:
    action = about["action"]["action"]
    name = names[action["actionId"]]
    if name == "predict":
        return Action(name, delta=_number(action["params"][0]["value"]) - SIGN)
    kind, _, named = name.partition("_")
    parameter: dict[str, Any] = {NAMED[kind]: named} if kind in NAMED else {}
    return Action(kind, **parameter) if parameter else Action(name)
