"""Both sources beside one workload: the same decisions on the same faults; and how long faults stalled."""

import json
import re
import shutil
import subprocess
import sys
import time

import needs
import numpy as np
import pytest
from test_deploy_live import LIMIT, PAGES, follow_program
from test_fault_decisions import STENCIL, expected_decisions

from kdtool.collect.launch import Launched
from kdtool.collect.limited import own_cgroup, run_in
from kdtool.collect.terminal import stop_on_signals
from kdtool.deploy import layout as at
from kdtool.deploy.agent import Agent
from kdtool.deploy.request import DeployRequest
from kdtool.deploy.session import deploy
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.fault_events import IP, PAGE, TASK, TIME
from kdtool.kernel.stall import StallClock
from kdtool.live.policies import of_program
from kdtool.live.show import live_text
from kdtool.rmt import read_program

pytestmark = [pytest.mark.root, needs.root, needs.gcc, needs.faults, needs.bpf]


@pytest.fixture(scope="module")
def strides(tmp_path_factory):
    """Give the program, with swap of our own up."""
    with needs.swap_up():
        yield needs.compiled(tmp_path_factory.mktemp("bin"), "strides")


def beside_both(program, command):
    """Run a command with an agent of each source beside it; return both, by source, and all its faults."""
    with own_cgroup(LIMIT, with_events=True) as own:
        recorded, blocks = BpfFaults(own.events), []
        agents = {
            source: Agent(own.events, of_program(program), source=source, log_events=60_000)
            for source in ("bpf", "perf")
        }
        try:
            with stop_on_signals() as stop, Launched(command, own, quiet_stdout=True) as launched:
                recorded.enable([])
                for agent in agents.values():
                    agent.begin()
                    agent.set_active(True, agent.decider.degree_pages)
                tick = lambda: blocks.extend(recorded.drain()) or None  # noqa: E731 - run_in's tick
                facts = run_in(own, launched, stop, tick=tick)
                for agent in agents.values():
                    agent.end()
                    agent.check()
            recorded.disable()
            blocks += recorded.drain()
            assert recorded.faults().lost == 0 and facts.exit_code == 0
            faults = np.concatenate([recorded.decode(block)[0] for block in blocks])
            counted = {name: agent.source.counted() for name, agent in agents.items()}
        finally:
            recorded.close()
            for agent in agents.values():
                agent.close()
    faults = faults[np.argsort(faults[:, TIME], kind="stable")]
    return agents, counted, list(zip(*(faults[:, c].tolist() for c in (TASK, PAGE, IP)), strict=True))


def decisions_of(agent):
    """Return what an agent's log says: (pid, vpn, major) and the pages of each event."""
    n = int(agent.arrays.scratch[at.LOGGED])
    events = [(int(c[1]), int(c[0]), int(c[5])) for c in agent.arrays.log[:n]]
    return events, [out[1 : 1 + out[0]].tolist() for out in agent.arrays.log_out[:n]]


@pytest.mark.parametrize("name", ["follow", "stencil", "two in turn"])
def test_both_sources_decide_the_same_on_the_same_faults(strides, name):
    program = read_program(STENCIL) if name == "stencil" else follow_program()
    command = (strides, str(PAGES), "7", str(PAGES))
    if name == "two in turn":
        command = ("/bin/sh", "-c", f"{strides} 4500 7 4500; {strides} 4500 3 4500")
    agents, counted, faults = beside_both(program, command)

    by_kernel, by_agent = decisions_of(agents["bpf"]), decisions_of(agents["perf"])
    assert by_kernel == by_agent == expected_decisions(program, faults)[:2]
    assert len(by_kernel[0]) > 3000 and sum(map(bool, by_kernel[1])) > 500
    assert len({pid for pid, _, _ in by_kernel[0]}) >= (2 if name == "two in turn" else 1)
    for source, agent in agents.items():
        assert counted[source].counted == int(agent.arrays.counters[at.SAMPLES])
        assert counted[source].lost == 0
    assert counted["perf"].counted == len(faults)  # every fault; of the kernel's, the events alone
    assert counted["bpf"].counted == len(by_kernel[0]) < len(faults)


