"""Cost: the worst case of steps, state and degree is within what the program declares and allows."""

from kdtool.rmt import LIMITS, Forest, Program, Tree, worst_case
from kdtool.verify.finding import Finding, proved, refuted

__all__ = ["check_cost"]


def check_cost(program: Program) -> list[Finding]:
    """Compare the worst case with the declared budget; termination follows from the bound on steps."""
    worst, budget = worst_case(program), program.budget
    trees = max((model.depth for model in program.models if isinstance(model, Tree)), default=0)
    forests = max((model.depth for model in program.models if isinstance(model, Forest)), default=0)
    findings = [
        _within("steps", "steps a decision", worst.steps, min(budget.steps, LIMITS.steps)),
        _within("state", "bytes of state", worst.state_bytes, budget.state_bytes),
        _within("depth", "comparisons to a leaf", trees, LIMITS.tree_depth),
        _within("degree", "pages a decision", program.guards.degree_pages, LIMITS.degree_pages),
    ]
    if forests:
        findings.append(_within("depth", "comparisons to a forest's leaf", forests, LIMITS.forest_depth))
    return findings


def _within(check: str, what: str, found: int, allowed: int) -> Finding:
    if found > allowed:
        return refuted(check, f"{what}: at most {allowed} are allowed", f"worst case {found}")
    return proved(check, f"at most {found} {what}, {allowed} are allowed")
