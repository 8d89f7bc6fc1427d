"""The command line as a person meets it: the whole road, one line for each error, exit codes."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from builders import strided_trace, write_refs

from kdtool.cli import main
from kdtool.rmt import program_sha256, read_program, stride_program, write_program
from kdtool.rmt.codec import to_document
from kdtool.traces import canonical_json

EXAMPLES = Path(__file__).parent.parent / "examples"
RESULT_KEYS = {
    "trace", "policy", "policy_version", "memory_pages", "device", "accesses", "hits", "minor_faults",
    "major_faults", "late_hits", "cold_faults", "prefetch_issued", "prefetch_used", "prefetch_wasted",
    "prefetch_unresolved", "accuracy", "coverage", "hit_rate", "pollution_faults", "pollution", "stall_ns",
    "runtime_ns", "decisions", "seed", "replay_s",
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


def kdtool(*arguments, exit_code=0):
    """Run a command in this process, as the installed program would."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), mock.patch("sys.argv", ["kdtool", *map(str, arguments)]):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert code == exit_code, (code, out.getvalue(), err.getvalue())
    return Done(out.getvalue(), err.getvalue())


def refused(*arguments, saying):
    """Run a command that must fail with one line that says what and how to mend it."""
    done = kdtool(*arguments, exit_code=1)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("kdtool: error: ")
    assert saying in lines[0]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return strided_trace(tmp_path_factory.mktemp("cli") / "strided.kdt", strides=(3, 7, 3, 7)).path


@pytest.fixture(scope="module")
def program(trace):
    path = trace.with_name("strided.rmt.json")
    kdtool("train", trace, "--hook", "mm.swapin", "--learner", "tree", "-o", path)
    return path


def test_the_road_from_a_trace_to_tables(trace, program, tmp_path):
    assert json.loads(kdtool("info", trace, "--json").stdout)["tables"]["refs"]["lost"] == 0
    rows = json.loads(
        kdtool(
            "replay", trace, "--policy", "none", "leap-paper", program, "--memory", "50%", "75%", "--json"
        ).stdout
    )["rows"]
    assert len(rows) == 6
    for row in rows:
        assert set(row) >= RESULT_KEYS
        total = row["hits"] + row["minor_faults"] + row["major_faults"] + row["cold_faults"]
        assert row["accesses"] == total
    verdict = json.loads(kdtool("verify", program, "--json").stdout)
    assert verdict["verdict"] == "proved"
    assert {finding["verdict"] for finding in verdict["findings"]} == {"proved"}
    built = kdtool("build", program, "--target", "tables", "-o", tmp_path / "built", "--trace", trace)
    assert "all equal" in built.stdout
    tables = next((tmp_path / "built").glob("*.rmt.json"))
    assert json.loads(kdtool("verify", tables, "--json").stdout)["verdict"] == "proved"
    # Of an LRU, which goes by no clock: tables take other steps, and so another time.
    lru = ("--reclaim", "lru", "--json")
    again = json.loads(kdtool("replay", trace, "-p", tables, "-p", program, *lru).stdout)["rows"]
    for key in ("major_faults", "prefetch_issued", "prefetch_used", "decisions"):
        assert again[0][key] == again[1][key]


def test_a_scoreboard_in_a_pipe_is_whole(trace):
    text = kdtool("replay", trace, "-p", "none", "-p", "linux-cluster").stdout
    for word in ("none", "linux-cluster", "major", "accuracy", "coverage", "pollution", "run s"):
        assert word in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["info", "missing.kdt"], "not a trace"),
        (["replay", "missing.kdt"], "not a trace"),
        (["train", "missing.kdt", "-o", "p.rmt.json"], "not a trace"),
        (["verify", "missing.rmt.json"], "missing.rmt.json"),
        (["build", "missing.rmt.json", "-o", "out"], "missing.rmt.json"),
        (["import", "csw", "a.csv", "-o", "t.kdt"], "did you mean 'csv'"),
        (["import", "csv", "missing.csv", "-o", "t.kdt"], "missing.csv"),
    ],
)
def test_missing_things_are_named(arguments, saying, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*arguments, saying=saying)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["--memory", "0"], "less than one page"),
        (["--memory", "0%"], "less than one page"),
        (["--memory", "1T"], "nothing would be swapped"),
        (["--memory", "101%"], "nothing would be swapped"),
        (["--memory", "lots"], "such as 96M"),
        (["--policy", "linux-vna"], "did you mean 'linux-vma'"),
        (["--device", "sdd"], "did you mean 'ssd'"),
        (["--reclaim", "fifo"], "known: linux, lru"),
        (["--from", "x"], "--from x"),
        (["--from", "99999999"], "rows 0 to"),
    ],
)
def test_bad_values_of_replay_are_named(trace, arguments, saying):
    refused("replay", trace, *arguments, saying=saying)


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["--learner", "tre"], "did you mean 'tree'"),
        (["--hook", "mm.swapon"], "did you mean 'mm.swapin'"),
        (["--train", "much"], "60%"),
        (["--train", "0%"], "between 0 and 100"),
        (["--memory", "100%"], "swap-ins"),
    ],
)
def test_bad_values_of_train_are_named(trace, arguments, saying, tmp_path):
    refused("train", trace, *arguments, "-o", tmp_path / "p.rmt.json", saying=saying)
    assert list(tmp_path.iterdir()) == []