@pytest.mark.parametrize("source", ["bpf", "perf"])
def test_either_source_covers_a_strided_program_and_accounts_for_its_events(strides, source):
    # What it works between two pages takes 16 of them longer than a call: they can come in time.
    command = (strides, str(PAGES), "7", str(PAGES), "40000")
    request = DeployRequest(command=command, memory_bytes=LIMIT, step_back=False, source=source)
    lines = []
    row = deploy(request, of_program(follow_program()), lambda *both: lines.append(live_text(*both)))
    assert all(re.search(rf", by {source}, [\d,]+ major, stalled \d+\.\d s, ", line) for line in lines)
    assert (row["source"], row["source_reason"]) == (source, "asked for")
    assert row["exit_code"] == 0 and row["coverage"] > 0.5 and row["accuracy"] > 0.9
    assert row["samples"]["counted"] == row["samples"]["seen"] + row["samples"]["lost"]
    assert (
        row["prefetch_issued"] == row["prefetch_used"] + row["prefetch_wasted"] + row["prefetch_unresolved"]
    )
    # All of its major faults were timed, and they took no longer than it ran: it has one thread.
    assert row["stalls"] + row["stalls_missed"] == row["major_faults"]
    assert row["stalls_missed"] <= 1
    assert 10_000 * row["stalls"] < row["stall_ns"] < row["runtime_ns"]


def test_the_rate_holds_for_what_the_kernel_decides(strides):
    request = DeployRequest(
        command=(strides, str(PAGES), "7", str(PAGES)), memory_bytes=LIMIT, step_back=False, rate_pages=1000
    )
    row = deploy(request, of_program(follow_program()))
    assert row["source"] == "bpf"
    assert row["rate_limited"] > 100
    assert row["prefetch_issued"] + row["overtaken"] <= 1000 * (row["runtime_ns"] / 1e9 + 0.1)


def test_stalls_are_timed_only_while_the_clock_is_on_and_not_asked_for_is_said(strides):
    command = (strides, "4500", "7", "9000")
    with own_cgroup(LIMIT, with_events=True) as own:
        before = len(list(own.events.iterdir()))
        clock = StallClock(own.events)
        try:
            seen = []
            with stop_on_signals() as stop, Launched(command, own) as launched:
                clock.switch(True)
                clock.switch(False)
                began = [time.monotonic()]

                def tick():
                    seen.append(clock.read())
                    if began and time.monotonic() - began[0] > 0.15:
                        began.clear()
                        clock.switch(True)

                facts = run_in(own, launched, stop, tick=tick)
            total = clock.read()
        finally:
            clock.close()
        assert len(list(own.events.iterdir())) == before
    assert seen[0].stalls == 0
    assert 0 < total.stalls < facts.major_faults
    assert total.missed <= 1  # the fault that was under way when it was switched on
    assert 0 < total.stall_ns < facts.wall_ns

    row = deploy(
        DeployRequest(command=("true",), memory_bytes=LIMIT, stall=False), of_program(follow_program())
    )
    assert (row["stall_ns"], row["stalls"], row["stall_reason"]) == (None, None, "not asked for")


@pytest.mark.usefixtures("strides")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_the_right_to_bpf_the_agent_decides_and_says_so():
    def run(source):
        command = ["setpriv", "--bounding-set=-bpf,-sys_admin", sys.executable, "-m", "kdtool", "deploy"]
        command += [str(STENCIL), "--source", source, "--memory", "12M", "--json", "--", "true"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("auto")
    (row,) = json.loads(done.stdout)["rows"]
    assert row["source"] == "perf" and row["stall_ns"] is None
    for why in (row["source_reason"], row["stall_reason"]):
        assert why.startswith("BPF map: refused to this user") and why.endswith("CAP_BPF and CAP_PERFMON")
    refused = run("bpf")
    assert refused.returncode == 1
    assert refused.stderr.startswith("kdtool: error: BPF map: refused") and refused.stderr.count("\n") == 1
