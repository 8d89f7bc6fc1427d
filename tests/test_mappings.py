"""Entries are counted before they are made: each count is what making them gives."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import trees
from test_cli import kdtool

from kdtool.errors import ProgramError
from kdtool.rmt import (
    Action,
    Entry,
    Table,
    Tree,
    find_hook,
    migrate_program,
    program_to_tables,
    stride_program,
    tree_to_table,
    worst_case,
    write_program,
)
from kdtool.rmt.mappings import _prefixes, count_mappings, n_prefixes
from kdtool.verify.build import build_tables


def prefixes_of(low, high, bits):
    """Return the largest aligned blocks that make up a range, found one number at a time."""
    found, at = 0, low
    while at <= high:
        block = max(k for k in range(bits + 1) if at % (1 << k) == 0 and at + (1 << k) - 1 <= high)
        at += 1 << block
        found += 1
    return found


@given(st.integers(0, 255), st.integers(0, 255))
def test_prefixes_are_counted(a, b):
    low, high = sorted((a, b))
    assert n_prefixes(low, high) == prefixes_of(low, high, 8)


SWAPIN, MIGRATE = find_hook("mm.swapin"), find_hook("sched.migrate")


@settings(max_examples=200, deadline=None)
@given(trees(("d1", "s2")))
def test_the_counts_are_those_of_the_tree(tree):
    table = Table("t", (), (), Action("infer", model=tree.name))
    ranges, encoded, walk, ternary = count_mappings(table, tree, SWAPIN)
    assert ranges.entries == len(tree_to_table(tree, "t").entries)
    assert walk.entries == sum(split >= 0 for split in tree.feature)
    assert walk.tables == max(tree.depth, 1)
    assert ternary.entries >= ranges.entries
    assert encoded.entries >= ranges.entries


@settings(max_examples=50, deadline=None)
@given(trees(("d1", "s2")), st.integers(0, 3))
def test_the_count_is_what_is_written(tree, n_above):
    above = tuple(Entry(((i, i), (5, 6)), 1, Action("predict", delta=3)) for i in range(n_above))
    program = stride_program()
    table = replace(program.tables[0], entries=above, default_action=Action("infer", model=tree.name))
    written = program_to_tables(replace(program, models=(tree,), tables=(table,))).tables[0]

    ranges, _, _, ternary = count_mappings(table, tree, SWAPIN)

    assert ranges.entries == len(written.entries)
    assert ranges.key_bits == 32 * len(written.match_fields)
    cells = [entry.match for entry in written.entries]
    assert ternary.entries == sum(
        _prefixes(a) * _prefixes(b) * _prefixes(c) * _prefixes(d) for a, b, c, d in cells
    )


def choosing_program():
    """A program of classes: 0, 1, 0 by how long ago the task ran."""
    program = migrate_program()
    tree = Tree("t", ("ran",), (0, -1, 0, -1, -1), (10, 0, 20, 0, 0), (1, -1, 3, -1, -1), (2, -1, 4, -1, -1),
                (0, 0, 0, 1, 0))  # fmt: skip
    table = Table("x", (), (), Action("infer", model="t"))
    program = replace(program, models=(tree,), tables=(table,), counters=())
    return replace(program, budget=worst_case(program))


def test_the_first_class_takes_entries_too(tmp_path):
    program = choosing_program()
    assert count_mappings(program.tables[0], program.models[0], MIGRATE)[0].entries == 3

    with pytest.raises(
        ProgramError, match="table 'x' takes 3 range entries, allowed are 2: train with fewer"
    ):
        build_tables(program, tmp_path / "out", max_entries=2)
    tables, _ = build_tables(program, tmp_path / "out", max_entries=3)
    assert len(tables.tables[0].entries) == 3


def test_too_many_entries_are_refused_with_what_would_fit(tmp_path):
    program = stride_program()
    tree = replace(program.models[0], value=(0, 7, 0, 5, 9))
    write_program(replace(program, models=(tree,)), tmp_path / "p.rmt.json")

    done = kdtool("build", tmp_path / "p.rmt.json", "-o", tmp_path / "out", "--max-entries", 3, exit_code=1)

    assert "table 'next_page' takes 4 range entries, allowed are 3" in done.stderr
    assert "encoded 8 (does not fit), node walk 3 (fits)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_entries_that_are_there_already_count(tmp_path):
    program = stride_program()
    entries = tuple(Entry(((i, i), (2 * i, 2 * i)), 1, Action("predict", delta=3)) for i in range(5))
    last = Table("last", program.tables[0].match_fields, entries, Action("no_action"))
    several = replace(program, tables=(*program.tables, last))
    several = replace(several, budget=worst_case(several))

    with pytest.raises(
        ProgramError, match="table 'last' takes 5 range entries, allowed are 4: train"
    ) as caught:
        build_tables(several, tmp_path / "out", max_entries=4)
    assert "other mappings" not in str(caught.value)
    with pytest.raises(ProgramError, match="table 'last' takes 5 entries"):
        program_to_tables(several, 4)
    assert len(build_tables(several, tmp_path / "out", max_entries=5)[0].tables) == 2


def wide_tree(depth):
    """A tree of 2**depth leaves over d1, each of another answer than its neighbour."""
    first_leaf = (1 << depth) - 1
    nodes = range(2 * first_leaf + 1)
    width = 1 << 16

    def threshold(node):
        level = (node + 1).bit_length() - 1
        return (
            ((node + 1 - (1 << level)) * 2 + 1) * (width << (depth - level - 1)) if node < first_leaf else 0
        )

    return Tree(
        "next_delta",
        ("d1",),
        tuple(0 if node < first_leaf else -1 for node in nodes),
        tuple(map(threshold, nodes)),
        tuple(2 * node + 1 if node < first_leaf else -1 for node in nodes),
        tuple(2 * node + 2 if node < first_leaf else -1 for node in nodes),
        tuple(node % 2 + 1 if node >= first_leaf else 0 for node in nodes),
    )


def test_no_more_entries_are_allowed_than_can_be_proved(tmp_path):
    program = replace(stride_program(), models=(wide_tree(13),))
    write_program(replace(program, budget=worst_case(program)), tmp_path / "p.rmt.json")

    done = kdtool("build", tmp_path / "p.rmt.json", "-o", tmp_path / "out", exit_code=1)
    said = kdtool("build", tmp_path / "p.rmt.json", "--estimate", "--max-entries", 60_000)

    assert "takes 8,193 range entries, allowed are 8,192, as many as can be proved: train with" in done.stderr
    assert "give a larger" not in done.stderr
    heading, ranges = [line.split() for line in said.stdout.splitlines()[:2]]
    assert heading[-1] == "8,192" and ranges[1:] == ["range", "8,193", "1", "96", "does", "not", "fit"]


def test_the_estimate_builds_nothing(tmp_path):
    write_program(stride_program(), tmp_path / "p.rmt.json")

    done = kdtool("build", tmp_path / "p.rmt.json", "--estimate", "--max-entries", 4)

    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [line[:3] for line in lines[:2]] == [["next_delta", "range", "2"], ["next_delta", "encoded", "6"]]
    assert [line[-1] for line in lines] == ["fits", "fit", "fits", "fit"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.rmt.json"]


@pytest.mark.parametrize("arguments", [(), ("--target", "bpf")])
def test_a_folder_is_asked_for(tmp_path, arguments):
    write_program(stride_program(), tmp_path / "p.rmt.json")
    done = kdtool("build", tmp_path / "p.rmt.json", *arguments, exit_code=1)
    assert "give a folder to write to: -o DIR" in done.stderr
