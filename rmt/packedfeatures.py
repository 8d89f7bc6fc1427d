"""Features as words of `params` (packed.py): plans, each of features that are computed together.

    fields   how many, and a feature each
    plan     per register (first, differences, values, runs, deepest): where its features lie and how many of
             each kind, one kind behind the other; the largest lag of the differences
    feature  newer | lag | number, 16 bits each, from bit 0 on: a difference is history[newer] - history[lag];
             of a field the context's word in place of the lag

What no table asks for before a model does, and what no tree compares, a decision need not compute.
"""

from collections.abc import Collection

from kdtool.rmt.hooks import find_hook
from kdtool.rmt.models import Forest, Model, Tree
from kdtool.rmt.program import Feature, Program

__all__ = [
    "DEEPEST",
    "DIFFERENCES",
    "FEATURE_BITS",
    "PLAN_WORDS",
    "RUNS",
    "VALUES",
    "model_features",
    "pack_fields",
    "pack_plan",
    "table_features",
]

FEATURE_BITS = 16
DIFFERENCES, VALUES, RUNS, DEEPEST, PLAN_WORDS = range(1, 6)
"""Of a plan, for each register."""
KINDS = {"delta": 0, "span": 0, "value": 1, "run": 2}


def table_features(program: Program) -> set[str]:
    """Return the names of the features that tables match or follow."""
    actions = [
        action for t in program.tables for action in (t.default_action, *(e.action for e in t.entries))
    ]
    followed = {action.feature for action in actions if action.name == "follow"}
    return followed | {field.name for table in program.tables for field in table.match_fields}


def model_features(program: Program) -> set[str]:
    """Return the names of the features that an answer of a model may depend on."""
    return {name for model in program.models for name in _compared(model)}


def _compared(model: Model) -> Collection[str]:
    trees = (model,) if isinstance(model, Tree) else model.trees if isinstance(model, Forest) else None
    if trees is None:
        return model.inputs
    return {model.inputs[feature] for tree in trees for feature in tree.feature if feature >= 0}


def pack_fields(words: list[int], program: Program) -> int:
    """Append the features that are fields of the context to `words`; return where they lie."""
    names, at = find_hook(program.hook).field_names, len(words)
    fields = [(number, each.field) for number, each in enumerate(program.features) if each.field]
    words += [len(fields), *(_word(0, names.index(field), number) for number, field in fields)]
    return at


def pack_plan(words: list[int], program: Program, wanted: Collection[str]) -> int:
    """Append the plan of the features of registers with the names `wanted`; return where it lies."""
    plan = []
    for register in program.registers:
        features = [(n, f) for n, f in enumerate(program.features) if f.register == register.name]
        kinds = [[(n, f) for n, f in features if KINDS[f.op] == k and f.name in wanted] for k in range(3)]
        plan += [len(words), *map(len, kinds), max((f.lag for _, f in kinds[0]), default=0)]
        words += [_of_history(number, feature) for kind in kinds for number, feature in kind]
    words += plan
    return len(words) - len(plan)


def _of_history(number: int, feature: Feature) -> int:
    newer = feature.lag - 1 if feature.op == "delta" else 0
    return _word(newer, feature.lag, number)


def _word(newer: int, lag: int, number: int) -> int:
    return newer | lag << FEATURE_BITS | number << 2 * FEATURE_BITS
