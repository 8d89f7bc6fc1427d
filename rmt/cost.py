"""The most that a program can cost, from its form alone: steps of one decision, bytes of state."""

from kdtool.rmt.packed import state_words
from kdtool.rmt.program import Budget, Program

__all__ = ["worst_case"]


def worst_case(program: Program) -> Budget:
    """Return the largest number of steps of any decision, and the bytes of state.

    A step is a feature computed, an entry tested or a tree node compared. Every prediction of a rollout
    computes all features and at worst goes through every table, since a prediction of 0 falls to the next
    one: it tests all entries and walks the deepest model that the table may infer with.

    >>> from kdtool.rmt.examples import stride_program
    >>> worst_case(stride_program()).steps  # 4 predictions x (2 features + 1 entry + depth 2)
    20
    """
    depth = {model.name: model.depth for model in program.models}
    steps_a_page = len(program.features)
    for table in program.tables:
        actions = [*(entry.action for entry in table.entries), table.default_action]
        inferred = [depth[action.model] for action in actions if action.name == "infer"]
        steps_a_page += len(table.entries) + max(inferred, default=0)
    steps = program.guards.degree_pages * steps_a_page
    return Budget(steps=max(steps, 1), state_bytes=8 * state_words(program))
