"""Classes: at a hook that answers one, whatever the program infers is the number of a class."""

from kdtool.rmt import Forest, Hook, Model, Network, Program, Tree, find_hook, leaf_boxes
from kdtool.verify.finding import Finding, proved, refuted, unknown

__all__ = ["check_classes"]

MAX_LEAVES = 65_536


def check_classes(program: Program) -> list[Finding]:
    """Bound the answers of each model that is asked; a class that is named was checked with the form."""
    hook = find_hook(program.hook)
    if not hook.classes:
        return [proved("classes", f"hook {hook.name} answers pages, no class")]
    tables = program.tables
    actions = [action for t in tables for action in (*(e.action for e in t.entries), t.default_action)]
    asked = {action.model for action in actions if action.name == "infer"}
    default = f"{', '.join(hook.classes)}; where no table decides: {program.default_class}"
    return [
        proved("classes", f"every decision is one of {default}"),
        *(_answers(hook, model) for model in program.models if model.name in asked),
    ]


def _answers(hook: Hook, model: Model) -> Finding:
    if isinstance(model, Tree) and model.n_leaves > MAX_LEAVES:
        return unknown("classes", f"model {model.name} has more than {MAX_LEAVES} leaves: too many to walk")
    wrong = [pair for pair in _answered(model) if not 0 <= pair[0] < len(hook.classes)]
    if not wrong:
        return proved("classes", f"model {model.name} answers classes of {hook.name} only")
    answer, witness = wrong[0]
    allowed = f"0 to {len(hook.classes) - 1} ({', '.join(hook.classes)})"
    return refuted("classes", f"model {model.name} answers {answer}, allowed are {allowed}", witness)


def _answered(model: Model) -> list[tuple[int, str]]:
    """Return each answer that some input may get, and what shows it: of a tree, an input that does."""
    if isinstance(model, Tree):
        boxes = leaf_boxes(model)
        return [(answer, _input(model, [low for low, _ in box])) for box, answer in boxes]
    if isinstance(model, Forest):
        return [(answer, f"one of its classes answers {answer}") for answer in model.possible_answers()]
    assert isinstance(model, Network)
    return [(answer, f"classes[{c}] = {answer}") for c, answer in enumerate(model.classes)]


def _input(tree: Tree, x: list[int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in zip(tree.inputs, x, strict=True))
