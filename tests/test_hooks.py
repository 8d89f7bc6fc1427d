"""Hooks, classes and counters: what a file may say of them, what is proved, and who refuses what."""

import json
from dataclasses import replace

import executors
import needs
import numpy as np
import pytest
from builders import rehash
from test_cli import kdtool

from kdtool.deploy.faultdecisions import FaultDecisions
from kdtool.errors import ParameterError, ProgramError
from kdtool.live.policies import of_program
from kdtool.replay import ProgramPolicy
from kdtool.rmt import (
    HOOKS,
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Dense,
    Forest,
    MatchField,
    Network,
    ScoreTree,
    Table,
    Tree,
    Vm,
    find_hook,
    from_document,
    migrate_program,
    program_to_tables,
    stride_program,
    to_document,
    worst_case,
    write_program,
)
from kdtool.rmt.bpf import Layout, pack_policy, shape_of
from kdtool.rmt.hooks import PAGE
from kdtool.verify import build_tables, format_table, verify_program
from kdtool.verify.build import check_on_trace
from kdtool.verify.build_bpf import compare_in_kernel
from kdtool.verify.kernelvm import KernelVm

MIGRATE = find_hook("sched.migrate")


def inferring(model):
    """Return the migration program with one model for everything."""
    tables = (Table("all", (), (), Action("infer", model=model.name)),)
    program = replace(migrate_program(), models=(model,), tables=tables)
    return replace(program, budget=worst_case(program))


def tree(at_most, above):
    return Tree("m", ("ran",), (0, -1, -1), (499_999, 0, 0), (1, -1, -1), (2, -1, -1), (0, at_most, above))


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)
def test_a_hook_is_well_formed(hook):
    assert len(set(hook.field_names)) == len(hook.context)
    assert {field.use for field in hook.context} <= {"key", "address", "value"}
    for field in hook.context:
        low, high = field.bounds
        assert low < high
        if field.use == "value":
            assert low >= VALUE_MIN - 1 and high <= VALUE_MAX
        if field.use == "address":
            assert high < 2**62
    assert hook.field_names[0] == PAGE or len(set(hook.classes)) >= 2
    assert not set(hook.classes) & set(hook.field_names)


def test_an_unknown_hook_is_named():
    with pytest.raises(ParameterError, match=r"unknown hook 'sched.migrat': did you mean 'sched.migrate'"):
        find_hook("sched.migrat")


def at(*path):
    def change(document, value):
        owner = document
        for step in path[:-1]:
            owner = owner[step]
        owner[path[-1]] = value

    return change


