"""Refuted: entries that nothing reaches, with the reason; sums and classes, with events that show them."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_PROGRAMS

from kdtool.rmt import (
    Action,
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
from kdtool.verify import value_intervals, verify_program
from kdtool.verify.witness import events_for

PASS, THREE = Action("no_action"), Action("predict", delta=3)


def finding(program, check, verdict="refuted"):
    program = replace(program, budget=worst_case(program))
    return next(f for f in verify_program(program).findings if (f.check, f.verdict) == (check, verdict))


def shown(program, refuted):
    """Return the value of a witness, which the reference VM has after the events of it."""
    value, _, events = refuted.witness.partition(" after ")
    name, _, number = value.partition(" = ")
    seen = []
    vm = Vm(program, lambda *each: seen.append(each))
    for event in json.loads(events):
        vm.decide(dict(zip(find_hook(program.hook).field_names, event, strict=True)))
    assert (name, int(number)) in seen
    return int(number)


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
        assert not -(2**31) <= shown(program, finding(program, "sums")) < 2**31

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ANY_PROGRAMS)
    def test_whatever_is_refuted_of_a_random_program_is_shown(self, program):
        for each in verify_program(replace(program, budget=worst_case(program))).findings:
            if each.verdict == "refuted" and each.check == "sums":
                assert not -(2**31) <= shown(program, each) < 2**31
            if each.verdict == "refuted" and each.check == "classes":
                assert not 0 <= shown(program, each) < len(find_hook(program.hook).classes)

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
