"""Models to integers, and integer models to tables.

`lower_tree` turns a float decision tree into a Tree: features are integers, so x <= t is the same as
x <= floor(t) and nothing is lost. `tree_to_table` turns a Tree into range-match entries, one a leaf: the
boxes of a tree's leaves are disjoint and cover everything, so every entry has the same priority.
"""

from dataclasses import replace
from math import floor

import numpy as np
import numpy.typing as npt

from kdtool.errors import ProgramError
from kdtool.rmt.hooks import HOOKS, Hook, find_hook
from kdtool.rmt.program import (
    LIMITS,
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Entry,
    MatchField,
    Program,
    Table,
    Tree,
)

__all__ = ["answer_action", "leaf_boxes", "lower_tree", "program_to_tables", "tree_to_table"]

Box = tuple[tuple[int, int], ...]


def lower_tree(
    name: str,
    inputs: tuple[str, ...],
    *,
    feature: npt.NDArray[np.int64],
    threshold: npt.NDArray[np.float64],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    value: npt.NDArray[np.int64],
) -> Tree:
    """Lower a tree given as scikit-learn's arrays (`tree_.feature`, ...), each of shape (n_nodes,).

    `value` is the answer of each leaf, in pages. Nodes that no leaf can tell apart are merged.
    """
    leaf = left < 0
    floors = [0 if is_leaf else floor(t) for is_leaf, t in zip(leaf, threshold, strict=True)]
    tree = Tree(
        name=name,
        inputs=inputs,
        feature=tuple(-1 if is_leaf else int(f) for is_leaf, f in zip(leaf, feature, strict=True)),
        threshold=tuple(min(max(t, VALUE_MIN), VALUE_MAX) for t in floors),
        left=tuple(int(child) for child in left),
        right=tuple(int(child) for child in right),
        value=tuple(int(v) if is_leaf else 0 for is_leaf, v in zip(leaf, value, strict=True)),
    )
    return _merge_equal_leaves(tree)


def _merge_equal_leaves(tree: Tree) -> Tree:
    """Replace a split whose two subtrees give one same answer by a leaf; renumber in preorder."""
    answer: dict[int, int | None] = {}
    for node in reversed(range(len(tree.feature))):
        if tree.feature[node] < 0:
            answer[node] = tree.value[node]
        else:
            one, other = answer[tree.left[node]], answer[tree.right[node]]
            answer[node] = one if one == other else None
    columns: list[list[int]] = []
    _emit(tree, 0, answer, columns)
    feature, threshold, left, right, value = (tuple(column) for column in zip(*columns, strict=True))
    return replace(tree, feature=feature, threshold=threshold, left=left, right=right, value=value)


def _emit(tree: Tree, node: int, answer: dict[int, int | None], columns: list[list[int]]) -> int:
    index, known = len(columns), answer[node]
    if known is not None:
        columns.append([-1, 0, -1, -1, known])
        return index
    columns.append([tree.feature[node], tree.threshold[node], 0, 0, 0])
    columns[index][2] = _emit(tree, tree.left[node], answer, columns)
    columns[index][3] = _emit(tree, tree.right[node], answer, columns)
    return index


def leaf_boxes(tree: Tree) -> list[tuple[Box, int]]:
    """Return each reachable leaf as (a (low, high) per input, its answer).

    >>> from kdtool.rmt.examples import stride_program
    >>> [value for _, value in leaf_boxes(stride_program().models[0])]
    [0, 5, 0]
    """
    boxes: list[tuple[Box, int]] = []
    full: Box = ((VALUE_MIN, VALUE_MAX),) * len(tree.inputs)
    todo: list[tuple[int, Box]] = [(0, full)]
    while todo:
        node, box = todo.pop()
        split = tree.feature[node]
        if split < 0:
            boxes.append((box, tree.value[node]))
            continue
        low, high = box[split]
        threshold = tree.threshold[node]
        if high > threshold:
            right = (max(low, threshold + 1), high)
            todo.append((tree.right[node], (*box[:split], right, *box[split + 1 :])))
        if low <= threshold:
            todo.append((tree.left[node], (*box[:split], (low, min(high, threshold)), *box[split + 1 :])))
    return boxes


