"""The walk over a whole program: from the fields of an event to pages or a class, an interval for each value.

Names are those that the reference VM gives to whoever observes it (`rmt.Vm(program, see)`):

    registers.R.slot, .length          values.F (features, and fields that tables may match)
    tables.T.FIELD, .entry, .answer    models.M.inputs.F ... .answer        counters.C
    decision                           rollout.STEP.page, .distance         rollout.degree

An entry's number is that of the file; the default action is one more than the last. A value that the walk
does not name cannot come to be. It relies on one thing: fields of events fit into their bits (rmt/hooks.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from kdtool.rmt import Action, Feature, Hook, Program, Table, find_hook
from kdtool.rmt.hooks import PAGE
from kdtool.rmt.vm import VPN_LIMIT
from kdtool.verify.intervals.interval import Claims, Interval, clamp, hull, matched, meet
from kdtool.verify.intervals.model import bound_model
from kdtool.verify.intervals.table import Box, share_out

__all__ = ["Unreached", "Walk", "value_intervals", "walk_program"]

Values = dict[str, Interval]


@dataclass(frozen=True)
class Unreached:
    """An entry that no input reaches, by its number in the file; None for a whole table. And why."""

    table: str
    entry: int | None
    reason: str


@dataclass
class Walk:
    """What is known of a program. answers : what its tables answer, before the guards look at it."""

    claims: Claims = field(default_factory=Claims)
    answers: list[Interval] = field(default_factory=list)
    unreached: list[Unreached] = field(default_factory=list)
    stops: bool = False


def value_intervals(program: Program) -> Mapping[str, Interval]:
    """Return, of each value that a well-formed program can have, the least and the most it can be.

    >>> from kdtool.rmt import stride_program
    >>> found = value_intervals(stride_program())
    >>> found["models.next_delta.answer"], found["rollout.4.distance"]
    ((0, 5), (12, 20))
    """
    return walk_program(program).claims


def walk_program(program: Program) -> Walk:
    """Follow every way through the tables at once, with a box around the values that come that way.

    Several checks ask for the walk of one program: it is made once.
    """
    return _walk(_Itself(program))


class _Itself:
    """A program that is equal to itself alone: to compare two would take as long as a walk."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.program is self.program

    def __hash__(self) -> int:
        return id(self.program)


@lru_cache(maxsize=1)
def _walk(itself: _Itself) -> Walk:
    program = itself.program
    walk, hook = Walk(), find_hook(program.hook)
    for register in program.registers:
        walk.claims.add(f"registers.{register.name}.slot", (0, register.size - 1))
        walk.claims.add(f"registers.{register.name}.length", (1, register.history))
    at_first = _start(program, hook)
    for name, interval in at_first.items():
        walk.claims.add(f"values.{name}", interval)
    values: Values | None = at_first
    before = ""
    for table in program.tables:
        if values is None:
            walk.unreached.append(Unreached(table.name, None, f"table {before} always decides"))
            continue
        values = _pass(program, table, values, walk)
        before = table.name
    _decide(program, hook, walk, falls_through=walk.stops or values is not None)
    return walk


def _start(program: Program, hook: Hook) -> Values:
    """Return the intervals of features and fields at any event, and at any step of a rollout."""
    bounds = {each.name: each.bounds for each in hook.context}
    kept = {register.name: register for register in program.registers}
    values = {name: bounds[name] for name in hook.values}
    for f in program.features:
        if f.op == "field":
            values[f.name] = clamp(bounds[f.field])
        else:
            register = kept[f.register]
            values[f.name] = _feature(f, bounds[register.records], register.history)
    return values


def _feature(f: Feature, recorded: Interval, history: int) -> Interval:
    """Return the interval of a feature of a register; a history that is too short gives 0."""
    low, high = recorded
    if f.op == "run":
        return 0, min(f.lag, history - 1)
    if f.op == "value":
        return clamp((min(low, 0), max(high, 0)))
    return clamp((low - high, high - low))


