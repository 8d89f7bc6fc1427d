"""Decisions at page faults: a real program swaps; the kernel decides as the Numba VM does on its faults."""

import os
import threading
from dataclasses import fields, replace
from pathlib import Path

import executors
import needs
import numpy as np
import pytest

from kdtool.collect.launch import Launched
from kdtool.collect.limited import own_cgroup, run_in
from kdtool.collect.terminal import stop_on_signals
from kdtool.deploy.faultdecisions import DecisionBatch, FaultDecisions
from kdtool.errors import ProgramError
from kdtool.features import FEATURE_SETS, build_dataset
from kdtool.features.dataset import Events
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.fault_events import IP, PAGE, TASK, TIME
from kdtool.learners.conv1d import Conv1dLearner
from kdtool.learners.forest import ForestLearner
from kdtool.learners.mlp import MlpLearner
from kdtool.rmt import (
    CONTEXT_FIELDS,
    Action,
    Budget,
    Guards,
    Table,
    read_program,
    stride_program,
    worst_case,
)
from kdtool.rmt.bpf import ASKED_SLOTS
from kdtool.rmt.vm import hash_key

pytestmark = [pytest.mark.root, needs.faults, needs.bpf, needs.gcc]

MIB = 1 << 20
STENCIL = Path(__file__).parent.parent / "examples" / "stencil.rmt.json"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    return {name: needs.compiled(folder, name) for name in ("strides", "faults")}


@pytest.fixture(scope="module")
def swap():
    with needs.swap_up():
        yield


def follow_program(degree_pages=8):
    """Predicts that the newest difference repeats."""
    program = stride_program(degree_pages)
    table = replace(
        program.tables[0], match_fields=(), entries=(), default_action=Action("follow", feature="d1")
    )
    program = replace(program, name="follow", models=(), tables=(table,))
    return replace(program, budget=worst_case(program))


def learned_program(learner):
    """Return what `learner` makes of passes of stride 7 with gaps, asked and counted at each prediction."""
    rng, features = np.random.default_rng(0), FEATURE_SETS[0]
    passes = np.concatenate([np.arange(6000), *(np.arange(start, 6000, 7) for start in range(7))])
    pages = passes[rng.random(len(passes)) < 0.8]
    contexts = np.ones((len(pages), len(CONTEXT_FIELDS)), np.int64)
    contexts[:, 0] = pages
    dataset = build_dataset(Events(contexts), features)
    setting = learner.candidates()[0]
    program = learner.fit(dataset, features, setting, degree_pages=8, seed=0)
    (model,) = program.models
    assert len(set(model.classes)) >= 4
    counting = Table("asked", (), (), Action("count", counter="asked"))
    program = replace(program, tables=(counting, program.tables[1]), counters=("asked",))
    return replace(program, budget=worst_case(program))


PROGRAMS = {
    "follow": follow_program,
    "stencil": lambda: read_program(STENCIL),
    "forest": lambda: learned_program(ForestLearner()),
    "perceptron": lambda: learned_program(MlpLearner()),
    "convolution": lambda: learned_program(Conv1dLearner()),
}


def run_under(live, command, memory_mib, own, events=None):
    """Run a command in `own` with `live` deciding, drained as it goes; return decisions and faults."""
    batches, blocks, ended = [], [], threading.Event()

    def drain():
        while not ended.wait(0.005):
            batches.append(live.drain())
            blocks.extend(events.drain() if events else [])

    with stop_on_signals() as stop, Launched(command, own, quiet_stdout=True) as launched:
        if events:
            events.enable([])
        live.enable()
        reader = threading.Thread(target=drain)
        reader.start()
        try:
            facts = run_in(own, launched, stop)
        finally:
            ended.set()
            reader.join()
    live.disable()
    batches.append(live.drain())
    if events:
        events.disable()
        blocks.extend(events.drain())
    assert facts.exit_code == 0
    return together(batches), [events.decode(block)[0] for block in blocks] if events else []


