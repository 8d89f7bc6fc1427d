"""The most that a program can cost, from its form alone: steps of one decision, bytes of state."""

from kdtool.rmt.models import Forest, Model
from kdtool.rmt.networks import Network
from kdtool.rmt.packed import state_words
from kdtool.rmt.program import Budget, Program

__all__ = ["worst_case"]


def worst_case(program: Program) -> Budget:
    """Return the largest number of steps of any decision, and the bytes of state.

    A step is a feature computed, an entry tested, a tree node compared, a score added, a sum compared, one
    added to a counter; of a network an input shifted, a sum made, or up to eight products added. Every
    prediction of a rollout computes all features and at worst goes through every table, since a prediction of
    0 falls to the next one: it tests all entries and performs the costliest of the table's actions.

    >>> from kdtool.rmt.examples import stride_program
    >>> worst_case(stride_program()).steps  # 4 predictions x (2 features + 1 entry + depth 2)
    20
    """
    most = {model.name: _model_steps(model) for model in program.models}
    steps_a_page = len(program.features)
    for table in program.tables:
        actions = [*(entry.action for entry in table.entries), table.default_action]
        performed = [most[a.model] if a.name == "infer" else int(a.name == "count") for a in actions]
        steps_a_page += len(table.entries) + max(performed)
    steps = program.guards.degree_pages * steps_a_page
    return Budget(steps=max(steps, 1), state_bytes=8 * state_words(program))


def _model_steps(model: Model) -> int:
    if isinstance(model, Forest):
        return len(model.classes) + sum(tree.depth + tree.most_scores for tree in model.trees)
    if isinstance(model, Network):
        return model.steps
    return model.depth
