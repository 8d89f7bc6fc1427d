"""Intervals: no value of any run lies outside, nor does a run take more steps than its bound."""

import json
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
    migrate_program,
    stride_program,
    worst_case,
)
from kdtool.rmt.vm import matches
from kdtool.verify import value_intervals, verify_program
from kdtool.verify.intervals import program as walk
from kdtool.verify.intervals.interval import is_solid, matched
from kdtool.verify.intervals.table import share_out
from kdtool.verify.witness import events_for

PROGRAMS, EVENTS = 600, 120
NOTHING = (1, 0)


class Seen(dict):
    """The least and the largest of each value that a VM was observed to have."""

    def __call__(self, name, value):
        low, high = self.get(name, (value, value))
        self[name] = min(low, value), max(high, value)


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


def finding(program, check, verdict="refuted"):
    program = replace(program, budget=worst_case(program))
    return next(f for f in verify_program(program).findings if (f.check, f.verdict) == (check, verdict))


class TestSound:
    @settings(max_examples=PROGRAMS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ANY_PROGRAMS, st.integers(0, 2**32))
    def test_no_value_of_a_run_lies_outside_and_no_run_takes_more_steps(self, program, seed):
        contexts = executors.random_contexts(seed, EVENTS, program.hook).tolist()
        seen, steps = watched(program, contexts)
        assert not outside(value_intervals(program), seen)
        assert steps <= worst_case(program).steps

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


def first_match(table, x):
    """Return the number of the entry that matches x, the number of entries if none does."""
    for number, entry in sorted(enumerate(table.entries), key=lambda each: -each[1].priority):
        fields = zip(table.match_fields, x, entry.match, strict=True)
        if all(matches(f.match_type, value, cell) for f, value, cell in fields):
            return number
    return len(table.entries)


PASS, THREE = Action("no_action"), Action("predict", delta=3)


class TestReached:
    def program(self, *entries, default=PASS):
        run = Feature("run", "run", "process", 3)
        table = Table("t", (MatchField("run", "RANGE"),), entries, default)
        return replace(stride_program(), features=(run,), models=(), tables=(table,))

    @pytest.mark.parametrize("cell", [(-3, -1), (4, 9)])
    def test_a_run_is_never_negative_nor_longer_than_its_lag(self, cell):
        found = finding(self.program(Entry((cell,), 1, THREE), Entry(((1, 2),), 1, THREE)), "reached")
        assert found.message == "table t: entry 0 is never reached"
        assert found.witness == f"run lies in [0, 3], the entry matches RANGE {cell}"

    def test_entries_that_take_everything_together_hide_one(self):
        cells_ = [(2, 3), (0, 0), (1, 1), (0, 3)]
        entries = [Entry((cell,), 9 - at, THREE) for at, cell in enumerate(cells_)]
        found = finding(self.program(*entries), "reached")
        assert found.message == "table t: entry 3 is never reached"
        assert found.witness == "entries that come before it take all that it matches"
        assert finding(self.program(*entries[1:]), "reached", "proved")

    def test_a_table_behind_one_that_always_decides_is_never_asked(self):
        program = self.program(default=THREE)
        program = replace(program, tables=(*program.tables, replace(program.tables[0], name="u")))
        found = finding(program, "reached")
        assert (found.message, found.witness) == ("table u is never asked", "table t always decides")

    def test_a_leaf_that_no_input_reaches_is_no_answer(self):
        tree = Tree("m", ("run",), (0, -1, -1), (3, 0, 0), (1, -1, -1), (2, -1, -1), (0, 5, 99))
        program = self.program(default=Action("infer", model="m"))
        assert value_intervals(replace(program, models=(tree,)))["decision"] == (5, 5)


class TestWitness:
    """What is refuted is shown by events, which the reference VM runs."""

    @pytest.mark.parametrize("n_trees", [1, 5])
    def test_a_sum_of_scores_that_overflows(self, n_trees):
        tree = ScoreTree(
            (1, 0, -1, -1, -1),
            (0, -7, 0, 0, 0),
            (1, 2, -1, -1, -1),
            (4, 3, -1, -1, -1),
            (0, 0, 0, 1, 1, 1),
            (1,),
            (2**31 - 1,),
        )
        forest = Forest("f", ("d1", "s2"), (3, 4), (0, 1), (tree,) * n_trees)
        self.shows_an_overflow(forest)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_sum_of_a_network_that_overflows(self, sign):
        layers = (
            Dense(((1, 0), (0, 1)), (0, 0), 2, 1),
            Dense(((127, 127),), (sign * (2**31 - 32000),), 0, 0),
        )
        if sign < 0:
            layers = (Dense(((127, -127),), (-(2**31) + 32000,), 0, 0),)
        self.shows_an_overflow(Network("n", ("d1", "s2"), (0, 4), layers, (5,)))

    def shows_an_overflow(self, model):
        table = Table("t", (), (), Action("infer", model=model.name))
        program = replace(stride_program(), models=(model,), tables=(table,))
        value, _, events = finding(program, "sums").witness.partition(" after ")
        name, _, number = value.partition(" = ")
        seen = []
        vm = Vm(program, lambda *each: seen.append(each))
        for event in json.loads(events):
            vm.decide(dict(zip(find_hook(program.hook).field_names, event, strict=True)))
        assert (name, int(number)) in seen
        assert not -(2**31) <= int(number) < 2**31

    def test_inputs_that_contradict_each_other_refute_nothing(self):
        """d1 and s1 are the same difference: only were they of different signs would the sum overflow."""
        features = (Feature("d1", "delta", "process", 1), Feature("s1", "span", "process", 1))
        layers = (Dense(((127, -127),), (2**31 - 1 - 127 * 127 - 100,), 0, 0),)
        network = Network("n", ("d1", "s1"), (0, 0), layers, (5,))
        table = Table("t", (), (), Action("infer", model="n"))
        program = replace(stride_program(), features=features, models=(network,), tables=(table,))
        assert finding(program, "sums", "unknown").witness == ""

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.integers(-50, 50), min_size=4, max_size=4))
    def test_events_give_features_the_values_that_are_wanted(self, jumps):
        features = (Feature("d2", "delta", "process", 2), Feature("s3", "span", "process", 3))
        features += (Feature("s4", "span", "process", 4), Feature("run", "run", "process", 1))
        program = stride_program()
        program = replace(program, features=features, registers=(replace(program.registers[0], history=5),))
        wanted = {"d2": jumps[0], "s3": jumps[1], "s4": jumps[2], "run": 1}
        vm = Vm(program)
        for event in events_for(program, wanted):
            histories = vm.observe(event)
        assert vm.features(histories, event) == wanted

    def test_fields_and_values_are_given_too(self):
        program = migrate_program()
        assert events_for(program, {"ran": 77})[-1]["since_ran_ns"] == 77
        assert events_for(program, {"ran": -1}) == []
