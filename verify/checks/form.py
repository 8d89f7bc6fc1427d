"""Form: the program is one that its file format accepts, so every index and reference is in bounds."""

from kdtool.errors import ProgramError
from kdtool.rmt import Forest, Model, Network, Program, ScoreTree, Tree, from_document, to_document
from kdtool.verify.finding import Finding, proved, refuted

__all__ = ["check_form"]


def check_form(program: Program) -> list[Finding]:
    """Send the program through the reader, which refuses bad indexes, cycles and values."""
    try:
        same = from_document(to_document(program)) == program
    except ProgramError as error:
        return [refuted("form", "the program is not well-formed", str(error))]
    if not same:
        return [refuted("form", "the program changes when it is written and read", program.name)]
    trees = [t for m in program.models for t in _trees(m)]
    nodes = sum(len(tree.feature) for tree in trees)
    entries = sum(len(table.entries) for table in program.tables)
    weights = sum(model.n_weights for model in program.models if isinstance(model, Network))
    models = f"{nodes} tree nodes, {weights} weights" if weights else f"{nodes} tree nodes"
    return [proved("form", f"{models} and {entries} entries: every index is in bounds, no cycle")]


def _trees(model: Model) -> tuple[Tree | ScoreTree, ...]:
    if isinstance(model, Forest):
        return model.trees
    return (model,) if isinstance(model, Tree) else ()
