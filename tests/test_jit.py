"""The cache of compiled code: kept under a hash of the sources that the code was made from."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from kdtool.replay import POLICIES
from kdtool.rmt.jit import inner, sources
from kdtool.rmt.jitcompiler import Compiler
from kdtool.rmt.numba_vm import DECIDE, compiled


def test_a_module_s_sources_are_itself_and_what_it_imports_from_us():
    names = {"/".join(path.parts[-2:]) for path in sources("kdtool.replay.reclaim")}

    assert {
        "replay/reclaim.py",
        "replay/plug.py",
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


LONG = "def part(a, n):\n    t = 0\n" + "".join(f"    t = t * {i} + a[t & n] & 255\n" for i in range(300))


def test_parts_that_are_called_have_names_of_their_own():
    """LLVM's linker takes either of two functions with one name, however each was compiled."""
    scope = {}
    exec(LONG + "    return t\n", scope)
    part = inner(scope["part"])
    functions = [
        numba.njit(pipeline_class=Compiler, _nrt=False)(each)
        for each in (lambda a: part(a, 3) + part(a, 7), lambda a: part(a, 1) - part(a, 7))
    ]
    a = np.arange(8)
    assert [each(a) for each in functions] == [each.py_func(a) for each in functions]

    modules = [each.overloads[each.signatures[0]].library._final_module for each in functions]
    names = [{f.name for f in each.functions if f.linkage.name == "internal"} for each in modules]
    assert all(names) and not names[0] & names[1]


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


EVERY_WAY = """
import numpy as np
from builders import ssd, workload
from kdtool.replay import POLICIES, load_policy, replay, run_shadow

rng = np.random.default_rng(0)
vpns = np.where(rng.random(4000) < 0.5, np.arange(4000) % 700, rng.integers(0, 900, 4000))
w = workload(vpns, kinds=rng.integers(0, 2, 4000))
policies = [*POLICIES, load_policy("examples/stencil.rmt.json")]
for reclaim in ("linux", "lru", "mglru"):
    shadow = run_shadow(w, 200, ssd(), reclaim)
    for policy in policies:
        for device in (ssd(), ssd().by_agent(50_000)):
            row = replay(w, policy, shadow, device).to_row()
            print(policy.name, reclaim, row["major_faults"], row["prefetch_used"], row["runtime_ns"])
"""


def test_no_index_of_a_replay_is_negative_or_too_large(tmp_path):
    """Compiled with Numba's check of bounds every policy does the same in every memory."""
    said = []
    for check in ("0", "1"):
        environment = {**os.environ, "NUMBA_BOUNDSCHECK": check, "PYTHONPATH": f".:{Path(__file__).parent}"}
        environment |= {"XDG_CACHE_HOME": str(tmp_path)} if check == "1" else {}
        done = subprocess.run(
            [sys.executable, "-c", EVERY_WAY], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)

    assert said[0] == said[1] and said[0].count("\n") == 3 * 2 * (len(POLICIES) + 1)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_decision_compiles_for_one_signature_alone(policy):
    decide = compiled(policy.decide)

    assert decide.nopython_signatures == [DECIDE] == compiled(decide).nopython_signatures
    with pytest.raises(TypeError):
        decide(np.zeros(1, np.float64), np.zeros(1), np.zeros(1), np.zeros(1))
