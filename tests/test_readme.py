"""README: its commands on the example run here and print what it shows."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_cli import kdtool

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sessions():
    """Yield (command, output) of every `$ kdtool` line in README's console blocks on the example."""
    for block in BLOCK.findall((ROOT / "README.md").read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            if "examples/" in command:
                yield command, output


@pytest.mark.parametrize(("command", "output"), list(sessions()), ids=lambda value: value[:60])
def test_a_command_prints_what_readme_shows(command, output, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(command)
    assert name == "kdtool"
    printed = kdtool(*arguments).stdout
    assert [line.rstrip() for line in printed.splitlines()] == [line.rstrip() for line in output.splitlines()]


def _without_versions(file: Path) -> dict[str, Any]:
    """Return a program, but for the versions of the tools that it was made with."""
    program = json.loads(file.read_text())
    for tool in ("kdtool", "scikit-learn"):
        del program["provenance"][tool]
    return program


def test_the_example_is_what_readmes_train_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"^kdtool train .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    _, *arguments = shlex.split(line.replace("examples/", f"{ROOT}/examples/"))

    kdtool(*arguments)

    learned, shipped = tmp_path / "stencil.rmt.json", ROOT / "examples" / "stencil.rmt.json"
    assert _without_versions(learned) == _without_versions(shipped)


def test_readme_shows_the_whole_road():
    shown = {command.split()[1] for command, _ in sessions()}
    assert shown >= {"info", "replay", "verify", "build"}


def test_every_link_in_the_documents_leads_somewhere():
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (ROOT / target).exists(), f"{document.name}: {target}"