ACTION = at("tables", 1, "default_action")
# Each change to the migration program, and what the refusal must say.
BAD = {
    "no default class": (at("default_class"), "", "default_class: '' is not one of: stay, migrate"),
    "another hook's class": (at("default_class"), "fast", "default_class: 'fast' is not one of"),
    "two answers": (at("guards", "degree_pages"), 2, "guards.degree_pages: 2 is not in [1, 1]"),
    "a limit of pages": (at("guards", "delta_limit_pages"), 9, "delta_limit_pages: 9 is not in [2147483647"),
    "an unknown class": (
        at("tables", 0, "default_action", "class_name"),
        "move",
        "tables[0].default_action.class_name: 'move' is not one of: stay, migrate",
    ),
    "an unknown counter": (
        at("tables", 0, "entries", 0, "action", "counter"),
        "cold",
        "action.counter: 'cold' is not one of: hot",
    ),
    "an address is predicted": (
        ACTION,
        {"name": "predict", "delta": 1, "model": "", "feature": "", "counter": "", "class_name": ""},
        "hook sched.migrate answers a class, which 'predict' does not",
    ),
    "a feature is followed": (
        ACTION,
        {"name": "follow", "delta": 0, "model": "", "feature": "ran", "counter": "", "class_name": ""},
        "hook sched.migrate answers a class, which 'follow' does not",
    ),
    "a key is kept": (
        at("registers", 0, "records"),
        "tid",
        "records: 'tid' is not one of: idle, since",
    ),
    "the page is kept": (at("registers", 0, "records"), "vpn", "records: 'vpn' is not one of"),
    "a key is matched": (
        at("tables", 1, "match_fields", 0, "name"),
        "dst_cpu",
        "'dst_cpu' is not one of: r",
    ),
    "another hook's key": (at("registers", 0, "key", 0), "dev", "key[0]: 'dev' is not one of: pid, tid"),
    "a value too old": (at("features", 0, "lag"), 2, "features[0].lag: 2 is not in [0, 1]"),
    "a difference of nothing": (at("features", 0, "op"), "delta", "features[0].lag: 0 is not in [1, 1]"),
    "a feature called as a field": (at("features", 0, "name"), "idle", "'idle' is a context field"),
    "too many counters": (
        at("counters"),
        [f"c{i}" for i in range(65)],
        "counters: 65 elements, allowed are",
    ),
    "a hook of pages": (at("hook"), "mm.swapin", "registers[0].records: 'since_ran_ns' is not one of"),
    "another hook of classes": (
        at("hook"),
        "blk.submit",
        "registers[0].records: 'since_ran_ns' is not one of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_program_of_classes_is_refused_with_the_place(case):
    change, value, message = BAD[case]
    document = to_document(migrate_program())
    change(document, value)
    with pytest.raises(ProgramError) as caught:
        from_document(rehash(document))
    assert message in str(caught.value)


def as_old(program, version):
    """Return a document as kdtool wrote it before there were classes."""
    document = to_document(program)
    for each, key in ((document, "counters"), (document, "default_class")):
        del each[key]
    for register in document["registers"]:
        del register["records"]
    for feature in document["features"]:
        del feature["field"]
    for table in document["tables"]:
        for action in (*(entry["action"] for entry in table["entries"]), table["default_action"]):
            del action["counter"], action["class_name"]
    if version == "1.0":
        for key in ("rate_pages", "min_accuracy_permille"):
            del document["guards"][key]
    return rehash({**document, "format_version": version})


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_older_files_are_read_and_know_no_classes(version):
    document = as_old(stride_program(), version)
    assert from_document(document) == stride_program()
    with pytest.raises(ProgramError, match=r"hook: 'sched.migrate' is not one of: mm.swapin"):
        from_document(rehash({**document, "hook": "sched.migrate"}))
    document["tables"][0]["default_action"]["name"] = "count"
    with pytest.raises(ProgramError, match=r"'count' is not one of: no_action, stop, predict, infer, follow"):
        from_document(rehash(document))


def test_a_program_of_classes_is_proved():
    report = verify_program(migrate_program())
    assert report.verdict == "proved"
    said = [f.message for f in report.findings if f.check == "classes"]
    assert said == ["every decision is one of stay, migrate; where no table decides: stay"]


def test_what_no_agent_runs_is_not_said_to_step_back_live():
    report = verify_program(migrate_program())
    (guard,) = [each.message for each in report.findings if each.check == "guards"]
    assert guard == "it asks that 50 % of its decisions be right; nothing runs sched.migrate live yet"


def forest(*answers):
    return Forest("m", ("ran",), answers, (0,) * len(answers), (forest_tree(),))


def forest_tree():
    return ScoreTree((0, -1, -1), (5, 0, 0), (1, -1, -1), (2, -1, -1), (0, 0, 1, 2), (0, 1), (3, 3))


def network(*answers):
    rows = tuple((c,) for c in range(len(answers)))  # the longer ago it ran, the later the class
    return Network("m", ("ran",), (0,), (Dense(rows, (0,) * len(answers), 0, 0),), answers)


@pytest.mark.parametrize("made", [tree, forest, network])
def test_a_model_that_answers_no_class_is_refuted_and_one_that_does_is_proved(made):
    wrong, right = verify_program(inferring(made(1, 2))), verify_program(inferring(made(1, 0)))
    (finding,) = [f for f in wrong.findings if f.check == "classes" and f.verdict == "refuted"]
    assert finding.message == "model m answers 2, allowed are 0 to 1 (stay, migrate)"
    assert right.verdict == "proved"


def test_the_witness_of_a_wrong_class_is_an_input_that_gets_it():
    program = inferring(tree(1, -3))
    (finding,) = [f for f in verify_program(program).findings if f.verdict == "refuted"]
    value, _, events = finding.witness.partition(" after ")
    contexts = [dict(zip(MIGRATE.field_names, event, strict=True)) for event in json.loads(events)]
    assert (value, Vm(program).decide(contexts[-1])) == ("models.m.answer = -3", [-3])


def test_a_tree_of_classes_becomes_a_table_of_them(tmp_path):
    tables, _ = build_tables(inferring(tree(0, 1)), tmp_path)
    assert format_table(tables.tables[0]).splitlines() == [
        "table all: ran RANGE",
        "  priority 1: ran <= 499999 -> classify stay",
        "  priority 1: ran >= 500000 -> classify migrate",
        "  default -> no_action",
    ]
    with pytest.raises(ProgramError, match=r"a model answers 2, hook sched.migrate has classes 0 to 1"):
        program_to_tables(inferring(tree(0, 2)))


@pytest.mark.parametrize("match_type", ["EXACT", "RANGE"])
def test_a_built_table_takes_every_value_of_a_field(match_type):
    program = inferring(tree(0, 1))
    keyed = replace(program.tables[0], match_fields=(MatchField("extra_fails", match_type),))
    built = program_to_tables(replace(program, tables=(keyed,), default_class="migrate"))
    context = dict.fromkeys(MIGRATE.field_names, 0)
    for extra_fails in (-(2**31), -(2**31) + 1, 2**31 - 1):
        assert Vm(built).decide({**context, "extra_fails": extra_fails}) == [0]


def test_a_counter_is_printed():
    assert "ran in 0..499999 -> count hot" in format_table(migrate_program().tables[0])


def test_only_those_who_ask_its_hook_take_a_program(tmp_path):
    program = migrate_program()
    message = r"program 'not-hot' is for hook sched.migrate, .* asks mm.swapin: give a program for that"
    for refuse in (
        lambda: ProgramPolicy(program),
        lambda: of_program(program),
        lambda: check_on_trace(program, program, tmp_path, "50%"),
        lambda: compare_in_kernel(program, tmp_path, "50%"),
    ):
        with pytest.raises(ProgramError, match=message):
            refuse()


@pytest.mark.root
@pytest.mark.beside
@needs.faults
@needs.bpf
def test_page_faults_ask_no_program_of_classes(tmp_path):
    with pytest.raises(ProgramError, match=r"a page fault asks mm.swapin"):
        FaultDecisions(tmp_path, migrate_program())


def counting(*counters, counted="a"):
    """Return a program that counts each event in one counter."""
    table = Table("all", (), (), Action("count", counter=counted))
    return replace(stride_program(), tables=(table,), counters=counters)


def test_code_is_made_for_a_hook_and_counters():
    layout = Layout(shape_of(counting("a", "b")))
    assert pack_policy(layout, counting("a", "b", counted="b"), 2)
    with pytest.raises(ProgramError, match="or other counters"):
        pack_policy(layout, counting("a"), 2)
    with pytest.raises(ProgramError, match="in its counters"):
        shape_of(counting("a"), counting("a", "b"))
    with pytest.raises(ProgramError, match="in its hook"):
        shape_of(migrate_program(), stride_program())


CONTEXTS = np.zeros((2, 6), np.int64)


def test_a_counter_wraps_at_two_to_the_64():
    vm, fast = Vm(counting("a", "b")), executors.NumbaVm(counting("a", "b"))
    vm.counted["a"] = 2**64 - 1
    fast.start({"a": 2**64 - 1, "b": 7})
    for row in CONTEXTS.tolist():
        vm.decide(dict(zip(find_hook("mm.swapin").field_names, row, strict=True)))
        fast.decide(row)
    assert vm.counted == {"a": 1, "b": 0}
    assert fast.counted == {"a": 1, "b": 7}


@pytest.mark.root
@pytest.mark.beside
@needs.bpf
def test_counters_stay_when_a_version_is_replaced_and_wrap_in_the_kernel():
    first, second = counting("a", "b"), counting("a", "b", counted="b")
    with KernelVm(first, second) as vm:
        vm.decide(CONTEXTS)
        vm.replace(second, 2)
        vm.decide(CONTEXTS[:1])
        assert vm.counted == {"a": 2, "b": 1}
        vm.reset()
        assert vm.counted == {"a": 0, "b": 0}
        vm._counters[1] = -1
        vm.decide(CONTEXTS)
        assert vm.counted == {"a": 0, "b": 1}


@pytest.mark.root
@pytest.mark.beside
@needs.bpf
def test_verify_takes_it_and_has_the_kernel_load_it(tmp_path):
    write_program(migrate_program(), tmp_path / "p.rmt.json")
    done = kdtool("verify", tmp_path / "p.rmt.json", "--load", "--json")
    findings = json.loads(done.stdout)["findings"]
    assert {"classes", "load"} <= {finding["check"] for finding in findings}
    assert not any("a second" in finding["message"] for finding in findings)


def test_an_unasked_model_may_answer_anything():
    program = replace(migrate_program(), models=(tree(7, 8),))
    assert verify_program(program).verdict == "proved"