def _pass(program: Program, table: Table, values: Values, walk: Walk) -> Values | None:
    """Take `values` through a table; return what goes on to the next one, None if nothing does."""
    names = [f.name for f in table.match_fields]
    box = tuple(values[name] for name in names)
    for name in names:
        walk.claims.add(f"tables.{table.name}.{name}", values[name])
    shares = share_out(table, box)
    taken: dict[Action, list[Box]] = {}
    for number, (entry, got) in enumerate(zip(table.entries, shares.entries, strict=True)):
        if got is None:
            walk.unreached.append(Unreached(table.name, number, _reason(table, number, box)))
        else:
            walk.claims.add(f"tables.{table.name}.entry", (number, number))
            taken.setdefault(entry.action, []).append(got)
    if shares.rest is not None:
        walk.claims.add(f"tables.{table.name}.entry", (len(table.entries),) * 2)
        taken.setdefault(table.default_action, []).append(shares.rest)
    passed = []
    for action, boxes in taken.items():
        around = (hull(each) for each in zip(*boxes, strict=True))
        narrowed = {**values, **dict(zip(names, around, strict=True))}
        goes_on = _act(program, table, action, narrowed, walk)
        passed += [goes_on] if goes_on is not None else []
    return {name: hull(each[name] for each in passed) for name in values} if passed else None


def _reason(table: Table, number: int, box: Box) -> str:
    cells = zip(table.match_fields, table.entries[number].match, box, strict=True)
    for f, cell, within in cells:
        if matched(f.match_type, cell, within) is None:
            return f"{f.name} lies in [{within[0]}, {within[1]}], the entry matches {f.match_type} {cell}"
    return "entries that come before it take all that it matches"


def _act(program: Program, table: Table, action: Action, values: Values, walk: Walk) -> Values | None:
    """Do what `action` does to inputs in `values`; return those that it leaves to the next table."""
    hook = find_hook(program.hook)
    answered: list[Interval] = []
    goes_on: Values | None = None
    match action.name:
        case "stop":
            walk.stops = True
        case "predict":
            answered = [(action.delta, action.delta)]
        case "classify":
            answered = [(hook.classes.index(action.class_name),) * 2]
        case "follow":
            low, high = values[action.feature]
            parts = (meet((low, high), (low, -1)), meet((low, high), (1, high)))
            answered = [part for part in parts if part is not None]
            goes_on = {**values, action.feature: (0, 0)} if low <= 0 <= high else None
        case "infer":
            model = next(each for each in program.models if each.name == action.model)
            answers = bound_model(model, tuple(values[name] for name in model.inputs), walk.claims)
            decides = answers.possible if hook.classes else answers.possible - {0}
            answered = [(answer, answer) for answer in decides]
            if answers.silent is not None and not hook.classes:
                goes_on = {**values, **dict(zip(model.inputs, answers.silent, strict=True))}
        case _:
            goes_on = values
    if action.name == "count":
        walk.claims.add(f"counters.{action.counter}", (0, 2**64 - 1))
    for interval in answered:
        walk.claims.add(f"tables.{table.name}.answer", interval)
    walk.answers += answered
    return goes_on


def _decide(program: Program, hook: Hook, walk: Walk, *, falls_through: bool) -> None:
    """Claim what is decided, once the guards have looked at it."""
    limit = program.guards.delta_limit_pages
    alive = [part for each in walk.answers if (part := meet(each, (-limit, limit))) is not None]
    for part in alive:
        walk.claims.add("decision", part)
    if falls_through:
        default = hook.classes.index(program.default_class) if hook.classes else 0
        walk.claims.add("decision", (default, default))
    if any(low < -limit or high > limit for low, high in walk.answers):
        walk.claims.add("decision", (0, 0))
    if not hook.classes:
        _roll_out(program, hull(alive) if alive else None, walk.claims)


def _roll_out(program: Program, delta: Interval | None, claims: Claims) -> None:
    """Claim the pages of each step, before they are compared with the end of the address space."""
    steps = program.guards.degree_pages if delta is not None else 0
    claims.add("rollout.degree", (0, steps))
    page: Interval | None = next(each.bounds for each in find_hook(program.hook).context if each.name == PAGE)
    for step in range(1, steps + 1):
        if page is None or delta is None:
            break
        page = page[0] + delta[0], page[1] + delta[1]
        claims.add(f"rollout.{step}.page", page)
        claims.add(f"rollout.{step}.distance", (step * delta[0], step * delta[1]))
        page = meet(page, (0, VPN_LIMIT - 1))
