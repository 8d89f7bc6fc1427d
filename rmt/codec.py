"""Programs as files: `NAME.rmt.json`, versioned, hashed, checked before anything is allocated.

Reading a file from a stranger is safe: its size, version, hash, types, ranges, references and the
shape of its trees are checked, and every refusal names the place. What a well-formed program may cost
or decide is the business of `kdtool.verify`.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from kdtool.errors import ProgramError
from kdtool.rmt.fields import Node, parse_object
from kdtool.rmt.modelcodec import read_model
from kdtool.rmt.program import (
    ACTION_NAMES,
    CONTEXT_FIELDS,
    FEATURE_OPS,
    FORMAT,
    FORMAT_VERSION,
    HOOKS,
    LIMITS,
    MATCH_TYPES,
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Budget,
    Entry,
    Feature,
    Guards,
    MatchField,
    Model,
    Program,
    Register,
    Table,
)

__all__ = ["from_document", "program_sha256", "read_program", "to_document", "write_program"]


FIRST_VERSION = "1.0"
LIVE_GUARDS = ("rate_pages", "min_accuracy_permille")
"""What later versions have."""


def to_document(program: Program) -> dict[str, Any]:
    """Return the JSON document of `program`, with its `sha256`."""
    body = json.loads(json.dumps(asdict(program)))
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **body}
    return {**document, "sha256": _sha256(document)}


def program_sha256(program: Program) -> str:
    """Return the hash that identifies `program`."""
    return str(to_document(program)["sha256"])


def write_program(program: Program, path: Path | str) -> None:
    """Write `program` to `path` (`*.rmt.json`) through a temporary name, so that it is whole or absent.

    Raises ProgramError when the name does not end in .rmt.json, the file would be too large to be read, or
    it cannot be written.
    """
    target = Path(path)
    if not target.name.endswith(".rmt.json"):
        raise ProgramError(f"{target}: a program's name ends in .rmt.json: give -o {target.stem}.rmt.json")
    text = json.dumps(to_document(program), indent=1) + "\n"
    if len(text) > LIMITS.file_bytes:
        raise ProgramError(
            f"{target}: {len(text)} bytes, at most {LIMITS.file_bytes} can be read again: "
            f"train fewer or smaller trees"
        )
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ProgramError(f"{target}: cannot be written: {error.strerror}") from None


def read_program(path: Path | str) -> Program:
    """Read and check a program.

    Raises
    ------
    ProgramError
        Too large, not JSON, a float or NaN, a key twice, wrong version or hash, a missing or unknown
        key, a value or index out of range, a tree with a cycle.
    """
    source = Path(path)
    try:
        size_bytes = source.stat().st_size
        if size_bytes > LIMITS.file_bytes:
            raise ProgramError(
                f"{source}: {size_bytes} bytes, at most {LIMITS.file_bytes} are allowed: build fewer entries"
            )
        document = _parse(source.read_bytes())
    except OSError as error:
        raise ProgramError(f"{source}: {error.strerror}: give a file that `kdtool train` wrote") from None
    except ProgramError as error:
        raise ProgramError(
            str(error) if str(error).startswith(str(source)) else f"{source}: {error}"
        ) from None
    try:
        return from_document(document)
    except ProgramError as error:
        raise ProgramError(f"{source}: {error}") from None


def from_document(document: Any) -> Program:
    """Check a parsed document and build the program; every ProgramError names the place."""
    root = Node(document, "program")
    _check_version_and_hash(root)
    root.keys(
        "format", "format_version", "name", "hook", "registers", "features", "models", "tables", "guards",
        "budget", "provenance", "sha256",
    )  # fmt: skip
    registers = tuple(_register(item) for item in root["registers"].items(LIMITS.registers, 1))
    _unique(root["registers"], [r.name for r in registers])
    features = tuple(_feature(item, registers) for item in root["features"].items(LIMITS.features, 1))
    _unique(root["features"], [f.name for f in features])
    models = tuple(read_model(item, features) for item in root["models"].items(LIMITS.models))
    _unique(root["models"], [m.name for m in models])
    tables = tuple(_table(item, features, models) for item in root["tables"].items(LIMITS.tables, 1))
    _unique(root["tables"], [t.name for t in tables])
    budget = root["budget"].keys("steps", "state_bytes")
    return Program(
        name=root["name"].text(),
        hook=root["hook"].text(HOOKS),
        registers=registers,
        features=features,
        models=models,
        tables=tables,
        guards=_guards(root),
        budget=Budget(budget["steps"].integer(1, 2**40), budget["state_bytes"].integer(1, 2**40)),
        provenance=_provenance(root["provenance"]),
    )


def _guards(root: Node) -> Guards:
    node, first = root["guards"], root["format_version"].value == FIRST_VERSION
    node.keys("degree_pages", "delta_limit_pages", *(() if first else LIVE_GUARDS))
    degree = node["degree_pages"].integer(1, LIMITS.degree_pages)
    limit = node["delta_limit_pages"].integer(1, VALUE_MAX)
    if first:
        return Guards(degree, limit)
    rate = node["rate_pages"].integer(1, LIMITS.rate_pages)
    return Guards(degree, limit, rate, node["min_accuracy_permille"].integer(0, 1000))


def _parse(text: bytes) -> Any:
    def refuse(what: str) -> NoReturn:
        raise ProgramError(f"{what[:40]} is not an integer: programs hold integers only, no float, no NaN")

    try:
        return json.loads(text, parse_float=refuse, parse_constant=refuse, object_pairs_hook=parse_object)
    except RecursionError:
        raise ProgramError("nested too deeply to be a program") from None
    except ValueError as error:
        raise ProgramError(f"not JSON ({error})") from None


def _check_version_and_hash(root: Node) -> None:
    if not isinstance(root.value, dict) or root.value.get("format") != FORMAT:
        root.refuse(f"not a program: its `format` must be {FORMAT!r}")
    version = str(root.value.get("format_version"))
    if version.split(".", maxsplit=1)[0] != FORMAT_VERSION.split(".", maxsplit=1)[0]:
        root.refuse(
            f"format version {version[:20]}, this kdtool reads {FORMAT_VERSION}: use the kdtool that wrote it"
        )
    body = {key: value for key, value in root.value.items() if key != "sha256"}
    if "sha256" in root.value and root.value["sha256"] != _sha256(body):
        root.refuse("does not match its sha256: it was altered; train or build it again")


def _sha256(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _register(node: Node) -> Register:
    node.keys("name", "key", "size", "history")
    size = node["size"].integer(1, LIMITS.register_size)
    if size & (size - 1):
        node["size"].refuse(f"{size} is not a power of two")
    key = tuple(item.text(CONTEXT_FIELDS) for item in node["key"].items(4, 1))
    return Register(node["name"].text(), key, size, node["history"].integer(2, LIMITS.history))


def _feature(node: Node, registers: tuple[Register, ...]) -> Feature:
    node.keys("name", "op", "register", "lag")
    register = node["register"].text([r.name for r in registers])
    history = next(r.history for r in registers if r.name == register)
    name = node["name"].text()
    if name in CONTEXT_FIELDS:
        node["name"].refuse(f"{name!r} is a context field: choose another name")
    return Feature(name, node["op"].text(FEATURE_OPS), register, node["lag"].integer(1, history - 1))


def _table(node: Node, features: tuple[Feature, ...], models: tuple[Model, ...]) -> Table:
    node.keys("name", "match_fields", "entries", "default_action")
    known = [f.name for f in features] + ["major"]
    match_fields = tuple(
        _match_field(item, known) for item in node["match_fields"].items(LIMITS.match_fields)
    )
    return Table(
        name=node["name"].text(),
        match_fields=match_fields,
        entries=tuple(
            _entry(item, match_fields, features, models) for item in node["entries"].items(LIMITS.entries)
        ),
        default_action=_action(node["default_action"], features, models),
    )


def _match_field(node: Node, known: list[str]) -> MatchField:
    node.keys("name", "match_type", "bitwidth", "signed")
    if not node["signed"].flag():
        node["signed"].refuse("match fields are signed: give true")
    return MatchField(
        node["name"].text(known), node["match_type"].text(MATCH_TYPES), node["bitwidth"].integer(32, 32)
    )


def _entry(
    node: Node, match_fields: tuple[MatchField, ...], features: tuple[Feature, ...], models: tuple[Model, ...]
) -> Entry:
    node.keys("match", "priority", "action")
    pairs = []
    for item, match_field in zip(
        node["match"].items(len(match_fields), len(match_fields)), match_fields, strict=True
    ):
        pairs.append(_pair(item, match_field))
    return Entry(
        tuple(pairs), node["priority"].integer(1, VALUE_MAX), _action(node["action"], features, models)
    )


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


def _action(node: Node, features: tuple[Feature, ...], models: tuple[Model, ...]) -> Action:
    node.keys("name", "delta", "model", "feature")
    name = node["name"].text(ACTION_NAMES)
    delta = node["delta"].integer(VALUE_MIN, VALUE_MAX)
    model = node["model"].text([m.name for m in models]) if name == "infer" else ""
    if name == "predict" and delta == 0:
        node["delta"].refuse("a predicted difference of 0 pages: use stop")
    feature = node["feature"].text([f.name for f in features]) if name == "follow" else ""
    given = {"predict": delta, "infer": node["model"].value, "follow": node["feature"].value}
    for owner, value in given.items():
        if owner != name and value not in (0, ""):
            node.refuse(f"action {name!r} takes no such parameter: it belongs to {owner!r}")
    return Action(name, delta, model, feature)


def _provenance(node: Node) -> dict[str, str | int | list[str]]:
    if not isinstance(node.value, dict):
        node.refuse("expected an object")
    node.keys(*node.value)
    result: dict[str, str | int | list[str]] = {}
    for key in node.value:
        value = node[key].value
        if isinstance(value, list):
            result[key] = [item.text() for item in node[key].items(10_000)]
        elif isinstance(value, str | int) and not isinstance(value, bool):
            result[key] = value
        else:
            node[key].refuse("expected a string, an integer or a list of strings")
    return result


def _unique(node: Node, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        node.refuse(f"the name {twice[0]!r} is used twice")
