"""A program as one int64 array, the form that the Numba VM (and later a BPF map) reads.

    params: header | registers | features | tables | match fields | entries | models (packedmodels.py)
    state:  steps | per register: size x (tag, count, history) | scratch: per register (count, history) | x |
            what models need | counters

Offsets in a record are indexes into `params` or `state`. Entries are sorted by falling priority, so
that the first match is the answer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.rmt.hooks import find_hook
from kdtool.rmt.packedmodels import model_words, pack_models
from kdtool.rmt.program import FEATURE_OPS, MATCH_TYPES, Action, Feature, Program, Table

__all__ = ["PackedProgram", "pack", "state_words"]

Int64Array = npt.NDArray[np.int64]

HEADER_WORDS, REGISTER_WORDS, FEATURE_WORDS, TABLE_WORDS, FIELD_WORDS = 16, 10, 3, 6, 2
RECORDED = 9
"""In a register, the context field that it records; 0 at a hook that answers pages is the page."""
ACTION_KINDS = {"no_action": 0, "stop": 1, "predict": 2, "follow": 4, "count": 7, "classify": 8}
"""Beside those of packedmodels.py."""


@dataclass(frozen=True)
class PackedProgram:
    """`params` (read-only) and the number of int64 words of state that an executor gives it, zeroed."""

    params: Int64Array
    state_words: int
    counters: tuple[str, ...]

    def new_state(self) -> Int64Array:
        """Return fresh state."""
        return np.zeros(self.state_words, np.int64)

    def counted(self, state: Int64Array) -> dict[str, int]:
        """Return what each counter of a program has come to in `state`."""
        words = state[self.state_words - len(self.counters) : self.state_words].view(np.uint64)
        return dict(zip(self.counters, words.tolist(), strict=True))


def state_words(program: Program) -> int:
    """Return the words of state that `program` needs: 8 bytes each."""
    return _counters_at(program) + len(program.counters)


def _counters_at(program: Program) -> int:
    return _x_at(program) + len(program.features) + model_words(program.models)


def _x_at(program: Program) -> int:
    kept = sum(r.size * (2 + r.history) for r in program.registers)
    return 1 + kept + sum(1 + r.history for r in program.registers)


def pack(program: Program) -> PackedProgram:
    """Lay `program` out. It is assumed well-formed (`from_document` checks)."""
    words: list[int] = [0] * HEADER_WORDS
    registers = _append(words, _registers(program))
    features = _append(words, _features(program))
    models = pack_models(words, program.models, [f.name for f in program.features])
    tables = []
    for table in program.tables:
        fields = _append(words, _fields(program, table))
        entries = _append(words, _entries(program, table, models))
        default = _action(program, table.default_action, models)
        tables += [len(table.match_fields), fields, len(table.entries), entries, *default]
    header = [
        len(program.registers), registers, len(program.features), features, len(program.tables),
        _append(words, tables), program.guards.degree_pages, program.guards.delta_limit_pages,
        _x_at(program), _x_at(program) + len(program.features), _counters_at(program), *_answer(program),
    ]  # fmt: skip
    words[: len(header)] = header
    return PackedProgram(np.array(words, np.int64), state_words(program), program.counters)


def _answer(program: Program) -> tuple[int, int]:
    """Return whether the hook answers a class, and the answer where no table decides."""
    classes = find_hook(program.hook).classes
    return (1, classes.index(program.default_class)) if classes else (0, 0)


def _append(words: list[int], record: list[int]) -> int:
    offset = len(words)
    words.extend(record)
    return offset


def _registers(program: Program) -> list[int]:
    record: list[int] = []
    names = find_hook(program.hook).field_names
    at = 1
    scratch = 1 + sum(r.size * (2 + r.history) for r in program.registers)
    for r in program.registers:
        key = [names.index(name) for name in r.key]
        record += [at, r.size, r.history, scratch, len(key), *key, *[0] * (REGISTER_WORDS - 6 - len(key))]
        record.append(names.index(r.records))
        at += r.size * (2 + r.history)
        scratch += 1 + r.history
    return record


def _features(program: Program) -> list[int]:
    names, fields = [r.name for r in program.registers], find_hook(program.hook).field_names

    def source(feature: Feature) -> int:
        return fields.index(feature.field) if feature.field else names.index(feature.register)

    return [w for f in program.features for w in (FEATURE_OPS.index(f.op), source(f), f.lag)]


def _fields(program: Program, table: Table) -> list[int]:
    names, context = [f.name for f in program.features], find_hook(program.hook).field_names
    record = []
    for f in table.match_fields:
        source = names.index(f.name) if f.name in names else -1 - context.index(f.name)
        record += [source, MATCH_TYPES.index(f.match_type)]
    return record


def _entries(program: Program, table: Table, models: dict[str, tuple[int, int]]) -> list[int]:
    record: list[int] = []
    for entry in sorted(table.entries, key=lambda entry: -entry.priority):
        record += _action(program, entry.action, models)
        record += [bound for pair in entry.match for bound in pair]
    return record


def _action(program: Program, action: Action, models: dict[str, tuple[int, int]]) -> list[int]:
    argument = action.delta
    if action.name == "infer":
        return list(models[action.model])
    if action.name == "follow":
        argument = [f.name for f in program.features].index(action.feature)
    if action.name == "count":
        argument = program.counters.index(action.counter)
    if action.name == "classify":
        argument = find_hook(program.hook).classes.index(action.class_name)
    return [ACTION_KINDS[action.name], argument]
