"""A program as one int64 array, the form that the Numba VM (and later a BPF map) reads.

    params: header | registers | plans of features (packedfeatures.py) | tables | match fields | entries |
            models (packedmodels.py)
    state:  steps | per register: size x (tag, known, history) | scratch: per register (known, room,
            history) | x | what models need | counters
    known:  how many values a history has | RUN: how many of its newest differences are equal | NEAR: how many
            of its newest values lie in one region of 2**31 | WHERE: where the newest lies, in scratch alone

Histories are newest first. In the room a rollout puts its pages in front of a history, one after the other:
it shifts nothing. Offsets in a record are indexes into `params` or `state`. Entries are sorted by falling
priority, so that the first match is the answer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.rmt.hooks import PAGE, find_hook
from kdtool.rmt.packedfeatures import model_features, pack_fields, pack_plan, table_features
from kdtool.rmt.packedmodels import model_words, pack_models
from kdtool.rmt.program import MATCH_TYPES, Action, Program, Register, Table

__all__ = ["PackedProgram", "pack", "state_words"]

Int64Array = npt.NDArray[np.int64]

HEADER_WORDS, TABLE_WORDS = 17, 6
(FIRST_ENTRY, LAST_INDEX, HISTORY, NEWEST, KNOWN, MOVES, LOOKED_AT) = range(7)
(LOOKED_AT_ALL, RECORDED, N_KEY, KEY) = range(7, 11)
REGISTER_WORDS = KEY + 4
"""Of a register: its entries, a mask; of its scratch where a copy of a history goes, and what is known of
one; -1 if a rollout pushes into it, else 0; how many of its differences tables look at, and tables and
models; the context fields that it records and that are its key."""
RUN, NEAR, WHERE = 8, 16, 24
KNOWN_MASK = (1 << RUN) - 1
"""Of what is known of a history: the bits at which its numbers begin, and the mask of all but the last."""
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
    """Return the words of state that `program` needs, 8 bytes each, the room for rollouts among them."""
    return _counters_at(program) + len(program.counters)


def _counters_at(program: Program) -> int:
    return _x_at(program) + len(program.features) + model_words(program.models)


def _x_at(program: Program) -> int:
    return _scratch_at(program) + sum(1 + _room(program, r) + r.history for r in program.registers)


def _scratch_at(program: Program) -> int:
    return 1 + sum(r.size * (2 + r.history) for r in program.registers)


def _room(program: Program, register: Register) -> int:
    """Return how many pages a rollout may push into a register."""
    return program.guards.degree_pages if register.records == PAGE else 0


def pack(program: Program) -> PackedProgram:
    """Lay `program` out. It is assumed well-formed (`from_document` checks)."""
    words: list[int] = [0] * HEADER_WORDS
    registers = _append(words, _registers(program))
    of_context = pack_fields(words, program)
    every, first = {f.name for f in program.features}, table_features(program)
    plans = [pack_plan(words, program, each) for each in (first, model_features(program) - first, every)]
    models = pack_models(words, program.models, [f.name for f in program.features])
    tables = []
    for table in program.tables:
        fields = _append(words, _fields(program, table))
        entries = _append(words, _entries(program, table, models))
        default = _action(program, table.default_action, models)
        tables += [len(table.match_fields), fields, len(table.entries), entries, *default]
    header = [
        len(program.registers), registers, len(program.features), of_context, len(program.tables),
        _append(words, tables), program.guards.degree_pages, program.guards.delta_limit_pages,
        _x_at(program), _x_at(program) + len(program.features), _counters_at(program), *_answer(program),
        *plans, int(not program.counters),
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
    fields = find_hook(program.hook).field_names
    of_tables, of_models = table_features(program), model_features(program)
    at, scratch = 1, _scratch_at(program)
    for r in program.registers:
        room = _room(program, r)
        record += [at, r.size - 1, r.history, scratch + 1 + room, scratch, -int(room > 0)]
        record += [_looked_at(program, r, names) for names in (of_tables, of_tables | of_models)]
        record += [fields.index(r.records), len(r.key), *(fields.index(name) for name in r.key)]
        record += [0] * (-len(record) % REGISTER_WORDS)
        at += r.size * (2 + r.history)
        scratch += 1 + room + r.history
    return record


def _looked_at(program: Program, register: Register, names: set[str]) -> int:
    """Return how many of a register's differences the features with these names look at, at most."""
    lags = (f.lag for f in program.features if f.register == register.name and f.name in names)
    return max(lags, default=0)


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
