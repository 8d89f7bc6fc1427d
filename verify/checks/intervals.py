"""Intervals: what every value can be, so that nothing overflows, shifts too far or leaves its table.

Sums of scores and of a network must fit into 32 bits, all else into the 64 that executors calculate with.
"""

from collections.abc import Mapping

from kdtool.rmt import (
    VALUE_MAX,
    VALUE_MIN,
    Forest,
    Model,
    Network,
    Program,
    ScoreTree,
    Tree,
    find_hook,
)
from kdtool.verify.finding import Finding, proved, refuted, unknown
from kdtool.verify.intervals import Interval, Walk, walk_program
from kdtool.verify.intervals.interval import hull
from kdtool.verify.witness import find_witness

__all__ = ["check_intervals"]

WORD = -(2**63), 2**63 - 1
SUM = -(2**31), 2**31 - 1
Claims = Mapping[str, Interval]


def check_intervals(program: Program) -> list[Finding]:
    """Bound every value on every way through the program; the guard must leave some prediction alive."""
    walk = walk_program(program)
    findings = [_registers(program), _features(program, walk.claims)]
    for model in program.models:
        if f"models.{model.name}.answer" not in walk.claims:
            findings.append(proved("models", f"model {model.name} is never asked"))
            continue
        findings.append(_indexes(model, walk.claims))
        if isinstance(model, Network):
            findings.append(_products(model, walk.claims))
        if not isinstance(model, Tree):
            findings.append(_sums(program, model, walk.claims))
    return findings if find_hook(program.hook).classes else findings + _pages(program, walk)


def _registers(program: Program) -> Finding:
    slots = ", ".join(f"{register.name} 0 to {register.size - 1}" for register in program.registers)
    return proved("registers", f"a hash is masked to the entries of its register: {slots}")


def _features(program: Program, claims: Claims) -> Finding:
    """Say what features and fields can be, those of one interval together, and last those of any."""
    alike: dict[Interval, list[str]] = {}
    for name in (*(f.name for f in program.features), *find_hook(program.hook).values):
        alike.setdefault(claims[f"values.{name}"], []).append(name)
    n_any = len(alike.pop((VALUE_MIN, VALUE_MAX), []))
    said = [f"{', '.join(names)} in {_written(interval)}" for interval, names in alike.items()]
    said += [f"{n_any} clamped to {_written((VALUE_MIN, VALUE_MAX))}"] if n_any else []
    return proved("features", "; ".join(said))


def _indexes(model: Model, claims: Claims) -> Finding:
    """Bound what picks a leaf or a class, so that it is one of its model's."""
    name = f"models.{model.name}"
    answers = f"answers in {_written(claims[f'{name}.answer'])}"
    if isinstance(model, Network):
        first, last = claims[f"{name}.best"]
        said = f"class {first} to {last} of {len(model.classes)}, {answers}"
        return proved("models", f"model {model.name}: {said}")
    trees = {name: model} if isinstance(model, Tree) else _trees(model)
    compared = max(claims[f"{place}.comparisons"][1] for place in trees)
    differences = [claims[each] for place in trees if (each := f"{place}.difference") in claims]
    spread = f", differences in {_written(hull(differences))}" if differences else ""
    said = f"model {model.name}: at most {compared} comparisons to a leaf{spread}, {answers}"
    inside = all(_fits(claims[f"{place}.leaf"], (0, len(tree.feature) - 1)) for place, tree in trees.items())
    if not inside or not all(_fits(each, WORD) for each in differences):
        return unknown("models", said)
    return proved("models", said)


def _trees(forest: Forest) -> dict[str, Tree | ScoreTree]:
    return {f"models.{forest.name}.trees.{t}": tree for t, tree in enumerate(forest.trees)}


def _products(network: Network, claims: Claims) -> Finding:
    """Prove that what is rounded, half a unit added, stays inside 64 bits, and no shift is longer."""
    place = f"models.{network.name}"
    shifted = [
        (claims[f"{place}.inputs.{name}"], shift)
        for name, shift in zip(network.inputs, network.input_shifts, strict=True)
    ]
    for number, layer in enumerate(network.layers[:-1]):
        products = _group(claims, f"{place}.layers.{number}.products")
        shifted += [(interval, layer.shift) for interval in products]
    most = max(abs(shift) for _, shift in shifted)
    worst = hull(
        (low << -shift, high << -shift) if shift <= 0 else (low, high + (1 << shift - 1))
        for (low, high), shift in shifted
    )
    said = f"model {network.name}: shifts of at most {most} bits, of values in {_written(worst)}"
    if most > 63 or not _fits(worst, WORD):
        return unknown("shifts", f"{said}, more than 64 bits")
    return proved("shifts", f"{said}, inside 64 bits")


def _sums(program: Program, model: Forest | Network, claims: Claims) -> Finding:
    """Prove that no sum leaves 32 bits, on the way as well; or look for events after which one does."""
    name = f"models.{model.name}"
    if isinstance(model, Forest):
        groups = [f"{name}.sums"]
    else:
        groups = [f"{name}.layers.{number}.sums" for number in range(len(model.layers))]
    worst = hull(interval for group in groups for interval in _group(claims, group))
    if _fits(worst, SUM):
        return proved("sums", f"model {model.name}: every sum lies in {_written(worst)}, inside 32 bits")
    box = tuple(claims[f"{name}.inputs.{given}"] for given in model.inputs)
    witness = find_witness(
        program,
        model,
        box,
        lambda seen, value: (
            seen.startswith(f"{name}.") and ".sums." in seen and not _fits((value, value), SUM)
        ),
    )
    said = f"model {model.name}: sums may reach {_written(worst)}, more than 32 bits"
    return refuted("sums", said, witness) if witness else unknown("sums", said)


def _pages(program: Program, walk: Walk) -> list[Finding]:
    """Bound predictions, and the pages of each step of the rollout."""
    limit = program.guards.delta_limit_pages
    alive = [
        (max(low, -limit), min(high, limit)) for low, high in walk.answers if low <= limit and high >= -limit
    ]
    if not alive:
        found = sorted(walk.answers)[:5]
        witness = f"predictions {', '.join(map(_written, found)) or 'none'}, delta_limit_pages {limit}"
        return [refuted("predictions", "the program can never prefetch anything", witness)]
    steps = walk.claims["rollout.degree"][1]
    pages = hull(interval for name, interval in walk.claims.items() if name.endswith(".page"))
    far = hull(interval for name, interval in walk.claims.items() if name.endswith(".distance"))
    said = f"at most {steps} pages, {_written(far)} from the fault, page numbers in {_written(pages)}"
    return [
        proved("predictions", f"every prediction lies in {_written(hull(alive))} pages"),
        proved("overflow", f"{said}: inside 64 bits")
        if _fits(pages, WORD)
        else unknown("overflow", f"{said}: more than 64 bits"),
    ]


def _group(claims: Claims, prefix: str) -> list[Interval]:
    return [interval for name, interval in claims.items() if name.startswith(f"{prefix}.")]


def _fits(interval: Interval, allowed: Interval) -> bool:
    return allowed[0] <= interval[0] and interval[1] <= allowed[1]


def _written(interval: Interval) -> str:
    low, high = interval
    return f"[{low}, {high}]"
