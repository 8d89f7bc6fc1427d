"""What an agent is asked to run and for whom: policies and programs, bad input, who runs already."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kdtool.cli import app
from kdtool.deploy import request, runtime
from kdtool.deploy.governor import Floors
from kdtool.deploy.request import DeployRequest, bounds_of
from kdtool.errors import ParameterError, ProgramError
from kdtool.kernel import host
from kdtool.live.policies import LIVE_POLICIES, load_decider, of_policy, of_program
from kdtool.rmt import stride_program, write_program


def test_a_baseline_runs_the_very_function_of_replay():
    from kdtool.replay import load_policy

    for name in LIVE_POLICIES:
        decider = of_policy(name)
        assert decider.decide is load_policy(name).decide
        out = np.zeros(128, np.int64)
        context = np.zeros(decider.context_words, np.int64)
        assert 0 <= decider.decide(decider.params, decider.state, context, out) <= decider.degree_pages


@pytest.mark.parametrize("name", ["oracle", "linux-vma", "leap-repo"])
def test_what_only_replay_knows_is_refused(name):
    with pytest.raises(ParameterError, match="only replay knows: live can run: none, leap-paper"):
        load_decider(name)


def test_a_program_is_verified_before_it_runs(tmp_path):
    program = stride_program()
    assert of_program(program).degree_pages == 4
    costly = replace(program, budget=replace(program.budget, steps=1))
    write_program(costly, tmp_path / "p.rmt.json")
    with pytest.raises(ProgramError, match="is not deployed: steps is refuted"):
        load_decider(str(tmp_path / "p.rmt.json"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rate_pages": 400_001}, "--rate 400001: the program's own guard is 400000"),
        ({"min_accuracy": 0.49}, "--min-accuracy 0.49: the program's own guard is 0.5"),
    ],
)
def test_a_programs_guard_cannot_be_loosened(asked, said):
    request = DeployRequest(command=("true",), **asked)
    with pytest.raises(ParameterError, match=said):
        bounds_of(request, of_program(stride_program()))
    baseline = bounds_of(request, of_policy("stride"))
    assert (baseline.rate_pages, baseline.floors.accuracy) == (
        asked.get("rate_pages", 400_000),
        asked.get("min_accuracy", 0.5),
    )


def test_a_programs_guards_hold_and_can_be_tightened():
    guards = replace(stride_program().guards, rate_pages=1000, min_accuracy_permille=700)
    decider = of_program(replace(stride_program(), guards=guards))
    own = bounds_of(DeployRequest(command=("true",)), decider)
    assert (own.rate_pages, own.floors) == (1000, Floors(0.7))
    request = DeployRequest(command=("true",), rate_pages=10, min_accuracy=0.9, degree_pages=1)
    tight = bounds_of(request, decider)
    assert (tight.rate_pages, tight.floors, tight.degree_pages) == (10, Floors(0.9), 1)
    assert bounds_of(replace(request, step_back=False), decider).floors is None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "runtime_folder", lambda: tmp_path)
    return tmp_path


def test_what_a_killed_agent_left_is_cleaned_and_a_living_one_shown(folder):
    (folder / "99999.lock").touch()
    (folder / "99999.json").write_text("{}")
    assert runtime.running() == []
    assert list(folder.iterdir()) == []

    script = (
        "import sys, time\nfrom pathlib import Path\nfrom kdtool.deploy import runtime\n"
        "runtime.runtime_folder = lambda: Path(sys.argv[1])\n"
        "from kdtool.collect.terminal import stop_on_signals\n"
        "with stop_on_signals() as stop, runtime.Registration('c', {'policy': 'p'}) as entry:\n"
        "    entry.say({'used': 3})\n    print('ready', flush=True)\n"
        "    while not stop: time.sleep(0.01)\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True)
    assert agent.stdout.readline() == "ready\n"
    assert runtime.running() == [{"pid": agent.pid, "cgroup": "c", "policy": "p", "used": 3}]
    with pytest.raises(ParameterError, match="works for it already"), runtime.Registration("c", {}):
        pass
    assert runtime.stop(agent.pid) == [agent.pid]
    assert agent.wait() == 0
    agent.stdout.close()
    assert list(folder.iterdir()) == []
    with pytest.raises(ParameterError, match="no agent of this user"):
        runtime.stop(agent.pid)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to run: give a program"),
        (["--policy", "oracle", "--", "true"], "only replay knows"),
        (["--policy", "lap-paper", "--", "true"], "did you mean 'leap-paper'"),
        (["--policy", "stride"], "give either --cgroup NAME or -- COMMAND"),
        (["--policy", "stride", "--cgroup", "c", "--memory", "9M"], "a living cgroup keeps its own"),
        (["--policy", "stride", "--page-cluster", "9", "--", "true"], "allowed: 0 to 5"),
        (["--policy", "stride", "--duration", "0", "--", "true"], "allowed: more than 0"),
        (["--policy", "stride", "--duration", "nan", "--", "true"], "allowed: more than 0"),
        (["--policy", "stride", "--duration", "inf", "--", "true"], "leave it out to run on"),
        (["--policy", "stride", "--rate", "0", "--", "true"], "--rate 0, allowed: 1 to 10000000"),
        (["--policy", "stride", "--degree", "65", "--", "true"], "--degree 65, allowed: 1 to 64"),
        (
            ["--policy", "stride", "--min-accuracy", "1.5", "--", "true"],
            "1.5, allowed: 0 to 1: a share",
        ),
        (
            ["--policy", "stride", "--min-accuracy", "nan", "--", "true"],
            "nan, allowed: 0 to 1: a share",
        ),
        (["--policy", "stride", "--min-coverage", "-1", "--", "true"], "--min-coverage -1, allowed: 0 to 1"),
        (["--policy", "stride", "--nice", "20", "--", "true"], "--nice 20, allowed: -20 to 19"),
        (
            ["--policy", "stride", "--cpu", "4096", "--", "true"],
            "--cpu 4096, allowed: a CPU that is on",
        ),
        (["--policy", "stride", "--source", "pref", "--", "true"], "did you mean 'perf'"),
        (["--policy", "stride", "--degree", "1000000", "--", "true"], "--degree 1000000, allowed"),
        (["no.rmt.json", "--", "true"], "no.rmt.json"),
        (["no.rmt.json", "--policy", "stride", "--", "true"], "a program or --policy stride, not both"),
        (["--status", "--stop"], "goes with --cgroup and --json only"),
        (["--status", "7"], "goes with --cgroup and --json only"),
        (["--stop", "7", "--cgroup", "c"], "give one pid, or --cgroup"),
        (["--stop", "--policy", "stride"], "--policy: does not go with --status or --stop"),
        (["--status", "--rate", "400000"], "--rate: does not go with --status or --stop"),
        (["--stop", "--no-stall"], "--stall: does not go with --status or --stop"),
        (["--policy", "stride", "-o", "/dev/full", "--", "true"], "its name must end in .json"),
        (["--policy", "stride", "-o", "/no/x.json", "--", "true"], "there is no folder /no"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_changed(arguments, said):
    result = CliRunner().invoke(app, ["deploy", *arguments])
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)
    assert "for all until this ends" not in result.output


def test_page_cluster_that_another_has_changed_is_refused_before_anything_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "CLAIM", tmp_path / "page-cluster")
    monkeypatch.setattr(request, "swap_devices", lambda: ["one"])
    with host.CLAIM.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = CliRunner().invoke(app, ["deploy", "--policy", "stride", "--page-cluster", "5", "--", "true"])
    assert "another kdtool has changed it until it ends" in str(done.exception)
    assert done.output == ""


def test_stop_and_status_of_a_cgroup_mean_no_other_agent(folder, monkeypatch):
    killed = []

    def kill(pid, number):
        killed.append(pid)
        locks.pop(pid).__exit__(None, None, None)

    locks = {}
    for pid, name in ((101, "web"), (102, "system.slice/db")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda pid=pid: pid)
            locks[pid] = runtime.Registration(name, {}).__enter__()
    monkeypatch.setattr(os, "kill", kill)

    shown = CliRunner().invoke(app, ["deploy", "--status", "--cgroup", "/web/", "--json"])
    assert [each["pid"] for each in json.loads(shown.stdout)["agents"]] == [101]
    with pytest.raises(ParameterError, match="cgroup 'db': no agent of this user"):
        CliRunner().invoke(app, ["deploy", "--stop", "--cgroup", "db"], catch_exceptions=False)
    assert not killed
    done = CliRunner().invoke(app, ["deploy", "--stop", "--cgroup", "/system.slice//db/"])
    assert (done.stdout, killed) == ("ended: 102\n", [102])
    assert [each["pid"] for each in runtime.running()] == [101]
    locks[101].__exit__(None, None, None)


def test_one_cgroup_has_one_agent_however_its_name_is_written(folder, monkeypatch):
    with runtime.Registration("web", {}):
        monkeypatch.setattr(os, "getpid", lambda: 101)
        for name in ("web", "web/", "/web", "//web//"):
            with pytest.raises(ParameterError, match="works for it already"), runtime.Registration(name, {}):
                pass
        assert not (folder / "101.lock").exists() and not (folder / "101.json").exists()


def test_an_agent_that_was_looked_at_while_it_started_is_seen(folder, monkeypatch):
    lock, looked = fcntl.flock, []

    def look_first(fd, how):
        if how == fcntl.LOCK_EX and not looked:
            looked.append(runtime.running())
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", look_first)
    with runtime.Registration("c", {}):
        assert looked == [[]]
        assert [each["cgroup"] for each in runtime.running()] == ["c"]
    assert list(folder.iterdir()) == []


def test_who_looks_at_a_dead_agent_does_not_make_it_live(folder):
    (folder / "99999.json").write_text('{"pid": 99999, "cgroup": "c"}')
    with (folder / "99999.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as another look holds it for a moment
        assert runtime.running() == []
    assert list(folder.iterdir()) == []


def test_status_says_what_runs(folder):
    result = CliRunner().invoke(app, ["deploy", "--status", "--json"])
    assert json.loads(result.stdout) == {"agents": []}
    assert CliRunner().invoke(app, ["deploy", "--status"]).stdout == "no agent is running\n"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_documented_unit_is_one_that_systemd_takes(tmp_path):
    docs = Path(__file__).parent.parent / "docs" / "deploy.md"
    unit = docs.read_text().partition("```ini\n")[2].partition("```")[0]
    assert "/opt/kdtool/.venv/bin/kdtool deploy" in unit
    (tmp_path / "demo.service").write_text("[Service]\nExecStart=/bin/true\nMemoryMax=64M\n")
    file = tmp_path / "kdtool-deploy@demo.service"

    def verify(text):
        file.write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", file]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verify(unit.replace("/opt/kdtool/.venv/bin/kdtool", "/bin/true"))  # it is not installed there
    assert (done.returncode, done.stderr) == (0, "")
    assert "'Restrat'" in verify(unit.replace("Restart=", "Restrat=")).stderr
