"""The house: arrows only downward, a fast front door, plugins that keep their room's promises."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kdtool
from kdtool.cli import app
from kdtool.collect import COLLECTORS, collector
from kdtool.errors import ParameterError
from kdtool.features import FEATURE_SETS
from kdtool.learners import LEARNERS, find_learner
from kdtool.replay import POLICIES, device_names, load_device, load_policy
from kdtool.traces import TABLES
from kdtool.traces.importers import IMPORTERS
from kdtool.verify import CHECKS

ROOT = Path(kdtool.__file__).resolve().parent.parent

MAY_IMPORT = {
    "traces": set(),
    "rmt": set(),
    "kernel": set(),
    "collect": {"traces", "kernel"},
    "features": {"traces", "rmt"},
    "replay": {"traces", "rmt"},
    "learners": {"traces", "rmt", "features", "replay"},
    "verify": {"traces", "rmt", "features", "replay", "kernel"},
    "deploy": {"traces", "rmt", "verify", "collect", "kernel"},
}
HEAVY = ("numpy", "pyarrow", "numba", "sklearn", "matplotlib", "rich", "pandas")


def imports(path):
    """Yield the names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_run_only_downward(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "kdtool" or parts[1:2] in ([], ["errors"], ["__version__"]):
                continue
            assert parts[1] in MAY_IMPORT[room] | {room}, f"{path} imports {name}"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_every_room_is_linked_into_the_package(room):
    link = ROOT / "kdtool" / room
    assert link.is_symlink()
    assert link.resolve() == (ROOT / room).resolve()


def test_help_is_fast_and_imports_nothing_heavy():
    script = (
        "import sys, time; began = time.process_time()\n"
        "from kdtool.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"heavy = [m for m in {HEAVY} if m in sys.modules]\n"
        "print(heavy, time.process_time() - began, file=sys.stderr)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    for run in runs:
        assert run.stderr.startswith("[] "), run.stderr
        for command in ("collect", "info", "import", "train", "replay", "calibrate", "verify", "build"):
            assert command in run.stdout
        assert "doctor" in run.stdout and "demo" in run.stdout
    assert min(float(run.stderr.split()[-1]) for run in runs) < 0.3


def modules():
    yield from (info.name for info in pkgutil.walk_packages(kdtool.__path__, "kdtool."))


@pytest.mark.parametrize("name", [n for n in modules() if ".demo.programs" not in n and "__main__" not in n])
def test_modules_have_a_docstring_and_public_names_that_exist(name):
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", []):
        assert hasattr(module, public)
    if Path(module.__file__).stat().st_size:
        assert module.__doc__, f"{name} has no docstring"


def test_functions_stay_small_and_modules_too():
    for room in (*MAY_IMPORT, "kdtool"):
        for path in (ROOT / room).glob("**/*.py"):
            source = path.read_text()
            assert source.count("\n") <= 310, f"{path} has {source.count(chr(10))} lines"
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef) and path.parent.name != "commands":
                    lines = node.end_lineno - node.lineno + 1
                    assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_every_collector_names_its_tables_and_says_what_it_lacks():
    assert [name for name, _ in COLLECTORS] == ["faults", "refs", "sched", "blockio", "accel"]
    for name, _ in COLLECTORS:
        made = collector(name)
        assert made.name == name
        assert set(made.tables) <= set(TABLES)
        problem = made.unavailable()
        assert problem is None or (problem.reason and problem.fix)
    with pytest.raises(ParameterError, match="did you mean 'faults'"):
        collector("fault")


def test_every_policy_can_be_loaded_by_its_name():
    names = [policy.name for policy in POLICIES]
    assert names == [
        "none", "linux-vma", "linux-cluster", "leap-paper", "leap-repo", "stride", "best-offset", "markov",
        "ghb", "oracle", "oracle-unlimited", "belady",
    ]  # fmt: skip
    shown = "".join(CliRunner().invoke(app, ["replay", "--help"]).stdout.split())
    assert f"baselines:{','.join(names[:-3])};bounds:{','.join(names[-3:])}." in shown
    for name in names:
        policy = load_policy(name)
        assert policy.name == name
        assert policy.version
        assert 0 <= policy.degree_pages <= 64


def test_every_learner_importer_check_feature_set_and_device_has_a_name():
    assert [find_learner(learner.name) for learner in LEARNERS] == list(LEARNERS)
    names = ["csv", "perf", "oracle-general", "lackey", "blkparse", "nsight", "kineto"]
    assert [importer.name for importer in IMPORTERS] == names
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)
    assert len({features.name for features in FEATURE_SETS}) == len(FEATURE_SETS) == 4
    for name in device_names():
        assert all(source.strip() for source in load_device(name).sources.values())


@pytest.mark.parametrize("path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: path.name)
def test_what_a_benchmark_takes_from_us_is_there(path):
    """None of them runs with the tests, and some need peers that are not installed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdtool"):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
