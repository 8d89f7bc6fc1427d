"""`kdtool info --plot`: every row is in a cell, addresses are stacked in order, the file is a whole PNG."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from builders import write_refs
from hand_traces import accel_trace, blockio_trace, faults_trace, refs_trace, sched_trace, write_trace
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_cli import kdtool, refused

from kdtool.errors import TraceError
from kdtool.traces import NO_TIME, SchedEvent
from kdtool.traces.heatmap import panels_of
from kdtool.traces.heatmap.draw import DPI, WIDTH_IN, draw
from kdtool.traces.heatmap.grid import Grid
from kdtool.traces.heatmap.panel import N_X, N_Y
from kdtool.traces.heatmap.stack import KEPT, Stack
from kdtool.traces.info.pages import Footprint


def panel_of(trace):
    (panel,) = panels_of(trace)
    return panel


# ---- what is in the cells ------------------------------------------------------------------------------


def test_every_fault_is_in_one_cell_and_major_ones_are_marked(tmp_path):
    panel = panel_of(faults_trace(tmp_path / "t.kdt"))

    assert panel.grid.cells.sum() == 11
    assert panel.marks.cells.sum() == 3
    assert (panel.marks.cells <= panel.grid.cells).all()


def test_addresses_rise_by_process_and_are_named_by_their_mapping(tmp_path):
    panel = panel_of(faults_trace(tmp_path / "t.kdt"))

    rows = [int(np.flatnonzero(column)[0]) for column in panel.grid.cells.T if column.any()]
    assert rows == [0, 1, 2, 3, 1, 4, 5, 6, 7, 8, 9]
    names = [name for _, name in panel.rows.ticks]
    assert names == ["app", "anon", "heap", "stack", "app", "unknown"]
    assert panel.rows.groups == [(3.5, "app (100)"), (8.5, "app (200)")]


def test_references_are_drawn_over_the_rows_of_the_table(tmp_path):
    panel = panel_of(refs_trace(tmp_path / "t.kdt"))

    assert not panel.x_is_time
    assert panel.grid.cells.sum(axis=0).tolist() == [1, 1, 1, 1, 1, 1]
    assert np.argmax(panel.grid.cells, axis=0).tolist() == [0, 1, 2, 1, 3, 1]


def test_disks_have_a_panel_each_with_the_requests_whose_time_is_known(tmp_path):
    disk, other = panels_of(blockio_trace(tmp_path / "t.kdt"))

    assert (disk.grid.cells.sum(), disk.marks.cells.sum()) == (4, 1)
    assert other.grid.cells.sum() == 1
    assert disk.title.startswith("disk 254:0, 5 requests")


def test_cpus_are_as_full_as_threads_of_the_workload_ran(tmp_path):
    panel = panel_of(sched_trace(tmp_path / "t.kdt"))

    assert [name for _, name in panel.rows.ticks] == ["CPU 0", "CPU 1"]
    assert panel.grid.cells.sum(axis=1).tolist() == [300, 800]
    assert panel.grid.cells.max() <= panel.whole


def test_devices_are_as_full_as_their_commands_took(tmp_path):
    panel = panel_of(accel_trace(tmp_path / "t.kdt"))

    names = [name for _, name in panel.rows.ticks]
    took_us = dict(zip(names, (panel.grid.cells.sum(axis=1) // 1000).tolist(), strict=True))
    assert took_us == {
        "device 0 kernel": 70,
        "device 0 h2d": 20,
        "device 0 gpu_fault": 0,
        "device 1 d2h": 5,
    }


def test_tables_without_addresses_share_one_span(tmp_path):
    accel = [(0, 0, 5_000, 6_000, 1, 0, 0, 0, 0, 0, 0)]
    sched = [(1_000, 0, SchedEvent.SWITCH, 0, 1, 120, 0, -1), (9_000, 0, SchedEvent.SWITCH, 1, 0, 120, 1, -1)]

    cpus, devices = panels_of(write_trace(tmp_path / "t.kdt", {"accel": accel, "sched": sched}))

    assert (cpus.grid.start, cpus.grid.end) == (devices.grid.start, devices.grid.end)
    assert cpus.grid.start == 0
    assert cpus.grid.end > 9_000


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(NO_TIME, 2000),
            st.integers(1, 3),
            st.just(1),
            st.just(0),
            st.integers(0, 50) | st.integers(2**52 - 300, 2**52 - 1),
            st.just(0),
            st.booleans(),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_the_heat_is_the_rows_that_have_a_time(tmp_path_factory, rows):
    made = write_trace(tmp_path_factory.mktemp("t") / "t.kdt", {"faults": rows})
    timed = [row for row in rows if row[0] >= 0]
    if not timed:
        with pytest.raises(TraceError, match="nothing to plot"):
            panels_of(made)
        return

    panel = panel_of(made)

    assert panel.grid.cells.sum() == len(timed)
    assert panel.marks.cells.sum() == sum(row[6] for row in timed)
    assert panel.grid.cells.shape[0] <= N_Y
    assert panel.grid.cells.shape[1] <= N_X


@settings(deadline=None)
@given(stretches=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 99), st.integers(0, 99)), max_size=12))
@example(stretches=[(0, 99, 99)])
def test_stretches_lie_in_cells_to_the_nanosecond(stretches):
    stretches = [(y, min(ends), max(ends)) for y, *ends in stretches]
    grid = Grid(n_y=2, n_x=9, start=0, unit=11)
    expected = np.zeros((2, 9), np.int64)
    for y, start, end in stretches:
        for t in range(start, end):
            expected[y, t // 11] += 1

    grid.add_stretches(*np.array(stretches, np.int64).reshape(-1, 3).T)

    assert np.array_equal(grid.cells, expected)


@settings(deadline=None)
@given(
    spaces=st.lists(
        st.sets(st.integers(0, 60) | st.integers(10**6, 10**6 + 60), min_size=1), min_size=1, max_size=3
    ),
    n_rows=st.integers(1, 50),
)
def test_a_stack_keeps_the_order_and_leaves_only_large_holes_out(spaces, n_rows):
    footprint = Footprint()
    for space, pages in enumerate(spaces):
        footprint.add(space, np.array(sorted(pages), np.uint64))
    stack = Stack(footprint, range(len(spaces)), n_rows)
    places = []
    for space, pages in enumerate(spaces):
        places += stack.rows_of(space, np.array(sorted(pages), np.uint64)).tolist()

    assert stack.n_rows <= n_rows
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, stack.n_rows - 1)
    assert footprint.count <= stack.bounds[-1] <= footprint.count + footprint.count // KEPT
    if stack.unit == 1:
        alone = Footprint()
        alone.add(0, np.array(sorted(spaces[0]), np.uint64))
        assert all(a < b for a, b in pairwise(places))
        found = [stack.middle_of(row) for row in places[: len(spaces[0])]]
        assert found == [(0, page) for page in sorted(spaces[0])]


# ---- the file ------------------------------------------------------------------------------------------


def png_size(path):
    """Return width and height of a PNG, after checking that it is whole."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("make", [faults_trace, refs_trace, blockio_trace, sched_trace, accel_trace])
