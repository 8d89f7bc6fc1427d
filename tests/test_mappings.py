"""Entries are counted before they are made: each count is what making them gives."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import trees
from test_cli import kdtool

from kdtool.rmt import stride_program, tree_to_table, write_program
from kdtool.rmt.mappings import count_mappings, n_prefixes


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


@settings(max_examples=200, deadline=None)
@given(trees(("d1", "s2")))
def test_the_counts_are_those_of_the_tree(tree):
    ranges, encoded, walk, ternary = count_mappings(tree)
    assert ranges.entries == len(tree_to_table(tree, "t").entries)
    assert walk.entries == sum(split >= 0 for split in tree.feature)
    assert walk.tables == max(tree.depth, 1)
    assert ternary.entries >= ranges.entries
    assert encoded.entries >= ranges.entries


def test_too_many_entries_are_refused_with_what_would_fit(tmp_path):
    program = stride_program()
    tree = replace(program.models[0], value=(0, 7, 0, 5, 9))
    write_program(replace(program, models=(tree,)), tmp_path / "p.rmt.json")

    done = kdtool("build", tmp_path / "p.rmt.json", "-o", tmp_path / "out", "--max-entries", 2, exit_code=1)

    assert "'next_delta' takes 3 range entries, allowed are 2" in done.stderr
    assert "encoded 7 (does not fit), node walk 2 (fits)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_estimate_builds_nothing(tmp_path):
    write_program(stride_program(), tmp_path / "p.rmt.json")

    done = kdtool("build", tmp_path / "p.rmt.json", "--estimate", "--max-entries", 4)

    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [line[:3] for line in lines[:2]] == [["next_delta", "range", "1"], ["next_delta", "encoded", "5"]]
    assert [line[-1] for line in lines] == ["fits", "fit", "fits", "fit"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.rmt.json"]


@pytest.mark.parametrize("arguments", [(), ("--target", "bpf")])
def test_a_folder_is_asked_for(tmp_path, arguments):
    write_program(stride_program(), tmp_path / "p.rmt.json")
    done = kdtool("build", tmp_path / "p.rmt.json", *arguments, exit_code=1)
    assert "give a folder to write to: -o DIR" in done.stderr
