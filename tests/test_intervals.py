"""Intervals: no value of any run lies outside, nor does a run take more steps than its bound."""

from dataclasses import replace

import executors
import numpy as np
import pytest
from conformance_cases import read_cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_PROGRAMS, SMALL, cells, tables

from kdtool.rmt import (
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Conv1d,
    Dense,
    Entry,
    Feature,
    Forest,
    MatchField,
    Network,
    ScoreTree,
    Table,
    Tree,
    Vm,
    find_hook,
    stride_program,
    worst_case,
)
from kdtool.rmt.vm import matches
from kdtool.verify import value_intervals, verify_program
from kdtool.verify.intervals import program as walk
from kdtool.verify.intervals.interval import is_solid, matched
from kdtool.verify.intervals.table import share_out

PROGRAMS, EVENTS = 600, 120
NOTHING = (1, 0)
PASS, THREE = Action("no_action"), Action("predict", delta=3)


class Seen(dict):
    """The least and the largest of each value that a VM was observed to have; and entries, each of them."""

    def __init__(self):
        super().__init__()
        self.entries = set()

    def __call__(self, name, value):
        low, high = self.get(name, (value, value))
        self[name] = min(low, value), max(high, value)
        if name.endswith(".entry"):
            self.entries.add((name, value))


def watched(program, contexts):
    """Run `program` in the reference VM; return what was seen, and the most steps of a decision."""
    seen, most = Seen(), 0
    vm, names = Vm(program, seen), find_hook(program.hook).field_names
    for row in contexts:
        vm.decide(dict(zip(names, row, strict=True)))
        most = max(most, vm.steps)
    return seen, most


def outside(claims, seen):
    """Return the names of values that were seen outside of what is claimed, or that nothing claims."""
    return [
        name
        for name, (low, high) in seen.items()
        if low < claims.get(name, NOTHING)[0] or high > claims.get(name, NOTHING)[1]
    ]


class TestSound:
    @settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ANY_PROGRAMS, st.integers(0, 2**32))
    def test_no_value_of_a_run_lies_outside_and_no_run_takes_more_steps(self, program, seed):
        contexts = executors.random_contexts(seed, EVENTS, program.hook).tolist()
        seen, steps = watched(program, contexts)
        assert not outside(value_intervals(program), seen)
        assert steps <= worst_case(program).steps
        for each in walk.walk_program(program).unreached:
            assert (f"tables.{each.table}.entry", each.entry) not in seen.entries

    @pytest.mark.parametrize("case", read_cases(), ids=lambda case: case.name)
    def test_nor_of_a_case_that_was_worked_by_hand(self, case):
        seen, steps = watched(case.program, case.contexts.tolist())
        assert not outside(value_intervals(case.program), seen)
        assert steps <= worst_case(case.program).steps

    def test_an_interval_that_is_smaller_by_one_is_caught(self):
        """Each end that a run came to, that is: of this program, most."""
        program = every_kind()
        claims, (seen, _) = dict(value_intervals(program)), watched(program, edges(program))
        assert not outside(claims, seen)
        shrunk = 0
        for name, (low, high) in claims.items():
            for at, smaller in enumerate(((low + 1, high), (low, high - 1))):
                if seen.get(name, NOTHING)[at] == claims[name][at]:
                    assert outside({**claims, name: smaller}, seen) == [name]
                    shrunk += 1
        assert shrunk > len(claims)  # of 2 * len(claims) ends

    @pytest.mark.parametrize("op", ["run", "delta", "span"])
    def test_a_feature_that_is_bounded_too_tightly_is_caught(self, monkeypatch, op):
        program, bound = every_kind(), walk._feature
        monkeypatch.setattr(
            walk,
            "_feature",
            lambda f, *rest: (bound(f, *rest)[0], bound(f, *rest)[1] - (f.op == op)),
        )
        seen, _ = watched(program, edges(program))
        named = {f"values.{f.name}" for f in program.features if f.op == op}
        assert named <= set(outside(value_intervals(program), seen))


def every_kind():
    """Return a program with features, tables and models of every kind."""
    features = (Feature("d1", "delta", "process", 1), Feature("s2", "span", "process", 2))
    features += (Feature("run", "run", "process", 3),)
    names = ("d1", "run")
    tree = Tree(
        "tree",
        names,
        (1, 0, -1, -1, -1),
        (1, 0, 0, 0, 0),
        (1, 2, -1, -1, -1),
        (4, 3, -1, -1, -1),
        (0, 0, 0, 7, 0),
    )
    first = ScoreTree((1, -1, -1), (2, 0, 0), (1, -1, -1), (2, -1, -1), (0, 0, 1, 3), (0, 0, 1), (5, -5, 9))
    forest = Forest("forest", names, (0, -4), (1, 1), (first, first))
    layers = (
        Conv1d(1, 1, ((3,), (-2,)), (4, 5), 3, 2),
        Dense(((1, 2, 3, -4), (-1, 0, 1, 1)), (100, -100), 0, 0),
    )
    network = Network("network", names, (4, -3), layers, (0, 11))
    entries = (
        Entry(((-9, -1),), 2, Action("follow", feature="d1")),
        Entry(((-50, 0),), 1, Action("count", counter="few")),
    )
    tables_ = (
        Table("first", (MatchField("d1", "RANGE"),), entries, Action("infer", model="tree")),
        Table("second", (MatchField("s2", "TERNARY"),), (), Action("infer", model="forest")),
        Table("third", (MatchField("run", "EXACT"),), (), Action("infer", model="network")),
    )
    program = replace(stride_program(), features=features, models=(tree, forest, network), tables=tables_)
    return replace(program, counters=("few",))


