"""The reference VM: what a program means, in plain Python. Slow, and the judge of every other executor."""

from collections.abc import Mapping
from itertools import pairwise

from kdtool.rmt.hooks import PAGE, find_hook
from kdtool.rmt.inference import Observer, infer, unseen
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN, Action, Feature, Program, Register, Table

__all__ = ["MULTIPLIER", "VPN_LIMIT", "Vm"]

MULTIPLIER = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd: Fibonacci hashing (Knuth, TAOCP vol. 3, 6.4)."""

VPN_LIMIT = 1 << 52
"""No virtual address has a page number this large: a prediction beyond it ends the rollout."""


class Vm:
    """Run `program` over a sequence of events, one `decide` per event; `see` is told every value on the way.

    >>> from kdtool.rmt.examples import stride_program
    >>> vm = Vm(stride_program())
    >>> [vm.decide({"vpn": v, "pid": 1, "tid": 1, "ip": 0, "region": 0, "major": 1}) for v in (10, 13, 16)]
    [[], [], [19, 22, 25, 28]]
    """

    def __init__(self, program: Program, see: Observer = unseen) -> None:
        self.program = program
        self._see = see
        self.hook = find_hook(program.hook)
        self.steps = 0
        self.counted = dict.fromkeys(program.counters, 0)
        self._state: dict[str, dict[int, tuple[int, list[int]]]] = {r.name: {} for r in program.registers}

    def decide(self, context: Mapping[str, int]) -> list[int]:
        """Take one event in; return the pages to prefetch, nearest first, at most degree_pages.

        At a hook that answers a class: the number of the class, alone.
        """
        self.steps = 0
        histories = self.observe(context)
        if self.hook.classes:
            return [self._apply(histories, context)]
        page, pages = context[PAGE], []
        for step in range(1, self.program.guards.degree_pages + 1):
            delta = self._apply(histories, context)
            if delta == 0:
                break
            page += delta
            self._see(f"rollout.{step}.page", page)
            self._see(f"rollout.{step}.distance", page - context[PAGE])
            if not 0 <= page < VPN_LIMIT:
                break
            pages.append(page)
            for r in self.program.registers:
                if r.records == PAGE:
                    histories[r.name] = [page, *histories[r.name]][: r.history]
        self._see("rollout.degree", len(pages))
        return pages

    def observe(self, context: Mapping[str, int]) -> dict[str, list[int]]:
        """Push the event into the registers; return each one's history, newest first."""
        return {r.name: self._push(r, context) for r in self.program.registers}

    def features(self, histories: Mapping[str, list[int]], context: Mapping[str, int]) -> dict[str, int]:
        """Return every feature's value."""
        return {
            f.name: compute_feature(f, [context[f.field]] if f.field else histories[f.register])
            for f in self.program.features
        }

    def _push(self, register: Register, context: Mapping[str, int]) -> list[int]:
        tag = hash_key([context[name] for name in register.key])
        index = tag & (register.size - 1)
        found, history = self._state[register.name].get(index, (tag, []))
        history = [context[register.records], *(history if found == tag else [])][: register.history]
        self._see(f"registers.{register.name}.slot", index)
        self._see(f"registers.{register.name}.length", len(history))
        self._state[register.name][index] = (tag, history)
        return history

    def _apply(self, histories: Mapping[str, list[int]], context: Mapping[str, int]) -> int:
        """Return the predicted difference in pages, 0 for none; or the number of a class."""
        fields = {name: context[name] for name in self.hook.values}
        values = {**self.features(histories, context), **fields}
        for name, value in values.items():
            self._see(f"values.{name}", value)
        self.steps += len(self.program.features)
        decision = self.hook.classes.index(self.program.default_class) if self.hook.classes else 0
        for table in self.program.tables:
            action = self._look_up(table, values)
            if action.name == "stop":
                break
            answer = self._perform(action, values)
            if answer is not None:
                self._see(f"tables.{table.name}.answer", answer)
                decision = answer if abs(answer) <= self.program.guards.delta_limit_pages else 0
                break
        self._see("decision", decision)
        return decision

    def _look_up(self, table: Table, values: Mapping[str, int]) -> Action:
        for f in table.match_fields:
            self._see(f"tables.{table.name}.{f.name}", values[f.name])
        # Larger priority wins; entries of one priority keep the order of the file.
        for number, entry in sorted(enumerate(table.entries), key=lambda each: -each[1].priority):
            self.steps += 1
            cells = zip(table.match_fields, entry.match, strict=True)
            if all(matches(f.match_type, values[f.name], pair) for f, pair in cells):
                self._see(f"tables.{table.name}.entry", number)
                return entry.action
        self._see(f"tables.{table.name}.entry", len(table.entries))
        return table.default_action

    def _perform(self, action: Action, values: Mapping[str, int]) -> int | None:
        """Return the answer; None leaves it to the next table, as does a difference of 0 pages."""
        answer = action.delta
        if action.name == "count":
            self.steps += 1
            self.counted[action.counter] = (self.counted[action.counter] + 1) % 2**64
            self._see(f"counters.{action.counter}", self.counted[action.counter])
        elif action.name == "classify":
            answer = self.hook.classes.index(action.class_name)
        elif action.name == "follow":
            answer = values[action.feature]
        elif action.name == "infer":
            model = next(m for m in self.program.models if m.name == action.model)
            answer, steps = infer(model, [values[name] for name in model.inputs], self._see)
            self.steps += steps
        is_class = self.hook.classes and action.name in ("classify", "infer")
        return answer if answer or is_class else None


def hash_key(values: list[int]) -> int:
    """Return the 64-bit hash of a register's key."""
    tag = MULTIPLIER
    for value in values:
        tag = ((tag ^ (value % 2**64)) * MULTIPLIER) % 2**64
        tag ^= tag >> 32
    return tag


def compute_feature(feature: Feature, history: list[int]) -> int:
    """Compute `feature` from a history, newest first; 0 while it is too short.

    >>> compute_feature(Feature("s", "span", "r", 2), [30, 20, 5])
    25
    """
    deltas = [newer - older for newer, older in pairwise(history)]
    if feature.op == "run":
        run = 0
        while run < min(feature.lag, len(deltas)) and deltas[run] == deltas[0]:
            run += 1
        return run
    if len(history) <= feature.lag:
        return 0
    value = history[feature.lag]
    if feature.op not in ("value", "field"):
        value = history[0 if feature.op == "span" else feature.lag - 1] - value
    return min(max(value, VALUE_MIN), VALUE_MAX)


def matches(match_type: str, value: int, pair: tuple[int, int]) -> bool:
    """Tell whether `value` (signed 32-bit) matches a cell.

    >>> matches("LPM", -1, (-256, 24)), matches("TERNARY", 6, (2, 3)), matches("RANGE", 4, (4, 9))
    (True, True, True)
    """
    first, second = pair
    match match_type:
        case "EXACT":
            return value == first
        case "RANGE":
            return first <= value <= second
        case "TERNARY":
            return value & second == first
        case _:
            return ((value ^ first) & 0xFFFFFFFF) >> (32 - second) == 0
