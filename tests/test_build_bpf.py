"""`build --target bpf`: an object that libbpf's own tool loads, and that decides as the program does."""

import json
import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import executors
import needs
import pytest
import test_forest
import test_network
from test_cli import kdtool

from kdtool.errors import ProgramError
from kdtool.rmt import (
    Action,
    Budget,
    Table,
    migrate_program,
    read_program,
    stride_program,
    worst_case,
    write_program,
)
from kdtool.rmt.program import CONTEXT_FIELDS
from kdtool.verify import build_bpf, verify_program

EXAMPLES = Path(__file__).parent.parent / "examples"


def inferring(model):
    """Return stride-3 with `model` for everything."""
    table = Table("next_page", (), (), Action("infer", model=model.name))
    program = replace(stride_program(), models=(model,), tables=(table,))
    return replace(program, budget=worst_case(program))


PROGRAMS = {
    "stride": stride_program,
    "stencil": lambda: read_program(EXAMPLES / "stencil.rmt.json"),
    "forest": lambda: inferring(test_forest.FOREST),
    "network": lambda: inferring(test_network.NETWORK),
    "migrate": migrate_program,
}


@pytest.fixture
def pins(tmp_path):
    """A place of its own where programs can be pinned, gone with all of them afterwards."""
    folder = tmp_path / "bpf"
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "kdtool-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def run(*arguments):
    done = subprocess.run([needs.BPFTOOL, "-j", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.mark.root
@needs.root
@needs.bpf
@needs.bpftool
@pytest.mark.parametrize("name", ["stride", "stencil", "forest", "network", "migrate"])
def test_bpftool_loads_it_and_it_decides_as_the_reference_does(name, pins, tmp_path):
    program = PROGRAMS[name]()
    contexts = executors.random_contexts(8, 60, program.hook)
    event, answer = tmp_path / "event", tmp_path / "answer"

    run("prog", "load", build_bpf(program, tmp_path), pins / "decide")

    decided = []
    for row in contexts:
        event.write_bytes(row.astype("<i8").tobytes() + bytes(8 * program.guards.degree_pages))
        ran = run("prog", "run", "pinned", pins / "decide", "data_in", event, "data_out", answer)
        words = struct.iter_unpack("<q", answer.read_bytes())
        pages = [word for (word,) in words][contexts.shape[1] :]
        decided.append(pages[: ran["retval"]])
    assert decided == executors.reference(program, contexts)
    assert any(decided)


@pytest.mark.root
@needs.root
@needs.bpf
@needs.bpftool
def test_a_packet_that_is_too_short_decides_nothing(pins, tmp_path):
    run("prog", "load", build_bpf(stride_program(), tmp_path), pins / "decide")
    event = tmp_path / "event"
    event.write_bytes(bytes(8 * (len(CONTEXT_FIELDS) + 3)))
    ran = run("prog", "run", "pinned", pins / "decide", "data_in", event)
    assert ran["retval"] == 2**32 - 1


def test_what_is_not_proved_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ProgramError, match="is not proved: steps"):
        build_bpf(replace(stride_program(), budget=Budget(1, 1)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProgramError, match=r"cannot be written: .*: give another folder"):
        build_bpf(stride_program(), tmp_path / "file")


def test_an_object_is_an_elf_file_for_bpf_and_the_same_each_time(tmp_path):
    first = build_bpf(stride_program(), tmp_path / "a").read_bytes()
    second = build_bpf(stride_program(), tmp_path / "b").read_bytes()
    assert first == second
    magic, kind, machine = struct.unpack_from("<4s12xHH", first)
    assert (magic, kind, machine) == (b"\x7fELF", 1, 247)
    (headers,) = struct.unpack_from("<Q", first, 40)
    size, number = struct.unpack_from("<HH", first, 58)
    assert headers + size * number == len(first)


def test_the_command_builds_and_names_the_file(tmp_path):
    write_program(stride_program(), tmp_path / "p.rmt.json")
    done = kdtool("build", str(tmp_path / "p.rmt.json"), "--target", "bpf", "-o", str(tmp_path / "out"))
    assert done.stdout == f"{tmp_path}/out/stride-3.bpf.o\n"


def test_an_unknown_target_is_refused_with_what_there_is(tmp_path):
    write_program(stride_program(), tmp_path / "p.rmt.json")
    done = kdtool("build", str(tmp_path / "p.rmt.json"), "--target", "bfp", "-o", str(tmp_path), exit_code=1)
    assert "unknown target 'bfp': did you mean 'bpf'? (known: bpf, p4runtime, tables)" in done.stderr


@pytest.mark.root
@needs.bpf
def test_the_kernels_verifier_is_asked(tmp_path):
    write_program(stride_program(), tmp_path / "p.rmt.json")
    done = kdtool("verify", str(tmp_path / "p.rmt.json"), "--load", "--json")
    loaded = json.loads(done.stdout)["findings"][-1]
    assert (loaded["check"], loaded["verdict"]) == ("load", "proved")


@pytest.mark.root
@needs.bpf
def test_decisions_on_a_trace_are_compared_in_the_kernel(tmp_path):
    done = kdtool(
        "build", str(EXAMPLES / "stencil.rmt.json"), "--target", "bpf", "-o", str(tmp_path),
        "--trace", str(EXAMPLES / "stencil.kdt"),
    )  # fmt: skip
    compared = re.search(r"(\d+) decisions compared, all equal", done.stdout)
    assert compared is not None and int(compared[1]) > 10_000


def test_the_verifier_says_what_a_program_costs_in_the_kernel():
    found = next(f for f in verify_program(stride_program()).findings if f.check == "bpf")
    assert found.verdict == "proved"
    assert "BPF instructions, 1000000 allowed" in found.message
