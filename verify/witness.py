"""A witness: events after which the reference VM has a value that it should not have.

Inputs that drive a model to its ends are guessed, turned into events that give the features these values, and
run. Only what the VM then shows is a witness; that none is found proves nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

from kdtool.rmt import Feature, Forest, Model, Network, Program, ScoreTree, Tree, Vm, find_hook
from kdtool.rmt.hooks import PAGE
from kdtool.rmt.networks import INT8_MAX, INT8_MIN
from kdtool.verify.intervals.interval import Claims, Interval
from kdtool.verify.intervals.model import reached_leaves
from kdtool.verify.intervals.table import Box

__all__ = ["events_for", "find_witness"]

MAX_TRIED = 256
"""So many inputs are tried: each is a run of the VM over a history."""

Context = dict[str, int]


def find_witness(program: Program, model: Model, box: Box, wrong: Callable[[str, int], bool]) -> str:
    """Return a value that is wrong, and the events that lead to it; nothing if none was found.

    box : an interval for each input of `model`
    """
    for x in islice(_extreme_inputs(model, box), MAX_TRIED):
        events = events_for(program, dict(zip(model.inputs, x, strict=True)))
        found: list[str] = []

        def see(name: str, value: int, /, found: list[str] = found) -> None:
            if wrong(name, value):
                found.append(f"{name} = {value}")

        vm = Vm(program, see)
        for event in events:
            vm.decide(event)
        if found:
            return f"{found[0]} after {json.dumps([list(event.values()) for event in events])}"
    return ""


def events_for(program: Program, wanted: Mapping[str, int]) -> list[Context]:
    """Return events of one process after which features have the values that are `wanted`; none if unable."""
    hook = find_hook(program.hook)
    features = [f for f in program.features if f.name in wanted]
    records = {register.name: register.records for register in program.registers}
    kept: dict[str, list[int]] = {}
    for field in hook.context:
        own = [f for f in features if f.op != "field" and records[f.register] == field.name]
        values = _history(own, wanted, field.bounds)
        fixed = [wanted[f.name] for f in features if f.field == field.name]
        if not values or any(value != fixed[0] for value in fixed):
            return []
        if fixed and not own:
            values = fixed[:1]
        elif fixed and values[0] != fixed[0]:
            return []
        kept[field.name] = values
    length = max(map(len, kept.values()))
    events = [
        {name: values[min(at, len(values) - 1)] for name, values in kept.items()}
        for at in reversed(range(length))
    ]
    return [event | ({"region": event[PAGE] >> 13} if PAGE in event else {}) for event in events]


def _history(features: Sequence[Feature], wanted: Mapping[str, int], bounds: Interval) -> list[int]:
    """Return values of a field, newest first, which give `features` what is wanted; none if unable."""
    deltas = _deltas(features, wanted)
    if deltas is None:
        return []
    places = [-each for each in accumulate(deltas, initial=0)]  # as far from the newest value
    fixed = [wanted[f.name] - places[f.lag] for f in features if f.op == "value"]
    newest = fixed[0] if fixed else max(bounds[0], 0) - min(places)
    values = [newest + place for place in places]
    inside = bounds[0] <= min(values) and max(values) <= bounds[1]
    return values if inside and all(each == newest for each in fixed) else []


def _deltas(features: Sequence[Feature], wanted: Mapping[str, int]) -> list[int] | None:
    """Return the newest differences of a history, newest first; None if features contradict each other."""
    known: list[int | None] = [None] * max((f.lag for f in features), default=0)
    for f in features:
        if f.op == "delta":
            if known[f.lag - 1] not in (None, wanted[f.name]):
                return None
            known[f.lag - 1] = wanted[f.name]
    for f in sorted((f for f in features if f.op == "run" and wanted[f.name]), key=lambda f: f.lag):
        run = wanted[f.name]
        first = next((each for each in known[:run] if each is not None), 1)
        known[:run] = [first] * run
        if run < f.lag and known[run] is None:
            known[run] = first + 1
    for f in sorted((f for f in features if f.op == "span"), key=lambda f: f.lag):
        missing = wanted[f.name] - sum(each or 0 for each in known[: f.lag])
        free = [at for at in range(f.lag) if known[at] is None]
        if not free and missing:
            return None
        for at in free:
            known[at] = missing if at == free[-1] else 0
    return [each or 0 for each in known]


def _extreme_inputs(model: Model, box: Box) -> Iterator[list[int]]:
    """Yield inputs that make the values of a model as small and as large as they get, if it is lucky."""
    match model:
        case Tree():
            yield from (
                [_near_zero(each) for each in leaf] for _, leaf in reached_leaves(model, box, Claims())
            )
        case Forest():
            for c in range(len(model.classes)):
                for sign in (1, -1):
                    yield _pushed_by_leaves(model.trees, box, c, sign)
        case Network():
            for layer in model.layers:
                for row in layer.weights:
                    for sign in (1, -1):
                        yield _pushed_by_weights(model, box, [sign * weight for weight in row])


def _pushed_by_leaves(trees: Sequence[ScoreTree], box: Box, c: int, sign: int) -> list[int]:
    """Return an input in `box` that, tree by tree, falls into the leaf that adds most to class c."""
    for tree in trees:
        leaves = reached_leaves(tree, box, Claims())
        _, box = max(
            ((dict(tree.scores(leaf)).get(c, 0) * sign, b) for leaf, b in leaves), key=lambda e: e[0]
        )
    return [_near_zero(each) for each in box]


def _pushed_by_weights(network: Network, box: Box, row: Sequence[int]) -> list[int]:
    """Return the input that a row of weights, repeated, says most to."""
    x = []
    for j, ((low, high), shift) in enumerate(zip(box, network.input_shifts, strict=True)):
        end = INT8_MAX if row[j % len(row)] > 0 else INT8_MIN
        whole = end << shift if shift > 0 else end >> -shift
        x.append(min(max(whole, low), high))
    return x


def _near_zero(interval: Interval) -> int:
    return min(max(0, interval[0]), interval[1])
