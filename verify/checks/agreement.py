"""Agreement: the tables that a program builds to decide what its model decides, for every input.

Proved by boxes, not by sampling. The tree is walked with each entry's box: all leaves that it can reach
must give the entry's answer. The entries are disjoint (checked), so their volumes add up; together with
the volume where the tree predicts nothing, they must fill the whole space of inputs, and then what no
entry matches is exactly where the tree predicts nothing.
"""

from kdtool.errors import ProgramError
from kdtool.rmt import (
    HOOKS,
    VALUE_MAX,
    VALUE_MIN,
    Hook,
    Program,
    Table,
    Tree,
    answer_action,
    find_hook,
    leaf_boxes,
    tree_to_table,
)
from kdtool.verify.checks.tables import check_table
from kdtool.verify.finding import Finding, proved, refuted, unknown

__all__ = ["agreement", "check_agreement"]

Box = tuple[tuple[int, int], ...]


def check_agreement(program: Program) -> list[Finding]:
    """Lower each tree that a table infers by default, and prove the table equal to it.

    Other models become no tables (`program_to_tables` refuses them), and there is nothing to agree.
    """
    models, hook = {model.name: model for model in program.models}, find_hook(program.hook)
    findings = []
    for table in program.tables:
        if table.default_action.name == "infer":
            model = models[table.default_action.model]
            if not isinstance(model, Tree):
                continue
            try:
                built = tree_to_table(model, table.name, hook=hook)
                findings.append(agreement(model, built, hook))
            except ProgramError as error:
                findings.append(unknown("agreement", str(error)))
    return findings


def agreement(tree: Tree, table: Table, hook: Hook = HOOKS[0]) -> Finding:
    """Prove or refute that `table` (range match over the tree's inputs) decides as `tree` does at `hook`."""
    name = f"table {table.name} and model {tree.name}"
    overlap = check_table(table)
    if overlap.verdict != "proved":
        return overlap
    if table.default_action.name != "no_action":
        return refuted("agreement", f"{name}: the default must be no_action", table.default_action.name)
    for i, entry in enumerate(table.entries):
        answers = reachable(tree, entry.match)
        if {answer_action(hook, answer) for answer in answers} != {entry.action}:
            return refuted(
                "agreement", f"{name} differ", f"entry {i} {entry.match}: the model says {answers}"
            )
    covered = sum(_volume(entry.match) for entry in table.entries)
    stops = sum(_volume(box) for box, value in leaf_boxes(tree) if answer_action(hook, value) is None)
    space = (VALUE_MAX - VALUE_MIN + 1) ** len(tree.inputs)
    if covered + stops != space:
        return refuted("agreement", f"{name} differ", f"{space - covered - stops} inputs match no entry")
    return proved("agreement", f"{name} agree on all inputs: {len(table.entries)} entries")


def reachable(tree: Tree, box: Box) -> set[int]:
    """Return the answers of all leaves that inputs in `box` can reach."""
    answers: set[int] = set()
    todo = [(0, box)]
    while todo:
        node, box = todo.pop()
        split = tree.feature[node]
        if split < 0:
            answers.add(tree.value[node])
            continue
        low, high = box[split]
        threshold = tree.threshold[node]
        if low <= threshold:
            todo.append((tree.left[node], _cut(box, split, low, min(high, threshold))))
        if high > threshold:
            todo.append((tree.right[node], _cut(box, split, max(low, threshold + 1), high)))
    return answers


def _cut(box: Box, axis: int, low: int, high: int) -> Box:
    return (*box[:axis], (low, high), *box[axis + 1 :])


def _volume(box: Box) -> int:
    volume = 1
    for low, high in box:
        volume *= high - low + 1
    return volume
