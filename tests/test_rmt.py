"""The program: its file format refuses what it must, and its two executors decide alike."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from builders import rehash
from executors import random_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier
from strategies import ANY_PROGRAMS, trees

from kdtool.errors import ProgramError
from kdtool.rmt import (
    LIMITS,
    Action,
    Tree,
    Vm,
    find_hook,
    from_document,
    leaf_boxes,
    lower_tree,
    pack,
    program_to_tables,
    read_program,
    stride_program,
    to_document,
    worst_case,
    write_program,
)
from kdtool.rmt.inference import walk_tree
from kdtool.rmt.numba_vm import decide, observe
from kdtool.rmt.program import CONTEXT_FIELDS


def contexts(events):
    rows = [(vpn, pid, tid, ip, vpn >> 13, int(major)) for vpn, pid, tid, ip, major in events]
    return np.array(rows, np.int64).reshape(-1, len(CONTEXT_FIELDS))


@settings(max_examples=400, deadline=None)
@given(ANY_PROGRAMS, st.integers(0, 2**32))
def test_numba_decides_as_the_reference_does_in_the_same_steps(program, seed):
    packed, vm = pack(program), Vm(program)
    state, out = packed.new_state(), np.zeros(LIMITS.degree_pages, np.int64)
    bound, names = worst_case(program).steps, find_hook(program.hook).field_names
    for row in random_contexts(seed, 40, program.hook):
        expected = vm.decide(dict(zip(names, row.tolist(), strict=True)))

        n = decide(packed.params, state, row, out)

        assert out[:n].tolist() == expected
        assert state[0] == vm.steps <= bound
    assert packed.counted(state) == vm.counted


def test_the_worst_case_counts_a_model_for_each_table_that_infers():
    stride = stride_program()
    table = next(table for table in stride.tables if table.default_action.name == "infer")
    twice = replace(stride, tables=(*stride.tables, replace(table, name="again")))
    depth = stride.models[0].depth
    added = worst_case(twice).steps - worst_case(stride).steps
    assert added == stride.guards.degree_pages * (depth + len(table.entries))


def test_the_state_is_all_that_an_executor_is_given_the_room_of_a_rollout_too():
    one, four = stride_program(degree_pages=1), stride_program(degree_pages=4)
    for program in (one, four):
        assert worst_case(program).state_bytes == pack(program).new_state().nbytes
    assert worst_case(four).state_bytes == worst_case(one).state_bytes + 3 * 8  # of its one register of pages


@settings(max_examples=100, deadline=None)
@given(ANY_PROGRAMS, st.integers(0, 2**32))
def test_numba_computes_the_features_of_the_reference(program, seed):
    packed, vm = pack(program), Vm(program)
    state, x = packed.new_state(), np.zeros(len(program.features), np.int64)
    for row in random_contexts(seed, 40, program.hook):
        context = dict(zip(find_hook(program.hook).field_names, row.tolist(), strict=True))
        histories = vm.observe(context)

        observe(packed.params, state, row, x)

        assert x.tolist() == list(vm.features(histories, context).values())


@settings(max_examples=200, deadline=None)
@given(ANY_PROGRAMS)
def test_a_program_survives_being_written_and_read(program):
    assert from_document(json.loads(json.dumps(to_document(program)))) == program


@settings(max_examples=200, deadline=None)
@given(trees(["a", "b"]), st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1))
def test_leaf_boxes_cover_every_input_once_with_the_trees_answer(tree, points):
    boxes = leaf_boxes(tree)
    for point in points:
        hits = [v for box, v in boxes if all(lo <= x <= hi for x, (lo, hi) in zip(point, box, strict=True))]
        assert hits == [walk_tree(tree, list(point))[0]]


@settings(max_examples=100, deadline=None)
@given(ANY_PROGRAMS, st.integers(0, 2**32))
def test_built_tables_decide_as_the_program_does(program, seed):
    # Entries that infer cannot be built; their place is taken by the default alone. Nor can other models.
    trees_alone = tuple(m for m in program.models if isinstance(m, Tree))
    others = {m.name for m in program.models} - {m.name for m in trees_alone}
    tables = tuple(
        replace(
            t,
            entries=tuple(e for e in t.entries if e.action.name != "infer"),
            default_action=Action("stop") if t.default_action.model in others else t.default_action,
        )
        for t in program.tables
    )
    program = replace(program, models=trees_alone, tables=tables)
    built = program_to_tables(program)
    first, second = Vm(program), Vm(built)
    assert not built.models
    names = find_hook(program.hook).field_names
    for row in random_contexts(seed, 40, program.hook):
        context = dict(zip(names, row.tolist(), strict=True))
        assert first.decide(context) == second.decide(context)
    assert first.counted == second.counted


def test_lowering_a_fitted_tree_loses_nothing():
    rng = np.random.default_rng(0)
    X = rng.integers(-50, 50, (2000, 4))
    y = np.where(X[:, 0] + X[:, 1] > 3, 7, np.where(X[:, 2] > X[:, 3], -2, 5))
    model = DecisionTreeClassifier(max_depth=8, random_state=0).fit(X, y)
    fitted = model.tree_
    tree = lower_tree(
        "m",
        ("a", "b", "c", "d"),
        feature=fitted.feature,
        threshold=fitted.threshold,
        left=fitted.children_left,
        right=fitted.children_right,
        value=model.classes_[fitted.value[:, 0, :].argmax(axis=1)],
    )
    expected = model.predict(X)
    assert [walk_tree(tree, x)[0] for x in X.tolist()] == expected.tolist()
    assert tree.n_leaves <= fitted.n_leaves


def test_the_first_of_two_registers_that_share_an_entry_starts_anew():
    program = replace(stride_program(), registers=(replace(stride_program().registers[0], size=1),))
    vm = Vm(program)
    event = {"tid": 1, "ip": 0, "region": 0, "major": 1}
    for vpn in (10, 13):
        vm.decide({**event, "vpn": vpn, "pid": 1})
    vm.decide({**event, "vpn": 99, "pid": 2})
    assert vm.decide({**event, "vpn": 16, "pid": 1}) == []


# Each change to a good document, and what the refusal must say.
BAD = {
    "cycle": (lambda d: d["models"][0]["left"].__setitem__(2, 0), "cycle"),
    "self-loop": (lambda d: d["models"][0]["right"].__setitem__(0, 0), "cycle"),
    "child beyond the end": (lambda d: d["models"][0]["left"].__setitem__(0, 5), "not in"),
    "two parents": (lambda d: d["models"][0]["left"].__setitem__(0, 2), "parents"),
    "leaf with a child": (lambda d: d["models"][0]["left"].__setitem__(1, 3), "leaf"),
    "feature index": (lambda d: d["models"][0]["feature"].__setitem__(0, 2), "not in"),
    "threshold too large": (lambda d: d["models"][0]["threshold"].__setitem__(0, 2**31), "not in"),
    "lengths differ": (lambda d: d["models"][0]["value"].pop(), "elements"),
    "unknown register": (lambda d: d["features"][0].__setitem__("register", "x"), "not one of"),
    "lag beyond history": (lambda d: d["features"][0].__setitem__("lag", 4), "not in"),
    "no power of two": (lambda d: d["registers"][0].__setitem__("size", 3), "power of two"),
    "unknown model": (lambda d: d["tables"][0]["default_action"].__setitem__("model", "x"), "not one of"),
    "low above high": (lambda d: d["tables"][0]["entries"][0]["match"].__setitem__(0, [4, 3]), "larger"),
    "too few pairs": (lambda d: d["tables"][0]["entries"][0]["match"].pop(), "elements"),
    "missing key": (lambda d: d["guards"].pop("degree_pages"), "missing key 'degree_pages'"),
    "unknown key": (lambda d: d.__setitem__("extra", 1), "unknown key 'extra'"),
    "degree": (lambda d: d["guards"].__setitem__("degree_pages", 65), "not in"),
    "true for a number": (lambda d: d["guards"].__setitem__("degree_pages", True), "integer"),
    "hook": (lambda d: d.__setitem__("hook", "mm.nothing"), "not one of"),
    "version": (lambda d: d.__setitem__("format_version", "2.0"), "format version"),
    "format": (lambda d: d.__setitem__("format", "other"), "not a program"),
    "predict nothing": (
        lambda d: d["tables"][0]["entries"][0]["action"].__setitem__("delta", 0),
        "0 pages",
    ),
    "name twice": (lambda d: d["features"][1].__setitem__("name", "d1"), "used twice"),
    "context name": (lambda d: d["features"][0].__setitem__("name", "vpn"), "context field"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_program_is_refused_with_the_place(case):
    change, message = BAD[case]
    document = to_document(stride_program())
    change(document)
    del document["sha256"]
    document["sha256"] = "0" * 64
    with pytest.raises(ProgramError) as caught:
        from_document(rehash(document))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1.5}', "1.5 is not an integer"),
        ('{"format": NaN}', "NaN is not an integer"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "not a program"),
        ("\x00\xff", "not JSON"),
    ],
)
def test_text_that_is_no_program_is_refused(tmp_path, text, message):
    path = tmp_path / "p.rmt.json"
    path.write_text(text)
    with pytest.raises(ProgramError, match=message):
        read_program(path)


def test_ten_million_entries_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "p.rmt.json"
    with path.open("w") as file:
        file.write('{"entries": [')
        file.write("1," * 10_000_000)
    with pytest.raises(ProgramError, match="bytes, at most"):
        read_program(path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_a_program_that_would_never_end_is_refused(tmp_path, kind):
    path = tmp_path / "p.rmt.json"
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    with pytest.raises(ProgramError, match="is not a regular file"):
        read_program(path)


def test_every_changed_byte_is_found(tmp_path):
    path = tmp_path / "p.rmt.json"
    write_program(stride_program(), path)
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(good), 300):
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(0, 7))
        path.write_bytes(bytes(bad))
        try:
            program = read_program(path)
        except ProgramError:
            continue
        # White space is not part of a program.
        assert program == stride_program()


def test_a_program_too_large_to_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("kdtool.rmt.codec.LIMITS", replace(LIMITS, file_bytes=1000))
    with pytest.raises(ProgramError, match=r"at most 1000 can be read again: train fewer or smaller trees"):
        write_program(stride_program(), tmp_path / "p.rmt.json")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProgramError, match="cannot be written"):
        write_program(stride_program(), tmp_path / "file" / "p.rmt.json")
    with pytest.raises(ProgramError, match=r"\.rmt\.json"):
        write_program(stride_program(), tmp_path / "p.json")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
