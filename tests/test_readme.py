"""README: its commands on the example run here and print what it shows."""

import re
import shlex
import shutil
from pathlib import Path

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


def test_readme_shows_the_whole_road():
    shown = {command.split()[1] for command, _ in sessions()}
    assert shown >= {"info", "replay", "verify", "build"}


def test_every_link_in_the_documents_leads_somewhere():
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (ROOT / target).exists(), f"{document.name}: {target}"