def test_the_installed_program_prints_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "kdtool", "info", str(tmp_path / "missing.kdt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("kdtool: error: ")


def test_usage_errors_exit_2(trace):
    for arguments in (["replay"], ["train", trace], ["nothing"], ["info", trace, "--colour"], ["collect"]):
        kdtool(*arguments, exit_code=2)


@pytest.fixture
def document(program):
    return to_document(read_program(program))


def write_resealed(document, path):
    """Write a changed program with a hash that fits, as a careful forger would."""
    import hashlib

    document = {key: value for key, value in document.items() if key != "sha256"}
    document["sha256"] = hashlib.sha256(canonical_json(document)).hexdigest()
    path.write_bytes(canonical_json(document))
    return path


def cycle(document):
    document["models"][0]["left"][0] = 0


def out_of_range(document):
    document["models"][0]["right"][0] = 10**6


def a_float(document):
    document["guards"]["degree_pages"] = 4.0


def a_missing_key(document):
    del document["tables"]


def another_version(document):
    document["format_version"] = "9.0"


def too_high_a_degree(document):
    document["guards"]["degree_pages"] = 10**6


LONG = 300 * "a"


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", f"{LONG}.kdt"],
        ["import", "csv", os.devnull, "-o", f"{LONG}.kdt"],
        ["verify", f"{LONG}.rmt.json"],
        ["replay", f"{LONG}.kdt"],
        ["replay", "t.kdt", "--parquet", f"{LONG}.parquet"],
        ["deploy", "--policy", "stride", "-o", f"{LONG}.json", "--", "true"],
    ],
)
def test_a_name_that_is_too_long_is_refused_in_one_line(arguments):
    refused(*arguments, saying="File name too long")


def test_build_looks_at_what_it_compares_before_it_writes(tmp_path):
    program, out = EXAMPLES / "stencil.rmt.json", tmp_path / "out"
    refused("build", program, "-o", out, "--memory", "40%", saying="--memory 40% is that of a trace")
    for target in ("tables", "p4runtime", "bpf"):
        given = ("build", program, "--target", target, "-o", out)
        refused(*given, "--trace", tmp_path / "no.kdt", saying="no.kdt")
        refused(*given, "--trace", EXAMPLES / "stencil.kdt", "--memory", "0%", saying="memory 0%")
    assert not out.exists()


@pytest.mark.parametrize(
    "change", [cycle, out_of_range, a_float, a_missing_key, another_version, too_high_a_degree]
)
@pytest.mark.parametrize("command", ["verify", "build", "replay"])
def test_a_malformed_program_is_refused_by_every_command(document, change, command, trace, tmp_path):
    change(document)
    path = write_resealed(document, tmp_path / "bad.rmt.json")
    arguments = {
        "verify": ["verify", path],
        "build": ["build", path, "-o", tmp_path / "out"],
        "replay": ["replay", trace, "--policy", path],
    }[command]
    refused(*arguments, saying="bad.rmt.json")
    assert not (tmp_path / "out").exists()


def test_an_altered_program_is_refused(program, tmp_path):
    text = program.read_text()
    path = tmp_path / "altered.rmt.json"
    path.write_text(text.replace('"degree_pages": 16', '"degree_pages": 17', 1))
    assert path.read_text() != text
    refused("verify", path, saying="sha256")


def test_ten_million_entries_are_refused_quickly(tmp_path):
    document = to_document(stride_program())
    path = tmp_path / "huge.rmt.json"
    entry = json.dumps(document["tables"][0]["entries"][0])
    head, tail = json.dumps(document).split(entry, 1)
    with path.open("w") as file:
        file.write(head)
        for _ in range(100):
            file.write((entry + ",") * 100_000)
        file.write(entry + tail)
    refused("verify", path, saying="huge.rmt.json")


