"""Classes: at a hook that answers one, whatever the program infers is the number of a class."""

from kdtool.rmt import Hook, Model, Program, find_hook
from kdtool.verify.finding import Finding, proved, refuted, unknown
from kdtool.verify.intervals import Interval, value_intervals
from kdtool.verify.witness import find_witness

__all__ = ["check_classes"]


def check_classes(program: Program) -> list[Finding]:
    """Bound the answers of each model that is asked; a class that is named was checked with the form."""
    hook, claims = find_hook(program.hook), value_intervals(program)
    if not hook.classes:
        return [proved("classes", f"hook {hook.name} answers pages, no class")]
    default = f"{', '.join(hook.classes)}; where no table decides: {program.default_class}"
    findings = [proved("classes", f"every decision is one of {default}")]
    for model in program.models:
        if answers := claims.get(f"models.{model.name}.answer"):
            box = tuple(claims[f"models.{model.name}.inputs.{name}"] for name in model.inputs)
            findings.append(_answers(program, hook, model, answers, box))
    return findings


def _answers(
    program: Program, hook: Hook, model: Model, answers: Interval, box: tuple[Interval, ...]
) -> Finding:
    last = len(hook.classes) - 1
    wrong = next((answer for answer in answers if not 0 <= answer <= last), None)
    if wrong is None:
        return proved("classes", f"model {model.name} answers classes of {hook.name} only")
    name = f"models.{model.name}.answer"
    witness = find_witness(program, model, box, lambda seen, value: seen == name and not 0 <= value <= last)
    said = f"model {model.name} answers {wrong}, allowed are 0 to {last} ({', '.join(hook.classes)})"
    return refuted("classes", said, witness) if witness else unknown("classes", said)
