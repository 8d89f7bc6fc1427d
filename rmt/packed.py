"""A program as one int64 array, the form that the Numba VM (and later a BPF map) reads.

    params: header | registers | features | tables | match fields | entries | models (packedmodels.py)
    state:  steps | per register: size x (tag, count, history) | scratch: per register (count, history) | x |
            what models need

Offsets in a record are indexes into `params` or `state`. Entries are sorted by falling priority, so
that the first match is the answer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.rmt.packedmodels import model_words, pack_models
from kdtool.rmt.program import CONTEXT_FIELDS, FEATURE_OPS, MATCH_TYPES, Action, Program, Table

__all__ = ["PackedProgram", "pack", "state_words"]

Int64Array = npt.NDArray[np.int64]

HEADER_WORDS, REGISTER_WORDS, FEATURE_WORDS, TABLE_WORDS, FIELD_WORDS = 16, 10, 3, 6, 2
ACTION_KINDS = {"no_action": 0, "stop": 1, "predict": 2, "follow": 4}


@dataclass(frozen=True)
class PackedProgram:
    """`params` (read-only) and the number of int64 words of state that an executor gives it, zeroed."""

    params: Int64Array
    state_words: int

    def new_state(self) -> Int64Array:
        """Return fresh state."""
        return np.zeros(self.state_words, np.int64)


def state_words(program: Program) -> int:
    """Return the words of state that `program` needs: 8 bytes each."""
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
        _x_at(program), _x_at(program) + len(program.features),
    ]  # fmt: skip
    words[: len(header)] = header
    return PackedProgram(np.array(words, np.int64), state_words(program))


def _append(words: list[int], record: list[int]) -> int:
    offset = len(words)
    words.extend(record)
    return offset


def _registers(program: Program) -> list[int]:
    record: list[int] = []
    at = 1
    scratch = 1 + sum(r.size * (2 + r.history) for r in program.registers)
    for r in program.registers:
        key = [CONTEXT_FIELDS.index(name) for name in r.key]
        record += [at, r.size, r.history, scratch, len(key), *key, *[0] * (REGISTER_WORDS - 5 - len(key))]
        at += r.size * (2 + r.history)
        scratch += 1 + r.history
    return record


def _features(program: Program) -> list[int]:
    names = [r.name for r in program.registers]
    return [w for f in program.features for w in (FEATURE_OPS.index(f.op), names.index(f.register), f.lag)]


def _fields(program: Program, table: Table) -> list[int]:
    names = [f.name for f in program.features]
    record = []
    for f in table.match_fields:
        source = names.index(f.name) if f.name in names else -1 - CONTEXT_FIELDS.index(f.name)
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
    return [ACTION_KINDS[action.name], argument]