def test_an_unproved_program_is_refuted_and_not_built(program, tmp_path):
    made = read_program(program)
    cheap = replace(made, budget=replace(made.budget, steps=1))
    path = tmp_path / "cheap.rmt.json"
    write_program(cheap, path)
    done = kdtool("verify", path, exit_code=1)
    assert "refuted" in done.stdout
    refused("build", path, "-o", tmp_path / "out", saying="not proved")
    assert not (tmp_path / "out").exists()
    assert program_sha256(cheap) != program_sha256(made)


def test_output_that_cannot_be_written_is_named(trace, tmp_path):
    if os.geteuid() == 0:
        target = "/proc/no-such-folder/p.rmt.json"
    else:
        tmp_path.chmod(0o500)
        target = tmp_path / "p.rmt.json"
    refused("train", trace, "-o", target, saying=str(target))


def fault_trace(path):
    from kdtool.traces import Manifest, TraceWriter

    with TraceWriter(path) as writer:
        columns = {"ts_ns": [1], "pid": [1], "tid": [1], "cpu": [0], "vpn": [7], "ip": [0], "major": [True]}
        writer.append("faults", {name: np.array(values) for name, values in columns.items()})
        writer.seal(Manifest("complete", "monotonic", ["true"], {"name": "test"}))
    return path


def test_a_trace_without_references_says_how_to_get_some(tmp_path):
    fault_trace(tmp_path / "f.kdt")
    refused("replay", tmp_path / "f.kdt", saying="--events refs")
    refused("train", tmp_path / "f.kdt", "-o", tmp_path / "p.rmt.json", saying="--events refs")


def test_a_small_trace_says_what_is_needed(tmp_path):
    write_refs(tmp_path / "s.kdt", list(range(40)) * 2)
    refused("train", tmp_path / "s.kdt", "-o", tmp_path / "p.rmt.json", saying="swap-ins")


def run_command(body, *arguments):
    """Run `kdtool wait`, a command with this body, in a process of its own."""
    script = f"import sys\nfrom kdtool import cli\n@cli.app.command()\ndef wait(): {body}\ncli.main()"
    command = [sys.executable, "-c", script, "wait", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_an_interrupted_command_says_so():
    assert run_command("raise KeyboardInterrupt") == (130, "", "kdtool: interrupted\n")


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", f"{LONG}.kdt"),
        ("info", LONG),
        ("info", "a/" * 3000 + "t.kdt"),
        ("info", "TRACE", "--plot", f"{LONG}.png"),
        ("import", "csv", "t.csv", "-o", f"{LONG}.kdt"),
        ("import", "csv", LONG, "-o", "new.kdt"),
        ("export", "oracle-general", "TRACE", "-o", LONG),
        ("export", "oracle-general", LONG, "-o", "new"),
    ],
)
def test_a_name_that_is_too_long_is_one_line(arguments, trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("vpn\n1\n")
    given = [str(trace) if argument == "TRACE" else argument for argument in arguments]
    refused(*given, saying="File name too long")
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]


def test_a_folder_that_one_may_not_enter_is_one_line():
    said = "kdtool: error: x/recording.json: Permission denied: give another file or folder\n"
    assert run_command("raise PermissionError(13, 'Permission denied', 'x/recording.json')") == (1, "", said)


@pytest.mark.parametrize("error", ["OSError(22, 'Invalid', 'x')", "FileNotFoundError(2, 'None', 'x')",
                                   "PermissionError(13, 'Denied')", "ValueError('x')"])  # fmt: skip
def test_an_error_that_may_be_our_own_keeps_its_traceback(error):
    code, _, said = run_command(f"raise {error}")
    assert code == 1 and said.startswith("Traceback")


def test_an_error_that_quotes_several_lines_is_one():
    body = "import kdtool.errors as e; raise e.TraceError('a (b\\nc\\u2028d): e')"
    assert run_command(body) == (1, "", "kdtool: error: a (b c d): e\n")


def test_bytes_that_are_no_text_are_printed_and_are_no_names():
    assert run_command("print('a' + chr(0xDCFF))") == (0, "a\\udcff\n", "")
    said = "kdtool: error: argument 't\\udcff.kdt' is not UTF-8: rename the file\n"
    assert run_command("...", b"t\xff.kdt") == (1, "", said)
