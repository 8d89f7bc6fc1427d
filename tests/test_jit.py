"""The cache of compiled code: kept under a hash of the sources that the code was made from."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdtool.replay import POLICIES
from kdtool.rmt.jit import sources
from kdtool.rmt.numba_vm import DECIDE, compiled


def test_a_module_s_sources_are_itself_and_what_it_imports_from_us():
    names = {"/".join(path.parts[-2:]) for path in sources("kdtool.replay.reclaim")}

    assert {
        "replay/reclaim.py",
        "replay/writeout.py",
        "replay/memory.py",
        "replay/blockqueue.py",
        "rmt/jit.py",
    } <= names
    assert not {"replay/engine.py", "replay/workload.py", "rmt/numba_vm.py"} & names
    assert sources("numpy") == sources("__main__") == []


@pytest.mark.parametrize("decorator", ["inline", "inner"])
def test_an_edit_of_a_function_that_is_taken_in_is_seen(decorator, tmp_path: Path):
    """Of a copy of the package, so that the cache of this one stays."""
    package = tmp_path / "kdtool"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for room in ("rmt", "replay"):
        (package / room).mkdir()
        (package / room / "__init__.py").write_text("")
    for file in ("jit.py", "jitcompiler.py"):
        (package / "rmt" / file).write_bytes(Path("kdtool/rmt", file).read_bytes())
    (package / "replay" / "caller.py").write_text(
        "from kdtool.replay.callee import answer\nfrom kdtool.rmt.jit import jit\n\n\n"
        "@jit()\ndef ask(x):\n    return answer(x)\n"
    )
    said = []
    for number in (1, 2):
        (package / "replay" / "callee.py").write_text(
            f"from kdtool.rmt.jit import {decorator}\n\n\n"
            f"@{decorator}\ndef answer(x):\n    return x + {number}\n"
        )
        command = [sys.executable, "-B", "-c", "from kdtool.replay.caller import ask; print(ask(40))"]
        done = subprocess.run(
            command, cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said.append(done.stdout.strip())

    assert said == ["41", "42"]
    kept = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbc")}
    assert kept == {"caller.ask"}, "what is taken in is kept with what it is taken into"


BOUNDS = """
import numpy as np
from kdtool.rmt.jit import inner, jit

@inner
def at(values, index):
    return values[index]

@jit()
def ask(values, index):
    return at(values, index)

values = np.arange(3)
print(ask(values, 2))
try:
    ask(values, -1)
except IndexError:
    print("no element")
"""


def test_an_index_below_zero_is_no_element(tmp_path: Path):
    """Which Numba's own check of bounds finds: without it, what lies before an array would be read."""
    (tmp_path / "bounds.py").write_text(BOUNDS)
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bounds.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split("\n") == ["2", "no element", ""]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_decision_compiles_for_one_signature_alone(policy):
    decide = compiled(policy.decide)

    assert decide.nopython_signatures == [DECIDE] == compiled(decide).nopython_signatures
    with pytest.raises(TypeError):
        decide(np.zeros(1, np.float64), np.zeros(1), np.zeros(1), np.zeros(1))
