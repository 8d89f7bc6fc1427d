"""Programs as files: `NAME.rmt.json`, versioned, hashed, checked before anything is allocated.

Reading a file from a stranger is safe: its size, version, hash, types, ranges, references and the
shape of its trees are checked, and every refusal names the place. What a well-formed program may cost
or decide is the business of `kdtool.verify`.
"""

import hashlib
import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from kdtool.errors import ProgramError
from kdtool.rmt.fields import Node, parse_object
from kdtool.rmt.hooks import HOOKS, Hook, find_hook
from kdtool.rmt.modelcodec import read_model
from kdtool.rmt.partcodec import Scope, read_feature, read_register, read_table
from kdtool.rmt.program import FORMAT, FORMAT_VERSION, LIMITS, VALUE_MAX, Budget, Guards, Program

__all__ = [
    "check_program_target",
    "from_document",
    "program_sha256",
    "read_program",
    "to_document",
    "write_program",
]


FIRST_VERSION, PAGES_VERSIONS = "1.0", ("1.0", "1.1")
"""Of the latter: they knew mm.swapin alone."""
VERSIONS = (*PAGES_VERSIONS, FORMAT_VERSION)
LIVE_GUARDS = ("rate_pages", "min_accuracy_permille")
ANSWER_KEYS = ("counters", "default_class")
"""What later versions have."""


def to_document(program: Program) -> dict[str, Any]:
    """Return the JSON document of `program`, with its `sha256`."""
    body = json.loads(json.dumps(program, default=vars))  # of each dataclass
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **body}
    return {**document, "sha256": _sha256(document)}


def program_sha256(program: Program) -> str:
    """Return the hash that identifies `program`."""
    return str(to_document(program)["sha256"])


def check_program_target(path: Path | str) -> None:
    """Refuse, before hours of training, a file that write_program() could not write after them.

    Raises ProgramError for a name that does not end in .rmt.json or is too long, for what is there and no
    regular file, and where the folder can be neither written nor made.
    """
    target = Path(path)
    if not target.name.endswith(".rmt.json"):
        raise ProgramError(f"{target}: a program's name ends in .rmt.json: give -o {target.stem}.rmt.json")
    folder = target.parent
    while not os.path.lexists(folder):  # those that are missing will be made
        folder = folder.parent
    writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    if not writable or (os.path.exists(target) and not os.path.isfile(target)):
        raise ProgramError(f"{target}: cannot be written: give another name or folder by -o")
    try:
        with suppress(FileNotFoundError):  # as it should be
            os.lstat(folder / _partial(target).name)
    except OSError as error:
        raise ProgramError(f"{target}: cannot be written: {error.strerror}: give another by -o") from None


def write_program(program: Program, path: Path | str) -> None:
    """Write `program` to `path` (`*.rmt.json`) through a temporary name, so that it is whole or absent.

    Raises ProgramError when check_program_target() does, the file would be too large to be read, or it cannot
    be written.
    """
    target = Path(path)
    check_program_target(target)
    text = json.dumps(to_document(program), indent=1) + "\n"
    if len(text) > LIMITS.file_bytes:
        raise ProgramError(
            f"{target}: {len(text)} bytes, at most {LIMITS.file_bytes} can be read again: "
            f"train fewer or smaller trees"
        )
    partial = _partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(target)
    except OSError as error:
        raise ProgramError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-{os.getpid()}")


def read_program(path: Path | str) -> Program:
    """Read and check a program.

    Raises
    ------
    ProgramError
        No regular file, too large, not JSON, a float or NaN, a key twice, wrong version or hash, a missing or
        unknown key, a value or index out of range, a tree with a cycle.
    """
    source = Path(path)
    try:
        _check_kind_and_size(source)
        document = _parse(source.read_bytes())
        return from_document(document)
    except OSError as error:
        raise ProgramError(f"{source}: {error.strerror}: give a file that `kdtool train` wrote") from None
    except ProgramError as error:
        raise ProgramError(f"{source}: {error}") from None