def test_the_plot_is_a_png_of_its_figures_size(make, tmp_path):
    trace = make(tmp_path / "t.kdt", command=["$\\frac", "名前", "\x1b"])
    _, height_in = draw(panels_of(trace), "title").get_size_inches()

    done = kdtool("info", trace.path, "--plot", tmp_path / "new" / "heat.png")

    assert png_size(tmp_path / "new" / "heat.png") == (int(WIDTH_IN * DPI), int(height_in * DPI))
    assert done.stdout.splitlines()[-1].startswith("plot ")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["heat.png"]


def test_a_plot_replaces_an_earlier_one(tmp_path):
    trace, file = write_refs(tmp_path / "t.kdt", [1, 2, 3]), tmp_path / "heat.png"
    file.write_bytes(b"an earlier one")

    kdtool("info", trace.path, "--plot", file, "--json")

    assert png_size(file)


def test_a_trace_without_anything_to_draw_leaves_what_is_there(tmp_path):
    trace = write_trace(tmp_path / "t.kdt", {"tasks": [(1, 1, 1, "app")]})
    file = tmp_path / "heat.png"
    file.write_bytes(b"an earlier one")

    refused("info", trace.path, "--plot", file, saying="nothing to plot: it holds names, tasks")

    assert file.read_bytes() == b"an earlier one"


@pytest.mark.parametrize(
    ("name", "saying"),
    [("heat.jpg", "give --plot heat.png"), ("t.kdt", "give --plot t.png"), ("d.png", "folder")],
)
def test_other_files_are_not_overwritten(name, saying, tmp_path):
    trace = write_refs(tmp_path / "t.kdt", [1])
    (tmp_path / "d.png").mkdir()

    refused("info", trace.path, "--plot", tmp_path / name, saying=saying)


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    trace = write_refs(tmp_path / "t.kdt", [1])

    refused(
        "info", trace.path, "--plot", "/proc/no-such-folder/heat.png", saying="/proc/no-such-folder/heat.png"
    )
