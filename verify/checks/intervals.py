"""Intervals: what every value can be, and that nothing overflows: pages 64 bits, sums of scores 32."""

from kdtool.rmt import VALUE_MAX, VALUE_MIN, Forest, Model, Network, Program, Tree, find_hook, leaf_boxes
from kdtool.rmt.vm import VPN_LIMIT
from kdtool.verify.finding import Finding, proved, refuted, unknown

__all__ = ["check_intervals", "predicted_deltas"]

INT64_MAX = 2**63 - 1
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
MAX_LEAVES = 65_536


def predicted_deltas(program: Program) -> set[int]:
    """Return every difference that some input makes the program predict, before the guard.

    A followed feature can have any value; its extremes stand for it.
    """
    deltas: set[int] = set()
    models = {model.name: model for model in program.models}
    for table in program.tables:
        for action in [entry.action for entry in table.entries] + [table.default_action]:
            if action.name == "predict":
                deltas.add(action.delta)
            if action.name == "follow":
                deltas.update((-program.guards.delta_limit_pages, program.guards.delta_limit_pages))
            if action.name == "infer":
                deltas |= _answers(models[action.model])
    return deltas - {0}


def _answers(model: Model) -> set[int]:
    if isinstance(model, Forest):
        return model.possible_answers()
    if isinstance(model, Network):
        return set(model.classes)
    return {value for _, value in leaf_boxes(model)}


def check_intervals(program: Program) -> list[Finding]:
    """Bound features, predictions and page numbers; the guard must leave some prediction alive."""
    if any(isinstance(model, Tree) and model.n_leaves > MAX_LEAVES for model in program.models):
        return [unknown("intervals", f"a model has more than {MAX_LEAVES} leaves: too many to walk")]
    features = proved("features", f"every feature lies in [{VALUE_MIN}, {VALUE_MAX}]: all are clamped")
    findings = [features] if find_hook(program.hook).classes else [features, *_pages(program)]
    return findings + [_sums(model) for model in program.models if not isinstance(model, Tree)]


def _pages(program: Program) -> list[Finding]:
    deltas, limit = predicted_deltas(program), program.guards.delta_limit_pages
    alive = sorted(delta for delta in deltas if abs(delta) <= limit)
    if not alive:
        witness = f"predictions {sorted(deltas)[:5]}, delta_limit_pages {limit}"
        return [refuted("predictions", "the program can never prefetch anything", witness)]
    predictions = proved("predictions", f"every prediction lies in [{alive[0]}, {alive[-1]}] pages")
    # A page is below VPN_LIMIT before a prediction is added, and the rollout ends when it is not after.
    furthest = VPN_LIMIT + max(abs(alive[0]), abs(alive[-1]))
    assert furthest < INT64_MAX
    return [predictions, proved("overflow", f"page numbers stay within ±{furthest}, far inside 64 bits")]


def _sums(model: Forest | Network) -> Finding:
    """Prove that no sum leaves 32 bits: whatever leaves trees end in, whatever int8 values a layer gets."""
    bounds = model.score_bounds() if isinstance(model, Forest) else model.sum_bounds()
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    if low < INT32_MIN or high > INT32_MAX:
        return unknown("sums", f"model {model.name}: sums may reach [{low}, {high}], more than 32 bits")
    return proved("sums", f"model {model.name}: every sum lies in [{low}, {high}], inside 32 bits")
