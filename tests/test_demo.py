"""The demo: on small programs for real, and on the trace that ships where nothing can be recorded."""

import json

import needs
import pytest

from kdtool.collect.base import Problem
from kdtool.collect.refs import References
from kdtool.demo import session
from kdtool.demo.show import print_demo
from kdtool.demo.workloads import PROGRAMS, DemoProgram
from kdtool.errors import ParameterError


@pytest.fixture
def no_qemu(monkeypatch):
    monkeypatch.setattr(References, "unavailable", lambda self: Problem("no qemu", "install it"))


@pytest.mark.usefixtures("no_qemu")
def test_without_qemu_it_learns_from_the_sample_and_says_so(tmp_path, capsys):
    said = []
    demo = session.run_demo(tmp_path / "out", 1, said.append)

    print_demo(demo)
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "scoreboard.json").read_text())
    assert {row["trace"] for row in document["rows"]} == {"stencil.kdt"}
    assert len(document["rows"]) == 6 * 3
    assert document["programs"][0]["verdict"] == "proved"
    assert document["kernel"] == []
    for text in (*document["notes"], "NOTE: references cannot be recorded here: no qemu: install it"):
        assert any(text in line for line in said)
    assert "NOTE: " in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"stencil.kdt", "stencil.rmt.json", "scoreboard.json", "scoreboard.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("no_qemu")
def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    session.run_demo(tmp_path / "out", 1, print)
    (tmp_path / "out" / "old").touch()
    session.run_demo(tmp_path / "out", 1, print)
    assert not (tmp_path / "out" / "old").exists()

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ParameterError, match="not an earlier demo"):
        session.run_demo(tmp_path / "mine", 1, print)
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.root
@needs.root
@needs.qemu
def test_a_program_that_swaps_goes_the_whole_road(tmp_path, monkeypatch):
    command = (needs.compiled(tmp_path, "strides"), "24000", "7", "24000")
    monkeypatch.setattr(session, "PROGRAMS", (DemoProgram("strides", "strided loads", command),))
    with needs.swap_up():
        demo = session.run_demo(tmp_path / "out", 1, print)

    assert demo.notes == []
    assert [(runs.page_cluster, runs.current) for runs in demo.kernel] == [(0, True), (0, False), (3, False)]
    assert demo.kernel[0].policy == "none"
    faults = json.loads((tmp_path / "out" / "strides-faults.kdt" / "manifest.json").read_text())
    assert faults["workload"]["major_faults"] > 5_000
    assert faults["tables"]["faults"]["lost"] == 0
    learned = [row for row in demo.to_document()["rows"] if row["policy"].startswith("tree-")]
    assert len(learned) == 3
    assert all(row["coverage"] > 0.9 and row["accuracy"] > 0.9 for row in learned)


def test_its_programs_are_there():
    assert [program.name for program in PROGRAMS] == ["convolution", "resize"]
    for program in PROGRAMS:
        assert session.Path(program.command[-1]).is_file()