def together(batches):
    names = [field.name for field in fields(DecisionBatch)]
    return DecisionBatch(**{name: np.concatenate([getattr(b, name) for b in batches]) for name in names})


def expected_decisions(program, faults):
    """Decide by the Numba VM at each of `faults` that is an event: major, or of a page asked for before.

    Returns the events, the decisions, and what the program counted.
    """
    vm, asked, events, decisions = executors.NumbaVm(program), {}, [], []
    for task, page, ip in faults:
        vpn, major, pid = page >> 1, page & 1, task >> 32
        tag = (hash_key([pid]) + vpn) % 2**64
        if asked.get(tag % ASKED_SLOTS) == tag:
            del asked[tag % ASKED_SLOTS]
        elif not major:
            continue
        events.append((pid, vpn, major))
        pages = vm.decide([vpn, pid, task & 0xFFFF_FFFF, ip, vpn >> 13, major])
        decisions.append(pages)
        for each in reversed(pages):  # the first of two with the same slot stays
            tag = (hash_key([pid]) + each) % 2**64
            asked[tag % ASKED_SLOTS] = tag
    return events, decisions, vm.counted


@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_kernel_decides_as_the_numba_vm_does_on_the_recorded_faults(programs, name):
    program = PROGRAMS[name]()
    command = (programs["strides"], str(64 * MIB // 4096), "7", "16000")
    with own_cgroup(32 * MIB, with_events=True) as own:
        events = BpfFaults(own.events)
        with FaultDecisions(own.events, program, every=True) as live:
            decided, blocks = run_under(live, command, 32, own, events)
            counters, counted, own_counters = live.counters, events.faults(), live.counted
        events.close()

    faults = np.concatenate(blocks)
    faults = faults[np.argsort(faults[:, TIME], kind="stable")]
    rows = list(zip(*(faults[:, column].tolist() for column in (TASK, PAGE, IP)), strict=True))
    expected_events, expected, expected_counters = expected_decisions(program, rows)
    seen = list(zip(decided.pid.tolist(), decided.vpn.tolist(), decided.major.tolist(), strict=True))
    assert counted.lost == 0 and len(faults) == counted.counted
    assert seen == expected_events
    assert lists(decided) == expected
    assert own_counters == expected_counters
    assert all(own_counters.values())
    assert counters.majors == counters.major_events == int((faults[:, PAGE] & np.uint64(1)).sum()) > 1000
    assert counters.decisions == sum(map(bool, expected)) > 500
    assert (counters.lost, counters.major_contended, counters.minor_contended) == (0, 0, 0)
    assert decided.event.tolist() == list(range(1, len(decided) + 1))
    assert set(decided.version.tolist()) == {1}
    assert (np.diff(decided.t_ns) >= 0).all()
    assert len(decided) == counters.major_events + counters.minor_events


def by_event(decided, version_of):
    """Decide once more, by the Numba VM, at the events that were reported, in their order."""
    vm = executors.NumbaVm(version_of)
    columns = (decided.vpn, decided.pid, decided.tid, decided.ip, decided.vpn >> 13, decided.major)
    return [vm.decide([int(value) for value in row]) for row in zip(*columns, strict=True)]


def lists(decided):
    return [row[:n] for row, n in zip(decided.pages.tolist(), decided.n_pages.tolist(), strict=True)]


@pytest.mark.usefixtures("swap")
def test_programs_that_fault_at_once_are_decided_one_after_the_other(programs):
    program = replace(follow_program(), registers=(replace(follow_program().registers[0], size=1),))
    program = replace(program, budget=worst_case(program))
    one = f"{programs['strides']} {32 * MIB // 4096} 3 8000"
    with (
        own_cgroup(48 * MIB, with_events=True) as own,
        FaultDecisions(own.events, program, every=True) as live,
    ):
        decided, _ = run_under(live, ("/bin/sh", "-c", f"{one} & {one} & {one} & wait"), 48, own)
        counters = live.counters

    assert len(set(decided.pid.tolist())) >= 3
    assert lists(decided) == by_event(decided, program)
    assert decided.event.tolist() == list(range(1, len(decided) + 1))
    assert counters.lost == 0
    assert counters.majors == counters.major_events + counters.major_contended > 1000


@pytest.mark.usefixtures("swap")
def test_only_decisions_are_sent_and_what_finds_no_room_is_counted(programs):
    command = (programs["strides"], str(48 * MIB // 4096), "7", "8000")
    with (
        own_cgroup(24 * MIB, with_events=True) as own,
        FaultDecisions(own.events, follow_program(), ring_bytes=os.sysconf("SC_PAGESIZE")) as live,
        stop_on_signals() as stop,
        Launched(command, own) as launched,
    ):
        live.enable()
        run_in(own, launched, stop)
        live.disable()
        decided, counters = live.drain(), live.counters

    assert (decided.n_pages > 0).all()
    assert 0 < len(decided) < 40
    assert counters.decisions == len(decided) + counters.lost > 100
    assert counters.major_events + counters.minor_events > counters.decisions


@pytest.mark.usefixtures("swap")
def test_a_program_is_replaced_while_it_decides(programs):
    first = follow_program()
    second = replace(
        first, name="next", tables=(replace(first.tables[0], default_action=Action("predict", delta=1)),)
    )
    command = (programs["strides"], str(64 * MIB // 4096), "7", "16000")
    with (
        own_cgroup(32 * MIB, with_events=True) as own,
        FaultDecisions(own.events, first, second, every=True) as live,
    ):
        done = threading.Event()

        def swap_versions():
            version = 1
            while not done.wait(0.01):
                version += 1
                live.replace((second, first)[version % 2], version)

        swapper = threading.Thread(target=swap_versions)
        swapper.start()
        try:
            decided, _ = run_under(live, command, 32, own)
        finally:
            done.set()
            swapper.join()

    by_first, by_second = by_event(decided, first), by_event(decided, second)
    expected = [
        by_first[i] if version % 2 else by_second[i] for i, version in enumerate(decided.version.tolist())
    ]
    assert lists(decided) == expected
    assert len(set(decided.version.tolist())) > 10
    assert (np.diff(decided.version) >= 0).all()


def test_what_is_not_proved_is_not_run_and_does_not_replace():
    bad = replace(follow_program(), budget=Budget(1, 1))
    with own_cgroup(None, with_events=True) as own:
        with pytest.raises(ProgramError, match="is not proved: steps"):
            FaultDecisions(own.events, bad)
        with FaultDecisions(own.events, follow_program()) as live:
            with pytest.raises(ProgramError, match="is not proved: steps"):
                live.replace(bad, 2)
            larger = replace(follow_program(), guards=Guards(9))
            larger = replace(larger, budget=worst_case(larger))
            with pytest.raises(ProgramError, match="9 pages a decision, the code that runs has room for 8"):
                live.replace(larger, 2)


def test_without_faults_there_are_no_decisions_and_nothing_stays_open():
    before = sorted(os.listdir("/proc/self/fd"))
    with own_cgroup(None, with_events=True) as own, FaultDecisions(own.events, follow_program()) as live:
        live.enable()
        assert list(live.batches(timeout_s=0.05)) == []
        counters = live.counters
        minor, major = live.info
    assert counters.majors == counters.major_events == counters.decisions == 0
    assert minor.instructions > 100 and major.instructions > 100
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("swap")
def test_decisions_come_as_they_are_made(programs):
    command = (programs["strides"], str(48 * MIB // 4096), "7", "8000")
    with (
        own_cgroup(24 * MIB, with_events=True) as own,
        FaultDecisions(own.events, follow_program()) as live,
        stop_on_signals() as stop,
        Launched(command, own) as launched,
    ):
        live.enable()
        batches = []
        reader = threading.Thread(target=lambda: batches.extend(live.batches(timeout_s=2.0)))
        reader.start()
        run_in(own, launched, stop)
        reader.join()
        counters = live.counters
    assert len(batches) > 3
    assert sum(map(len, batches)) == counters.decisions - counters.lost > 100