def edges(program):
    """Return events of one process whose differences come to the ends of what they can be, and near 0."""
    random = np.random.default_rng(5)
    differences = [
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        -9,
        -1,
        2**51,
        -(2**51),
        2**51,
        5,
        5,
        5,
        5,
        -(2**51),
        -10,
        -49,
        -50,
    ]
    jumps = np.concatenate([differences, random.choice(differences, 3000)])
    pages = np.cumsum(jumps) % 2**52
    return [(int(page), 1, 1, 0, 0, at % 2) for at, page in enumerate(pages)]


class TestTables:
    @settings(max_examples=400, deadline=None)
    @given(st.data(), st.sampled_from(["EXACT", "RANGE", "TERNARY", "LPM"]), SMALL, SMALL)
    def test_what_a_cell_matches_of_an_interval_is_found_exactly(self, data, kind, one, other):
        cell, within = data.draw(cells(kind)), (min(one, other), max(one, other))
        found = [value for value in range(within[0], within[1] + 1) if matches(kind, value, cell)]
        assert matched(kind, cell, within) == ((found[0], found[-1]) if found else None)
        if found:
            assert is_solid(kind, cell, (found[0], found[-1])) == (found[-1] - found[0] == len(found) - 1)

    @settings(max_examples=400, deadline=None)
    @given(st.data(), st.integers(VALUE_MIN, VALUE_MAX))
    def test_no_value_that_a_ternary_cell_matches_lies_outside_of_what_is_found(self, data, value):
        mask = data.draw(st.integers(VALUE_MIN, VALUE_MAX))
        low, high = matched("TERNARY", (value & mask, mask), (VALUE_MIN, VALUE_MAX))
        assert low <= value <= high
        assert matches("TERNARY", low, (value & mask, mask))
        assert matches("TERNARY", high, (value & mask, mask))

    @settings(max_examples=300, deadline=None)
    @given(tables("t", ["a", "b"], st.just(Action("stop"))))
    def test_what_an_entry_gets_is_in_its_box_and_the_box_is_no_larger_than_that(self, table):
        """By trying all values near 0: exactly, unless a ternary cell matches scattered values."""
        box = ((-12, 12),) * len(table.match_fields)
        got = {number: [] for number in range(len(table.entries) + 1)}
        for values in np.ndindex(*(25,) * len(box)):
            x = [value - 12 for value in values]
            got[first_match(table, x)].append(x)
        shares = share_out(table, box)
        ternary = any(f.match_type == "TERNARY" for f in table.match_fields)
        for number, found in enumerate((*shares.entries, shares.rest)):
            points = got[number]
            assert found is not None or not points
            around = tuple((min(axis), max(axis)) for axis in zip(*points, strict=True)) if points else None
            if ternary and points:
                assert all(a[0] <= b[0] and b[1] <= a[1] for a, b in zip(found, around, strict=True))
            elif not ternary:
                assert found == around or (not box and points)

    def test_a_table_is_left_what_the_one_before_does_not_take(self):
        run = Feature("run", "run", "process", 3)
        first = Table("first", (MatchField("run", "RANGE"),), (Entry(((0, 1),), 1, Action("stop")),), PASS)
        second = Table("second", (MatchField("run", "EXACT"),), (Entry(((2, 2),), 1, THREE),), Action("stop"))
        program = replace(
            stride_program(), features=(*stride_program().features, run), tables=(first, second)
        )
        assert value_intervals(program)["tables.second.run"] == (2, 3)
        said = [f.message for f in verify_program(program).findings if f.check == "reached"]
        assert (
            said[1] == "table second: 1 entries, each within reach of its fields; run in [2, 3] is left to it"
        )

    @pytest.mark.parametrize(("values", "left"), [((0, 7), (0, 1)), ((7, 0), (2, 3)), ((0, 7, 0), (0, 3))])
    def test_a_table_is_left_what_a_tree_answers_0_to(self, values, left):
        """Leaves in turn: run up to 1, then, of three, 2, and what is longer."""
        columns = ((0, -1, -1), (1, 0, 0), (1, -1, -1), (2, -1, -1), (0, *values))
        if len(values) == 3:
            first, second, third = values
            columns = ((0, -1, 0, -1, -1), (1, 0, 2, 0, 0), (1, -1, 3, -1, -1), (2, -1, 4, -1, -1))
            columns = (*columns, (0, first, 0, second, third))
        run = Feature("run", "run", "process", 3)
        tree = Table("tree", (), (), Action("infer", model="m"))
        last = Table("last", (MatchField("run", "EXACT"),), (), THREE)
        program = replace(stride_program(), features=(run,), models=(Tree("m", ("run",), *columns),))
        assert value_intervals(replace(program, tables=(tree, last)))["tables.last.run"] == left


def first_match(table, x):
    """Return the number of the entry that matches x, the number of entries if none does."""
    for number, entry in sorted(enumerate(table.entries), key=lambda each: -each[1].priority):
        fields = zip(table.match_fields, x, entry.match, strict=True)
        if all(matches(f.match_type, value, cell) for f, value, cell in fields):
            return number
    return len(table.entries)
