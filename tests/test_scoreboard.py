"""What people get of results: marks that mean something, tables that fit, files that are whole."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ssd, workload
from rich.console import Console

from kdtool.errors import ParameterError
from kdtool.replay import load_policy, plots, replay, run_shadow
from kdtool.replay.curve import miss_curve
from kdtool.replay.files import check_target, whole_file
from kdtool.replay.plots import plot_curves, plot_results
from kdtool.replay.policies import BOUNDS
from kdtool.replay.resultfile import RESULT_SCHEMA_VERSION, result_schema, write_results
from kdtool.replay.scoreboard import print_curves, print_scoreboard

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def result():
    """A result to change: reclaim lru, no prefetches."""
    w = workload([*range(200), *range(200)])
    return replay(w, load_policy("none"), run_shadow(w, 100, ssd(), "lru"), ssd())


def board(results, **options):
    """Return the printed lines."""
    text = io.StringIO()
    print_scoreboard(results, Console(file=text, width=150, **options))
    return text.getvalue().splitlines()


def row_of(lines, policy):
    return next(line for line in lines if line.split()[:1] == [policy]).split()[1:]


def test_the_best_and_what_is_within_one_percent_of_it_is_marked(result):
    majors = {"a": 1000, "b": 1010, "c": 1011}
    lines = board([replace(result, policy=name, major_faults=n) for name, n in majors.items()])
    assert [row_of(lines, name)[0] for name in majors] == ["*1,000", "*1,010", "1,011"]
    assert "* the best, and what is within 1 % of it" in lines


def test_the_largest_share_is_the_best_and_an_unknown_one_none(result):
    shares = {"a": 0.5, "b": 0.9, "c": None}
    results = [replace(result, policy=name, accuracy=share) for name, share in shares.items()]
    assert [row_of(board(results), name)[1] for name in shares] == ["50.0%", "*90.0%", "–"]


def test_where_the_kernel_would_kill_the_program_it_is_said(result):
    killed = [replace(result, policy=name, oom_kills=n) for name, n in {"a": 0, "b": 3, "c": 1}.items()]
    note = "the kernel would kill it for its limit under {}; replay has it wait instead".format
    assert note("b, c") in board(killed)
    at_two = [replace(each, flush_phase_ns=phase) for each in killed for phase in (1, 2)]
    assert note("b (2 starts), c (2 starts)") in board(at_two)
    assert "kill" not in "".join(board([result]))


def test_where_all_are_alike_none_is_marked(result):
    lines = board([replace(result, policy=name, runtime_ns=10**9 + n) for n, name in enumerate("abc")])
    assert "*" not in "".join(lines)


def test_one_policy_alone_is_not_marked(result):
    assert "*" not in "".join(board([result]))


def test_an_oracle_is_never_marked_and_beats_nobody(result):
    majors = {"a": 1000, "b": 2000, "oracle": 1}
    lines = board([replace(result, policy=name, major_faults=n) for name, n in majors.items()])
    assert [row_of(lines, name)[0] for name in majors] == ["*1,000", "2,000", "1"]


def test_who_prefetches_nothing_is_not_praised_for_it(result):
    lines = board([result, replace(result, policy="a", pollution=0.5, late_hits=7)])
    assert row_of(lines, "none")[3:5] == ["0.0%", "0"]


def test_the_mark_is_bold_and_green_where_there_are_colours(result):
    results = [result, replace(result, policy="a", major_faults=1)]
    text = "\n".join(board(results, force_terminal=True, color_system="standard"))
    assert re.search(r"\x1b\[1;32m\s*\*1\x1b\[0m", text)


def test_a_row_that_is_best_in_one_phase_is_marked_and_the_range_is_shown(result):
    by_phase = {"a": [100, 400, 900], "b": [300, 300, 300], "c": [200, 500, 950]}
    results = [
        replace(result, policy=name, flush_phase_ns=phase, major_faults=majors[phase])
        for phase in range(3)
        for name, majors in by_phase.items()
    ]
    lines = board(results)
    assert [row_of(lines, name)[:2] for name in by_phase] == [
        ["*400", "100–900"],
        ["*300", "300–300"],
        ["500", "200–950"],
    ]
    assert "medians and ranges of 3 starts in the kernel's 2 s statistics period" in lines


def test_one_linux_phase_says_that_there_are_others(result):
    assert "--phases 9 tries nine" in board([replace(result, reclaim="linux")])[-1]
    assert "phases" not in board([result])[-1]


@pytest.mark.parametrize(("phases", "major"), [(1, 123_456_789), (3, 123_456)])
def test_a_table_of_large_numbers_fits_in_100_columns(result, phases, major):
    large = replace(
        result,
        policy="tree-instruction",
        major_faults=major,
        late_hits=1_234_567,
        accuracy=1.0,
        coverage=1.0,
        pollution=12.345,
        stall_ns=12_345_678_901_234,
        runtime_ns=major * 1000,
    )
    other = replace(large, policy="none", major_faults=1)
    lines = board([replace(each, flush_phase_ns=phase) for phase in range(phases) for each in (large, other)])
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)


def test_two_programs_of_one_name_are_told_apart(result):
    results = [replace(result, policy="tree", policy_version=version * 12) for version in "ab"]
    assert {"tree@aaaaaa", "tree@bbbbbb"} <= {line.split()[0] for line in board(results) if line.split()}


def test_a_policy_given_twice_is_shown_once(result):
    assert len([line for line in board([result, result]) if line.split()[:1] == ["none"]]) == 1
    assert not any("phases" in line or "range" in line for line in board([result, result]))


def test_memory_below_what_reduction_allows_is_said(result):
    lines = board([replace(result, k=64, memory_pages=100, exact_from_pages=577)])
    assert "k is large for less than 577 pages: record with a smaller --k" in lines


def curve_lines(curve):
    text = io.StringIO()
    print_curves([curve], Console(file=text, width=150))
    return text.getvalue().splitlines()


def test_a_curve_is_shown_by_parts_of_the_footprint():
    lines = curve_lines(miss_curve(workload([*range(100), *range(100)])))
    rows = [line.split() for line in lines if re.match(r"\s+\d+%", line)]
    assert [row[0] for row in rows] == ["5%", *(f"{percent}%" for percent in range(10, 101, 10))]
    assert rows[-2] == ["90%", "90", "0.352", "100", "200", "100.00%"]
    assert rows[-1] == ["100%", "100", "0.391", "0", "100", "50.00%"]
    assert not any("~" in line for line in lines)


def test_sizes_that_whole_mib_do_not_tell_apart_have_more_digits(result):
    def titles(*sizes):
        lines = board([replace(result, memory_pages=pages) for pages in sizes])
        return [line.split("(")[1].split(" MiB")[0] for line in lines if "pages (" in line]

    assert titles(4741, 9482) == ["19", "37"]
    assert titles(200, 280) == ["0.781", "1.09"]
    assert titles(127) == ["0.496"]
    assert titles(129) == ["1"]
    assert titles(31419, 31420) == ["122.730", "122.734"]
    assert titles(1, 128 << 8) == ["0.00391", "128"]


def test_a_curve_of_few_pages_has_no_size_twice_and_none_of_0():
    lines = curve_lines(miss_curve(workload([*range(1000), *range(1000)])))
    sizes = [line.split()[2] for line in lines if re.match(r"\s+\d+%", line)]
    assert sizes[:3] + sizes[-1:] == ["0.195", "0.391", "0.781", "3.91"]


def test_a_curve_says_where_it_is_not_exact():
    lines = curve_lines(miss_curve(workload([*range(100), *range(100)], k=30)))
    rows = [line.split() for line in lines if re.match(r"\s+\d+%", line)]
    assert [row[3].startswith("~") for row in rows] == [True] * 3 + [False] * 8
    assert lines[-1].startswith("exact from 30 pages on; ~ less than that")


def test_results_come_back_from_parquet_typed_and_with_a_version(result, tmp_path):
    path = tmp_path / "results.parquet"
    path.write_text("an older file")

    write_results([result, replace(result, policy="a", accuracy=0.25)], path)

    table = pq.read_table(path)
    assert table.to_pylist() == [result.to_row(), {**result.to_row(), "policy": "a", "accuracy": 0.25}]
    assert table.schema.field("runtime_ns").type == pa.int64()
    assert table.schema.field("trace").type == pa.string()
    assert table.schema.field("coverage").type == pa.float64()
    assert not table.schema.field("major_faults").nullable
    assert table.schema.field("accuracy").nullable
    assert table.schema.metadata[b"kdtool.schema_version"] == RESULT_SCHEMA_VERSION.encode() == b"1.2"
    assert list(tmp_path.iterdir()) == [path]


def test_the_columns_of_version_1_are_these(result):
    golden = Path(__file__).parent / "golden" / "result-columns.txt"
    columns = [f"{field.name} {field.type}{' null' * field.nullable}" for field in result_schema()]
    assert golden.read_text().splitlines() == columns
    assert list(result.to_row()) == result_schema().names


def test_pictures_are_whole_png_files_in_the_place_of_older_ones(result, tmp_path):
    results = [
        replace(result, policy=policy, memory_pages=pages, device=device, flush_phase_ns=phase)
        for policy in ("none", "a", "oracle")
        for pages in (50, 100)
        for device in ("ssd", "zram")
        for phase in (0, 1)
    ]
    for name, draw in (
        ("r.png", lambda path: plot_results(results, path)),
        ("c.png", lambda path: plot_curves([miss_curve(workload([1, 2, 3, 1], k=2))] * 2, path)),
    ):
        path = tmp_path / name
        path.write_bytes(b"older")
        draw(path)
        assert path.read_bytes().startswith(PNG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "r.png"]


def test_a_picture_tells_sizes_and_bounds_apart(result, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    policies = ("none", *(bound.name for bound in BOUNDS))
    results = [
        replace(result, policy=policy, memory_pages=pages) for policy in policies for pages in (200, 280)
    ]

    plot_results(results, tmp_path / "r.png")

    for axis in drawn[0].axes:
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0.781", "1.09"]
        assert axis.get_xticks().tolist() == [200 / 256, 280 / 256]
        lines = axis.get_lines()
        assert len({line.get_marker() for line in lines}) == len(policies) == 4
        assert len({line.get_linestyle() for line in lines[1:]}) == len(BOUNDS)


def test_a_file_that_fails_half_way_leaves_the_older_one(tmp_path):
    path = tmp_path / "r.png"
    path.write_text("older")
    with pytest.raises(ParameterError, match="No space left"), whole_file(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("p.pdf", "must end in .png: give p.png"),
        ("missing/p.png", "there is no folder"),
        ("d.png", "cannot be written"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_beforehand(tmp_path, name, saying):
    (tmp_path / "d.png").mkdir()
    with pytest.raises(ParameterError, match=re.escape(saying)):
        check_target(tmp_path / name, ".png")


def test_no_file_takes_the_place_of_a_device(tmp_path):
    (tmp_path / "p.png").symlink_to("/dev/null")
    with pytest.raises(ParameterError, match="cannot be written: choose another"):
        check_target(tmp_path / "p.png", ".png")