def answer_action(hook: Hook, answer: int) -> Action | None:
    """Return the action that says what a model answers at `hook`; None for no prediction.

    Raises ProgramError for the number of no class.
    """
    if not hook.classes:
        return Action("predict", delta=answer) if answer else None
    if not 0 <= answer < len(hook.classes):
        raise ProgramError(
            f"a model answers {answer}, hook {hook.name} has classes 0 to {len(hook.classes) - 1}: "
            f"train it on the numbers of classes"
        )
    return Action("classify", class_name=hook.classes[answer])


def tree_to_table(tree: Tree, name: str, max_entries: int = LIMITS.entries, hook: Hook = HOOKS[0]) -> Table:
    """Return `tree` as a range-match table; leaves without a prediction are left to the default action.

    Raises ProgramError when it needs more than `max_entries` entries.
    """
    actions = ((box, answer_action(hook, value)) for box, value in leaf_boxes(tree))
    entries = tuple(Entry(box, priority=1, action=action) for box, action in actions if action is not None)
    fields = tuple(MatchField(feature, "RANGE") for feature in tree.inputs)
    return _checked(Table(name, fields, entries, default_action=Action("no_action")), max_entries)


def _checked(table: Table, max_entries: int) -> Table:
    """Return `table`; ProgramError when it has more than `max_entries` entries."""
    if len(table.entries) > max_entries:
        raise ProgramError(
            f"table {table.name!r} takes {len(table.entries):,} entries, allowed are {max_entries:,}: "
            f"train with fewer leaves or give a larger --max-entries"
        )
    return table


def program_to_tables(program: Program, max_entries: int = LIMITS.entries) -> Program:
    """Return `program` with its models as tables and no model left.

    Raises ProgramError for a table that takes more than `max_entries`, for another model than a tree, and for
    an entry that infers: only a default action can be turned into entries below the others.
    """
    models = {model.name: model for model in program.models}
    tables = []
    for table in program.tables:
        if any(entry.action.name == "infer" for entry in table.entries):
            raise ProgramError(
                f"table {table.name!r} infers from an entry, only a default action can be built: "
                f"give that model a table of its own"
            )
        if table.default_action.name == "infer":
            model = models[table.default_action.model]
            if not isinstance(model, Tree):
                raise ProgramError(
                    f"model {model.name!r} is a {type(model).__name__}, only a Tree can be built as a table: "
                    f"give --target bpf or train with --learner tree"
                )
            leaves = tree_to_table(model, table.name, max_entries, find_hook(program.hook))
            table = _stack(table, leaves, find_hook(program.hook))  # noqa: PLW2901 - the table that goes on
        tables.append(_checked(table, max_entries))
    return replace(program, name=f"{program.name}-tables", models=(), tables=tuple(tables))


def _stack(upper: Table, lower: Table, hook: Hook) -> Table:
    """Put the entries of `upper` above those of `lower` in one table; the default is `lower`'s.

    Features are clamped to [VALUE_MIN, VALUE_MAX]; a field of the hook may be one less.
    """
    least = {field.name: min(field.bounds[0], VALUE_MIN) for field in hook.context}
    fields = tuple(
        replace(f, match_type="RANGE") if f.match_type == "EXACT" else f for f in upper.match_fields
    )
    above: Box = tuple(
        (least.get(f.name, VALUE_MIN), VALUE_MAX) if f.match_type == "RANGE" else (0, 0) for f in fields
    )
    below: Box = ((VALUE_MIN, VALUE_MAX),) * len(lower.match_fields)
    entries = [replace(e, match=e.match + below, priority=e.priority + 1) for e in upper.entries]
    entries += [replace(e, match=above + e.match) for e in lower.entries]
    return Table(upper.name, fields + lower.match_fields, tuple(entries), lower.default_action)
