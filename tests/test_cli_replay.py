"""`kdtool replay` on the command line: curves, files, and one line for whatever cannot be replayed."""

import json
import subprocess
import sys

import needs
import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import refs_columns, strided_trace, write_refs
from test_cli import fault_trace, kdtool, refused

from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.replay import DEVICE_FIELDS, load_workload
from kdtool.replay.curve import miss_curve
from kdtool.traces import Manifest, Trace, TraceWriter


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return strided_trace(tmp_path_factory.mktemp("replay") / "strided.kdt", n_pages=600).path


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    return write_refs(tmp_path_factory.mktemp("reduced") / "r.kdt", [*range(600)] * 2, k=64).path


def test_the_command_starts_without_linear_algebra_and_leaves_it_to_others():
    script = (
        "import sys\n"
        "from kdtool.commands.quicknumba import import_compiled\n"
        "import_compiled('kdtool.replay.parallel')\n"
        "import kdtool.replay\n"
        "assert 'scipy.linalg' not in sys.modules\n"
        "import scipy.linalg.cython_blas\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_results_are_printed_drawn_and_written(trace, tmp_path):
    parquet, picture = tmp_path / "r.parquet", tmp_path / "r.png"
    options = ("-p", "none,leap-paper", "-m", "30%,60%", "--phases", 2, "--jobs", 2)

    done = kdtool("replay", trace, *options, "--parquet", parquet, "--plot", picture, "--json")

    assert pq.read_table(parquet).to_pylist() == json.loads(done.stdout)["rows"]
    assert len(json.loads(done.stdout)["rows"]) == 8
    assert picture.stat().st_size > 10_000
    assert done.stderr == ""


def test_the_default_is_a_process_for_each_cpu_and_one_gives_the_same(trace):
    def rows(*options):
        found = json.loads(kdtool("replay", trace, "--json", *options).stdout)["rows"]
        return [{**row, "replay_s": 0} for row in found]

    assert rows() == rows("--jobs", 1)


def test_a_curve_is_printed_drawn_and_given_whole(trace, reduced, tmp_path):
    picture = tmp_path / "c.png"

    text = kdtool("replay", trace, reduced, "--mrc", "--from", "10%", "--plot", picture).stdout
    curves = json.loads(kdtool("replay", trace, reduced, "--mrc", "--from", "10%", "--json").stdout)["curves"]

    for path, curve in zip((trace, reduced), curves, strict=True):
        workload = load_workload(Trace(path))
        assert curve == miss_curve(workload, from_row=workload.n_refs // 10).to_document()
    assert text.count("LRU without prefetching") == 2
    assert "exact from 64 pages on" in text
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["--jobs", "0"], "--jobs 0: give the number of processes"),
        (["--jobs", "-3"], "--jobs -3"),
        (["--phases", "0"], "--phases 0"),
        (["--phases", "2", "--reclaim", "lru"], "linux only"),
        (["--phases", "1000000000"], "--phases 1000000000 with linux reclaim: give 1 to 200"),
        (["--memory", ","], "',': a value is empty"),
        (["--policy", "none,,oracle"], "'none,,oracle': a value is empty"),
        (["--plot", "missing/p.png"], "there is no folder missing"),
        (["--plot", "p.svg"], "must end in .png"),
        (["--parquet", "missing/r.parquet"], "there is no folder missing"),
        (["--parquet", "r.csv"], "must end in .parquet"),
        (["--plot", "/proc/p.png"], "/proc/p.png"),
        (["--mrc", "--from", "100%"], "the trace has rows 0 to"),
        (["--mrc", "--from", "x"], "--from x"),
        (["--from", "9" * 5000], f"--from {'9' * 80}: give a row number or a percentage"),
        (["--from", f"{'9' * 5000}%"], f"--from {'9' * 80}: give a row number or a percentage"),
        (["--from", "9" * 40], f"--from {'9' * 40}: the trace has rows 0 to"),
        (["--memory", "9" * 5000], f"size '{'9' * 80}': give bytes"),
        (["--memory", f"1.{'9' * 5000}M"], "': give bytes or a number with K, M, G or T"),
        (["--memory", f"{'9' * 5000}%"], f"size '{'9' * 80}': give bytes"),
        (["--memory", f"{'9' * 40}T"], "the trace touches only"),
        (["--read-ahead", "9" * 5000], f"size '{'9' * 80}': give bytes"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(trace, arguments, saying, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("replay", trace, *arguments, saying=saying)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_memory_below_the_reductions_bound_is_refused(reduced, jobs):
    refused(
        "replay", reduced, "-m", "10%", "--jobs", jobs, saying="k = 64 needs 65 at least: give more memory"
    )


@pytest.mark.parametrize("options", [[], ["--mrc"]])
def test_a_fault_trace_cannot_say_what_others_would_have_missed(tmp_path, options):
    path = fault_trace(tmp_path / "f.kdt")
    refused(
        "replay", path, *options, saying="faults say what one memory and one policy missed, not what others"
    )
    refused("replay", path, *options, saying="--events refs")


def device_file(tmp_path, **changes):
    document = {name: {"value": 1, "source": "test"} for name in DEVICE_FIELDS}
    document.update(changes)
    path = tmp_path / "d.json"
    path.write_text(json.dumps({name: entry for name, entry in document.items() if entry is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "saying"),
    [
        ({"latency_ns": None}, "latency_ns has no value and source: each of"),
        ({"latency_ns": {"source": "test"}}, "latency_ns has no value and source"),
        ({"latency_ns": {"value": -1, "source": "test"}}, "latency_ns is -1: give an integer in [0, 2**40)"),
        ({"step_ps": {"value": 1.5, "source": "test"}}, "step_ps is 1.5"),
    ],
)
def test_a_device_file_with_a_bad_number_is_refused(trace, tmp_path, changes, saying):
    refused("replay", trace, "--device", device_file(tmp_path, **changes), saying=saying)


def test_a_device_file_that_is_not_there_or_no_json_is_named(trace, tmp_path):
    refused("replay", trace, "--device", tmp_path / "none.json", saying="none.json")
    (tmp_path / "bad.json").write_text("{")
    refused("replay", trace, "--device", tmp_path / "bad.json", saying="is not JSON")


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "none"],
        ["-m", "50%"],
        ["-d", "ssd"],
        ["--reclaim", "lru"],
        ["--jobs", "2"],
        ["--phases", "2"],
        ["--parquet", "r.parquet"],
    ],
)
def test_a_curve_with_what_is_not_for_it_is_a_usage_error(trace, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = kdtool("replay", trace, "--mrc", *options, exit_code=2)
    assert "goes with --from, --plot, --allow-loss and --json only" in " ".join(done.stderr.split())


@pytest.mark.root
@needs.root
def test_a_trace_larger_than_memory_is_replayed(tmp_path):
    """10 M references are 250 MB of columns; beside the interpreter and its libraries, 330 MiB hold half."""
    random = np.random.default_rng(1)
    with TraceWriter(tmp_path / "t.kdt") as writer:
        for _ in range(10):
            writer.append("refs", refs_columns(random.integers(0, 100_000, 1_000_000)))
        writer.seal(Manifest("complete", "insns", ["test"], {"name": "test"}))
    command = [sys.executable, "-m", "kdtool", "replay", tmp_path / "t.kdt", "--json", "--jobs", "1"]
    command += ["-p", "none", "-m", "195M", "--reclaim", "lru"]
    layout = find_layout()
    assert layout.memory is not None
    with OwnCgroup(layout, with_memory=True, with_events=False) as own:
        assert own.memory is not None
        MemoryCgroup(own.memory, layout.memory.version).set_limit(330 << 20)
        enter = f'echo $$ > {own.memory}/cgroup.procs && exec "$@"'
        inside = subprocess.run(
            ["sh", "-c", enter, "sh", *command], check=False, capture_output=True, text=True
        )
    outside = subprocess.run(command, check=False, capture_output=True, text=True)

    assert inside.returncode == outside.returncode == 0, inside.stderr + outside.stderr
    rows, expected = (json.loads(done.stdout)["rows"] for done in (inside, outside))
    assert [{**row, "replay_s": 0} for row in rows] == [{**row, "replay_s": 0} for row in expected]
    assert rows[0]["accesses"] == 10_000_000
