"""The agent beside the kernel, on programs that really swap: what it saved, what it saw, what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import needs
import pytest

from kdtool.deploy import governor, layout
from kdtool.deploy.agent import Agent
from kdtool.deploy.governor import BACK
from kdtool.deploy.request import DeployRequest
from kdtool.deploy.session import deploy
from kdtool.errors import ParameterError
from kdtool.kernel.cgroup import PREFIX, OwnCgroup, find_layout
from kdtool.live.policies import load_decider, of_program
from kdtool.rmt import (
    CONTEXT_FIELDS,
    Action,
    Budget,
    Entry,
    Feature,
    Guards,
    MatchField,
    Program,
    Register,
    Table,
    Vm,
    worst_case,
)

pytestmark = [pytest.mark.root, needs.root, needs.gcc, needs.faults, needs.bpf]
PAGES, LIMIT = 6000, 12 << 20


def follow_program():
    """Return a program that repeats a delta that came three times in a row, 16 pages ahead."""
    known = Entry(match=((3, 3),), priority=1, action=Action("follow", feature="delta"))
    table = Table("settled", (MatchField("run", "RANGE"),), (known,), Action("no_action"))
    features = (Feature("delta", "delta", "process", 1), Feature("run", "run", "process", 3))
    program = Program(
        name="follow",
        hook="mm.swapin",
        registers=(Register("process", ("pid",), size=16, history=4),),
        features=features,
        models=(),
        tables=(table,),
        guards=Guards(degree_pages=16),
        budget=Budget(1, 1),
    )
    return Program(**{**vars(program), "budget": worst_case(program)})


@pytest.fixture(scope="module")
def strides(tmp_path_factory):
    """Give the program, with swap of our own up."""
    with needs.swap_up():
        yield needs.compiled(tmp_path_factory.mktemp("bin"), "strides")


def cgroups():
    hierarchies = (find_layout().memory, find_layout().events)
    return [str(p) for h in hierarchies for p in h.root.glob(f"{PREFIX}{os.getpid()}-*")]


def test_a_strided_program_is_covered_and_every_fault_accounted_for(strides):
    command = (strides, str(PAGES), "7", str(PAGES))
    request = DeployRequest(command=command, memory_bytes=LIMIT, step_back=False, log_events=20_000)
    agents: list[Agent] = []
    row = deploy(request, of_program(follow_program()), lambda agent, _: agents.append(agent))

    without = deploy(DeployRequest(command=command, memory_bytes=LIMIT), load_decider("none"))
    assert row["exit_code"] == without["exit_code"] == 0
    assert without["prefetch_issued"] == 0
    assert without["kernel"]["major_faults"] > 4_000
    # The agent wakes a tick after the swapping begins; it leads by less where it has to share its CPU.
    assert row["kernel"]["major_faults"] < 0.9 * without["kernel"]["major_faults"]
    assert row["accuracy"] > 0.9
    # The kernel's own counts: perf's and wait4's majors, and what came back from swap; a page that is asked
    # for while it is still being written out comes back without a read.
    assert abs(row["major_faults"] - row["kernel"]["major_faults"]) <= 5
    assert row["prefetch_used"] + row["major_faults"] <= row["kernel"]["swap_ins"] * 1.05 + 50
    balance = row["prefetch_used"] + row["prefetch_wasted"] + row["prefetch_unresolved"]
    assert row["prefetch_issued"] == balance
    assert row["samples"]["counted"] == row["samples"]["seen"] + row["samples"]["lost"]
    # It made room itself, and only while it prefetched.
    assert row["rooms"] > 0 and row["mean_room_ns"] > 0
    assert without["rooms"] == 0

    # What was decided is what the reference VM decides on the same events.
    arrays = agents[0].arrays
    n = int(arrays.scratch[layout.LOGGED])
    assert 4_000 < n < 20_000
    assert n == row["events"]
    vm = Vm(follow_program())
    for i in range(n):
        context = dict(zip(CONTEXT_FIELDS, map(int, arrays.log[i]), strict=True))
        assert vm.decide(context) == arrays.log_out[i, 1 : 1 + arrays.log_out[i, 0]].tolist()
    assert not cgroups()


def test_an_agent_that_has_stepped_back_looks_at_nothing_and_then_at_all_again(strides, monkeypatch):
    for name in ("FIRST_BACK_S", "NO_USE_BACK_S"):
        monkeypatch.setattr(governor, name, 0.3)
    seen = []

    def show(agent, guards):
        watched = agent.source.majors(), agent.stall.stalls
        seen.append((guards.state == BACK, watched, agent.majors, agent.processes.taken))

    command = (strides, str(5 * PAGES), "7", str(5 * PAGES))
    request = DeployRequest(command=command, memory_bytes=5 * LIMIT)
    row = deploy(request, load_decider("none"), show)
    assert row["steps_back"] > 0 and row["trials"] > 1
    backs = [(one, two) for one, two in pairwise(seen) if one[0] and two[0]]
    assert all(one[1] == two[1] for one, two in backs)
    assert max(two[2] - one[2] for one, two in backs) > 100
    # After that the process has kept its place; its majors are those of wait4, but for its last tick or so.
    assert seen[-1][3] == seen[0][3] == 1
    assert 0.8 * row["kernel"]["major_faults"] < row["major_faults"] < 1.05 * row["kernel"]["major_faults"]


@pytest.mark.parametrize("source", ["bpf", "perf"])
def test_forks_execs_exits_and_unmaps_under_it_do_no_harm(strides, tmp_path, source):
    """A living cgroup whose processes come and go; a neighbour outside of it is never taken in."""
    layout_ = find_layout()
    script = tmp_path / "churn.sh"
    one = f"{strides} 3000 7 3000"
    script.write_text(f"for i in 1 2 3 4 5 6; do {one} & sh -c 'exec {one}'; wait; done; exit 0\n")
    with OwnCgroup(layout_, with_memory=True) as own:
        (own.memory / "memory.limit_in_bytes").write_text(str(LIMIT))
        joins = "".join(f"echo $$ > {path}/cgroup.procs; " for path in own.paths)
        churn = subprocess.Popen(["sh", "-c", f"{joins} exec sh {script}"])
        deadline = time.monotonic() + 5
        while churn.pid not in own.processes() and time.monotonic() < deadline:
            time.sleep(0.01)
        request = DeployRequest(cgroup=own.name, duration_s=30.0, source=source, step_back=False)

        def until_it_ends(agent, _):
            assert not (set(agent.arrays.processes[:, layout.PID]) & {os.getpid(), 1})
            if churn.poll() is not None and not seen:
                seen.append(agent.processes.taken)
                os.kill(os.getpid(), signal.SIGINT)

        seen: list[int] = []
        row = deploy(request, of_program(follow_program()), until_it_ends)
        assert churn.wait() == 0
    assert row["ended_by"] == "signal"
    assert seen[0] >= 7
    assert row["source"] == source
    assert row["prefetch_used"] > 500
    assert row["samples"]["counted"] == row["samples"]["seen"] + row["samples"]["lost"]


def test_a_leaf_of_a_v2_cgroup_is_worked_for_and_its_neighbour_is_not(strides):
    """Two leaves with the same program; memory is limited in v1 for both, as this machine has it."""
    hierarchies = find_layout()
    with OwnCgroup(hierarchies, with_memory=True) as own:
        (own.memory / "memory.limit_in_bytes").write_text(str(2 * LIMIT))
        leaves = [own.events / name for name in ("wanted", "neighbour")]
        workers = []
        for leaf in leaves:
            leaf.mkdir()
            joins = "".join(f"echo $$ > {path}/cgroup.procs; " for path in (own.memory, leaf))
            script = f"{joins} for i in 1 2 3; do {strides} {PAGES} 7 {PAGES}; done"
            workers.append(subprocess.Popen(["sh", "-c", script]))
        inside: set[int] = set()
        outside: set[int] = set()

        def watch(agent, _):
            known = {int(pid) for pid in agent.arrays.processes[:, layout.PID]} - {0}
            mine = set(map(int, (leaves[0] / "cgroup.procs").read_text().split()))
            theirs = set(map(int, (leaves[1] / "cgroup.procs").read_text().split()))
            inside.update(known & mine)
            outside.update(known & theirs)
            if workers[0].poll() is not None and not stopped:
                stopped.append(os.kill(os.getpid(), signal.SIGINT))

        stopped: list[None] = []
        deadline = time.monotonic() + 5
        while not (leaves[0] / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        request = DeployRequest(cgroup=f"{own.name}/wanted", duration_s=60.0, step_back=False)
        row = deploy(request, of_program(follow_program()), watch)
        assert [worker.wait() for worker in workers] == [0, 0]
    assert row["memory_pages"] == 2 * LIMIT // 4096
    assert row["prefetch_used"] > 500
    assert len(inside) >= 2 and not outside


def test_a_cgroup_without_a_limit_is_refused(strides):
    with OwnCgroup(find_layout(), with_memory=False) as own:
        sleeper = subprocess.Popen(["sleep", "20"])
        (own.events / "cgroup.procs").write_text(str(sleeper.pid))
        (find_layout().memory.root / "cgroup.procs").write_text(str(sleeper.pid))
        try:
            request = DeployRequest(cgroup=own.name, duration_s=1.0)
            with pytest.raises(ParameterError, match="no memory limit"):
                deploy(request, load_decider("stride"))
        finally:
            sleeper.kill()
            sleeper.wait()


def test_the_command_line_stops_by_its_own_stop(strides, tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, "-m", "kdtool", "deploy", "--policy", "stride", "--memory", "64M"]
    agent = subprocess.Popen(
        [*command, "-o", output, "--", "sleep", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    status = [sys.executable, "-m", "kdtool", "deploy", "--status"]
    shown = ""
    while f"{agent.pid}: stride" not in shown and time.monotonic() < deadline:
        shown = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert "by perf ('stride' is no program for the kernel)" in shown
    stop = [sys.executable, "-m", "kdtool", "deploy", "--stop", str(agent.pid)]
    assert subprocess.run(stop, capture_output=True, text=True, check=True).stdout == f"ended: {agent.pid}\n"
    said, _ = agent.communicate(timeout=20)
    assert agent.returncode == 130, said
    assert re.search(r"ended by signal", said)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["ended_by"] == "signal"
    assert row["active_ns"] == 0  # it slept, for there was nothing to do
    # Idle, it takes less than 0.3 of a core.
    assert row["agent_cpu_ns"] < 0.3 * row["runtime_ns"]