def _check_kind_and_size(source: Path) -> None:
    """Refuse what has no end, such as a device, waits for a writer, such as a pipe, or is too large."""
    status = source.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # of a folder, reading says it
        raise ProgramError("is not a regular file: give a file that `kdtool train` wrote")
    if status.st_size > LIMITS.file_bytes:
        raise ProgramError(
            f"{status.st_size} bytes, at most {LIMITS.file_bytes} are allowed: build fewer entries"
        )


def from_document(document: Any) -> Program:
    """Check a parsed document and build the program; every ProgramError names the place."""
    root = Node(document, "program")
    _check_version_and_hash(root)
    is_old = root["format_version"].value in PAGES_VERSIONS
    root.keys(
        "format", "format_version", "name", "hook", "registers", "features", "models", "tables", "guards",
        "budget", "provenance", "sha256", *(() if is_old else ANSWER_KEYS),
    )  # fmt: skip
    hook = find_hook(root["hook"].text([each.name for each in (HOOKS[:1] if is_old else HOOKS)]))
    scope = Scope(hook, is_old, counters=() if is_old else _counters(root["counters"]))
    registers = tuple(read_register(item, scope) for item in root["registers"].items(LIMITS.registers, 1))
    _unique(root["registers"], [r.name for r in registers])
    scope = replace(scope, registers=registers)
    features = tuple(read_feature(item, scope) for item in root["features"].items(LIMITS.features, 1))
    _unique(root["features"], [f.name for f in features])
    models = tuple(read_model(item, features) for item in root["models"].items(LIMITS.models))
    _unique(root["models"], [m.name for m in models])
    scope = replace(scope, features=features, models=models)
    tables = tuple(read_table(item, scope) for item in root["tables"].items(LIMITS.tables, 1))
    _unique(root["tables"], [t.name for t in tables])
    budget = root["budget"].keys("steps", "state_bytes")
    return Program(
        name=_name(root["name"]),
        hook=hook.name,
        registers=registers,
        features=features,
        models=models,
        tables=tables,
        guards=_guards(root, hook),
        budget=Budget(budget["steps"].integer(1, 2**40), budget["state_bytes"].integer(1, 2**40)),
        provenance=_provenance(root["provenance"]),
        counters=scope.counters,
        default_class="" if is_old else _default_class(root["default_class"], hook),
    )


def _name(node: Node) -> str:
    """Return the program's name, after which `kdtool build` names files."""
    name = node.text()
    if "/" in name:
        node.refuse(f"{name[:40]!r} has a '/': files are named after it: give a name without")
    return name


def _counters(node: Node) -> tuple[str, ...]:
    names = tuple(item.text() for item in node.items(LIMITS.counters))
    _unique(node, list(names))
    return names


def _default_class(node: Node, hook: Hook) -> str:
    if hook.classes:
        return node.text(hook.classes)
    if node.value != "":
        node.refuse(f'hook {hook.name} answers no class: give ""')
    return ""


def _guards(root: Node, hook: Hook) -> Guards:
    node, first = root["guards"], root["format_version"].value == FIRST_VERSION
    node.keys("degree_pages", "delta_limit_pages", *(() if first else LIVE_GUARDS))
    degree = node["degree_pages"].integer(1, 1 if hook.classes else LIMITS.degree_pages)
    limit = node["delta_limit_pages"].integer(VALUE_MAX if hook.classes else 1, VALUE_MAX)
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
    version = root.value.get("format_version")
    if version not in VERSIONS:  # a minor one, too, may mean what we do not know
        root.refuse(
            f"format version {str(version)[:20]!r}, this kdtool reads {', '.join(VERSIONS)}: "
            f"use the kdtool that wrote it"
        )
    body = {key: value for key, value in root.value.items() if key != "sha256"}
    if "sha256" in root.value and root.value["sha256"] != _sha256(body):
        root.refuse("does not match its sha256: it was altered; train or build it again")


def _sha256(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
