"""Verification: what is claimed holds on every run, and what is wrong is refuted with a witness."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import trees

from kdtool.errors import ProgramError
from kdtool.rmt import (
    LIMITS,
    Action,
    Budget,
    Dense,
    Entry,
    Forest,
    MatchField,
    Network,
    ScoreTree,
    Table,
    Tree,
    read_program,
    stride_program,
    tree_to_table,
    worst_case,
    write_program,
)
from kdtool.verify import (
    CHECKS,
    agreement,
    build_tables,
    compare_decisions,
    value_intervals,
    verify_program,
)
from kdtool.verify.build import build_p4runtime
from kdtool.verify.checks.bpf import check_bpf
from kdtool.verify.checks.cost import check_cost
from kdtool.verify.wholefile import write_whole


def verdict(program, check):
    return next(f for f in verify_program(program).findings if f.check == check)


def test_a_good_program_is_proved_by_every_check():
    report = verify_program(stride_program())
    assert report.verdict == "proved"
    assert {"form", "steps", "state", "depth", "degree", "predictions", "entries"} <= {
        f.check for f in report.findings
    }


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_every_check_finds_something_to_say(check):
    findings = check(replace(stride_program(), tables=(model_table(),)))
    assert findings
    assert all(f.verdict in ("proved", "refuted", "unknown") for f in findings)


def model_table(entries=()):
    return Table("next_page", (MatchField("d1", "RANGE"),), entries, Action("infer", model="next_delta"))


def test_a_budget_below_the_worst_case_is_refuted():
    program = replace(stride_program(), budget=Budget(steps=19, state_bytes=10_000))
    assert verdict(program, "steps").verdict == "refuted"
    assert verdict(program, "steps").witness == "worst case 20"
    assert verify_program(program).verdict == "refuted"


def test_entries_of_one_priority_that_overlap_are_refuted():
    low = Entry(((0, 5),), 1, Action("predict", delta=1))
    high = Entry(((5, 9),), 1, Action("predict", delta=2))
    program = replace(stride_program(), tables=(model_table((low, high)),))
    assert verdict(program, "entries").verdict == "refuted"
    assert "entries 0 and 1" in verdict(program, "entries").witness
    other = replace(high, priority=2)
    assert verdict(replace(program, tables=(model_table((low, other)),)), "entries").verdict == "proved"


@pytest.mark.parametrize(
    ("kind", "first", "second", "overlaps"),
    [
        ("TERNARY", (1, 3), (1, 1), True),
        ("TERNARY", (1, 1), (0, 1), False),
        ("LPM", (0, 24), (0, 28), True),
        ("LPM", (0, 24), (256, 24), False),
        ("LPM", (0, 0), (-256, 24), True),
        ("EXACT", (4, 4), (4, 4), True),
        ("EXACT", (4, 4), (5, 5), False),
    ],
)
def test_overlap_is_decided_for_every_match_type(kind, first, second, overlaps):
    entries = tuple(Entry((cell,), 1, Action("predict", delta=1)) for cell in (first, second))
    table = Table("t", (MatchField("d1", kind),), entries, Action("stop"))
    found = verdict(replace(stride_program(), tables=(table,)), "entries").verdict
    assert found == ("refuted" if overlaps else "proved")


def test_a_program_that_can_never_prefetch_is_refuted():
    table = Table("t", (), (), Action("stop"))
    assert verdict(replace(stride_program(), tables=(table,)), "predictions").verdict == "refuted"


def test_a_program_that_is_not_well_formed_gets_no_further():
    bad = replace(stride_program(), features=stride_program().features[:1])
    report = verify_program(bad)
    assert [f.check for f in report.findings] == ["form"]
    assert report.verdict == "refuted"


@settings(max_examples=200, deadline=None)
@given(trees(["a", "b"]))
def test_a_trees_own_table_agrees_and_a_changed_one_does_not(tree):
    table = tree_to_table(tree, "t")
    assert agreement(tree, table).verdict == "proved"
    if table.entries:
        wrong = replace(table.entries[0], action=Action("predict", delta=table.entries[0].action.delta + 1))
        assert agreement(tree, replace(table, entries=(wrong, *table.entries[1:]))).verdict == "refuted"
        assert agreement(tree, replace(table, entries=table.entries[1:])).verdict == "refuted"


def test_build_writes_tables_that_decide_alike(tmp_path):
    program = replace(stride_program(), tables=(model_table(),))
    tables, files = build_tables(program, tmp_path)
    rng = np.random.default_rng(0)
    events = np.zeros((500, 6), np.int64)
    events[:, 0] = np.cumsum(rng.choice([3, 5, 1, -2], 500)) + 1000
    assert read_program(files[0]) == tables
    assert not tables.models
    assert "predict +5" in files[1].read_text()
    assert compare_decisions(program, tables, events) is None
    other = replace(tables, tables=(replace(tables.tables[0], entries=()),))
    assert compare_decisions(program, other, events) is not None


def test_a_program_may_not_declare_more_steps_than_any_is_allowed():
    stops = tuple(Entry(((i, i),), 1, Action("stop")) for i in range(1, LIMITS.steps // 4))
    table = Table("scan", (MatchField("d1", "EXACT"),), stops, Action("predict", delta=1))
    program = replace(stride_program(), tables=(table,), models=())
    program = replace(program, budget=worst_case(program))
    finding = check_cost(program)[0]
    assert (finding.verdict, finding.check) == ("refuted", "steps")
    assert "at most 262144 are allowed" in finding.message


def test_what_a_jump_of_bpf_cannot_leap_over_is_refuted():
    n, depth = LIMITS.forest_classes, LIMITS.forest_depth
    nodes = [
        (0, -1) * depth + (-1,),  # a chain: node 2i splits, node 2i + 1 is a leaf
        (0,) * (2 * depth + 1),
        (*(x for i in range(depth) for x in (2 * i + 2, -1)), -1),
        (*(x for i in range(depth) for x in (2 * i + 1, -1)), -1),
    ]
    scores = (0,) * (2 * depth + 1) + (n,), tuple(range(n)), (1,) * n
    forest = Forest("f", ("d1", "s2"), tuple(range(n)), (0,) * n, (ScoreTree(*nodes, *scores),))
    tree = Tree("t", ("d1",), *nodes, (0,) * (2 * depth + 1))
    network = Network("n", ("d1", "s2"), (0, 0), (Dense(((1, 1), (1, -1)), (0, 0), 0, 0),), (0, 5))
    fields = (MatchField("d1", "RANGE"),) * LIMITS.match_fields
    matches = (((i, i),) * LIMITS.match_fields for i in (5, 6))
    entries = tuple(
        Entry(match, 1, Action("infer", model=model)) for match, model in zip(matches, "tn", strict=True)
    )
    tables = tuple(Table(f"t{i}", fields, entries, Action("infer", model="f")) for i in range(LIMITS.tables))
    program = replace(stride_program(), models=(forest, tree, network), tables=tables)
    (finding,) = check_bpf(replace(program, budget=worst_case(program)))
    assert (finding.verdict, finding.check) == ("refuted", "bpf")
    assert re.match(r"a jump over \d+ BPF instructions, allowed are 32767: give fewer", finding.witness)


def test_build_refuses_what_is_not_proved_and_writes_nothing(tmp_path):
    program = replace(stride_program(), budget=Budget(1, 1))
    with pytest.raises(ProgramError, match="is not proved: steps"):
        build_tables(program, tmp_path / "out")
    with pytest.raises(ProgramError, match="takes 2 range entries, allowed are 1"):
        build_tables(stride_program(), tmp_path / "out", max_entries=1)
    assert not (tmp_path / "out").exists()


def forest_program(base_scores, *scores):
    """A program that infers with a forest of two classes, +3 and +4; each tree is a leaf that scores +4."""
    trees_ = tuple(ScoreTree((-1,), (0,), (-1,), (-1,), (0, 1), (1,), (score,)) for score in scores)
    forest = Forest("f", ("d1",), (3, 4), base_scores, trees_)
    table = Table("t", (), (), Action("infer", model="f"))
    program = replace(stride_program(), models=(forest,), tables=(table,))
    return replace(program, budget=worst_case(program))


@pytest.mark.parametrize(
    ("base_scores", "scores", "verdict"),
    [
        ((0, 0), (2**31 - 1,), "proved"),
        ((0, 1), (2**31 - 1,), "refuted"),
        ((0, -1), (-(2**31) + 1,), "proved"),
        ((0, -2), (-(2**31) + 1,), "refuted"),
        ((0, 1), (2**31 - 1, -5), "refuted"),  # on the way, though not at the end
    ],
)
def test_sums_of_scores_are_proved_to_stay_inside_32_bits(base_scores, scores, verdict):
    report = verify_program(forest_program(base_scores, *scores))
    assert report.verdict == verdict
    assert [f.verdict for f in report.findings if f.check == "sums"] == [verdict]


def test_a_class_that_never_wins_is_no_prediction_of_the_program():
    assert value_intervals(forest_program((0, 0), 1))["decision"] == (4, 4)
    assert value_intervals(forest_program((0, 0), -1))["decision"] == (3, 3)
    assert value_intervals(forest_program((0, 0), 0))["decision"] == (3, 3)  # of equal sums the first wins


def test_the_budget_of_a_forest_counts_its_comparisons_scores_and_classes():
    program = forest_program((0, 0), 1, 2, 3)
    assert worst_case(program).steps == program.guards.degree_pages * (2 + 2 + 3)


def test_a_forest_is_not_built_as_tables(tmp_path):
    with pytest.raises(ProgramError, match=r"model 'f' is a Forest, .*: give --target bpf or train with"):
        build_tables(forest_program((0, 0), 1), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bias", "verdict"),
    [
        (2**31 - 1 - 127 * 3 - 128 * 2, "proved"),
        (2**31 - 127 * 3 - 128 * 2, "refuted"),
        (-(2**31) + 128 * 3 + 127 * 2, "proved"),
        (-(2**31) - 1 + 128 * 3 + 127 * 2, "refuted"),
    ],
)
def test_the_sums_of_a_network_are_bounded_exactly(bias, verdict):
    network = Network("n", ("d1", "s2"), (0, 0), (Dense(((3, -2),), (bias,), 0, 0),), (5,))
    table = Table("t", (), (), Action("infer", model="n"))
    program = replace(stride_program(), models=(network,), tables=(table,))
    program = replace(program, budget=worst_case(program))
    report = verify_program(program)
    assert report.verdict == verdict
    assert [f.verdict for f in report.findings if f.check == "sums"] == [verdict]


def test_a_hidden_layer_gets_nothing_negative():
    layers = (Dense(((1,),), (0,), 1, 1), Dense(((-100,), (100,)), (0, 0), 0, 0))
    network = Network("n", ("d1",), (0,), layers, (5, 6))
    assert network.sum_bounds() == [(-128, 127), (-12700, 12700)]
    layers = (layers[0], Dense(((100,),), (1,), 0, 0))
    assert replace(network, layers=layers, classes=(5,)).sum_bounds()[1] == (1, 12701)


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "stride-3-tables.txt").mkdir()
    (tmp_path / "stride-3-tables.p4info.json").mkdir()
    with pytest.raises(ProgramError, match=r"tables\.txt: cannot be written: Is a directory"):
        build_tables(stride_program(), tmp_path)
    (tmp_path / "stride-3-tables.txt").rmdir()
    with pytest.raises(ProgramError, match=r"p4info\.json: cannot be written: Is a directory"):
        build_p4runtime(stride_program(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_ctrl_c_while_a_file_takes_its_name_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    for write in (
        lambda: write_program(stride_program(), tmp_path / "p.rmt.json"),
        lambda: write_whole(tmp_path / "p.txt", b"text"),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert list(tmp_path.iterdir()) == []
