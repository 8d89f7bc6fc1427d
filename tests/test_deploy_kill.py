"""kill -9 of the agent at random moments: the workload's result is right, and nothing of the agent stays."""

import ctypes
import errno
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import needs
import pytest
from test_deploy_live import follow_program

from kdtool.collect.launch import _joiner
from kdtool.deploy.request import DeployRequest
from kdtool.deploy.session import deploy
from kdtool.kernel import bpf
from kdtool.kernel.cgroup import PREFIX, find_layout
from kdtool.kernel.host import read_page_cluster
from kdtool.live.policies import of_program

pytestmark = [pytest.mark.root, needs.root, needs.gcc, needs.faults, needs.bpf]

RUNS, SEED = 20, 20261128
PAGES, LIMIT = 3000, 8 << 20
PROG_GET_FD_BY_ID = 13
"""enum bpf_cmd."""
BPFFS = Path("/sys/fs/bpf")
LEFT_S = 20.0


@pytest.fixture(scope="module")
def strides(tmp_path_factory):
    """Give the program, with swap of our own up."""
    with needs.swap_up():
        yield needs.compiled(tmp_path_factory.mktemp("bin"), "strides")


def start(request, decider, said):
    """Fork an agent: it has all that this process has loaded, and begins at once. Return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
        deploy(request, decider)
    finally:
        os._exit(0)


def programs_of(pid):
    """Return the ids of the BPF programs that a process holds."""
    found = set()
    with suppress(OSError):  # it has just ended by itself
        for file in Path(f"/proc/{pid}/fdinfo").iterdir():
            with suppress(OSError):  # closed meanwhile
                lines = file.read_text().splitlines()
                found |= {int(line.split()[1]) for line in lines if line.startswith("prog_id:")}
    return found


def is_loaded(program_id):
    """Tell whether the kernel has a BPF program of this number."""
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(program_id.to_bytes(4, "little"), bpf.ATTR_BYTES)
    fd = libc.syscall(bpf.SYSCALL["x86_64"], PROG_GET_FD_BY_ID, attr, bpf.ATTR_BYTES)
    if fd < 0:
        assert ctypes.get_errno() == errno.ENOENT
        return False
    os.close(fd)
    return True


def left_by(pid, programs):
    """Return what there is still of a dead agent: cgroups, and its BPF programs."""
    roots = {h.root for h in (find_layout().memory, find_layout().events)}
    cgroups = [str(path) for root in roots for path in root.glob(f"{PREFIX}{pid}-*")]
    return cgroups + [each for each in programs if is_loaded(each)]


def wait_until(is_so):
    """Wait until something is so; the test says what is wrong if it never is."""
    deadline = time.monotonic() + LEFT_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)


def text_of(file):
    return file.read_text() if file.exists() else ""


def kill_at(moment_s, request, decider, folder):
    """Start an agent and kill it after so long; return its BPF programs and how far the workload came."""
    pid = start(request, decider, folder / "said")
    time.sleep(moment_s)
    programs = programs_of(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    begun, done = folder / "begun", folder / "done"
    time.sleep(0.02)  # a command that is just being let go
    wait_until(lambda: not left_by(pid, programs) and begun.exists() <= bool(text_of(done)))
    assert not left_by(pid, programs)
    return programs, begun.exists(), text_of(done)


def test_twenty_agents_killed_at_random_moments_leave_the_right_result_and_nothing_else(strides, tmp_path):
    """One in five also changes vm.page-cluster; every other decides in the kernel."""
    before, pins = read_page_cluster(), sorted(BPFFS.glob("*"))
    moments = random.Random(SEED)
    decider = of_program(follow_program())
    deploy(DeployRequest(command=("true",), memory_bytes=LIMIT), decider)  # all is loaded and compiled
    began_s = time.monotonic()
    deploy(DeployRequest(command=(strides, str(PAGES), "7", str(PAGES)), memory_bytes=LIMIT), decider)
    latest_s = time.monotonic() - began_s
    with_programs = finished = 0
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        work = f"echo > {folder}/begun; {strides} {PAGES} 7 {PAGES} && echo right > {folder}/done"
        request = DeployRequest(
            command=("/bin/sh", "-c", work),
            memory_bytes=LIMIT,
            source="perf" if number % 2 else "bpf",
            page_cluster=0 if number % 5 == 0 else None,
        )
        programs, begun, said = kill_at(moments.uniform(0, latest_s), request, decider, folder)
        assert said == ("right\n" if begun else ""), f"seed {SEED}, run {number}"
        wait_until(lambda: read_page_cluster() == before)
        assert read_page_cluster() == before
        assert sorted(BPFFS.glob("*")) == pins
        with_programs += bool(programs)
        finished += begun
    assert with_programs > RUNS / 4
    assert finished > RUNS / 4


def test_a_command_whose_starter_has_gone_ends_before_it_begins():
    """Else init would be its tracer, and it would stay stopped in our cgroup."""
    join = _joiner([], -1)  # as a child of this process
    child = os.fork()
    if not child:
        orphan = os.fork()
        if not orphan:
            join()
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 127
