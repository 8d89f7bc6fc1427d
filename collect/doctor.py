"""What works on this machine for this user: each check does the thing itself and undoes it.

No check looks at a version, a user id or a configuration where it can try instead.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass

from kdtool.collect import COLLECTORS, collector
from kdtool.collect.base import Problem
from kdtool.collect.drmrecord import find_jobs
from kdtool.collect.faults import probe_events
from kdtool.collect.limited import MIN_MEMORY_BYTES, memory_of
from kdtool.collect.opencl import probe
from kdtool.collect.refs import References
from kdtool.collect.sched import probe_tracefs
from kdtool.errors import CapabilityError
from kdtool.kernel.bpf_faults import BpfFaults
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.kernel.host import check_page_cluster
from kdtool.kernel.swap import free_swap_bytes, swap_devices
from kdtool.kernel.tracefs import find_tracefs

__all__ = ["CHECKS", "Check", "examine", "print_checks"]

LOW_SWAP_BYTES = 256 << 20
"""Less free swap than this holds no workload worth limiting."""


@dataclass(frozen=True)
class Check:
    """One finding. `fix` is empty when `ok`."""

    name: str
    ok: bool
    reason: str
    fix: str

    def to_row(self) -> dict[str, str | bool]:
        """Return it as a row of the `doctor --json` document."""
        return asdict(self)


def examine() -> list[Check]:
    """Try everything: first each collector as a whole, then what they and the limits stand on."""
    return [*(_collector(name) for name, _ in COLLECTORS), *(_try(name, probe) for name, probe in CHECKS)]


def print_checks(checks: list[Check]) -> None:
    """Print them for a person."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=False)
    for column in ("check", "", "finding"):
        table.add_column(column, overflow="fold")
    for check in checks:
        said = check.reason if check.ok else f"{check.reason}\n→ {check.fix}"
        mark = Text("ok", style="green") if check.ok else Text("no", style="red")
        table.add_row(check.name, mark, Text(said))
    Console().print(table)


def _collector(name: str) -> Check:
    problem = collector(name).unavailable()
    title = f"collect --events {name}"
    if problem is None:
        return Check(title, True, "records here", "")
    return Check(title, False, problem.reason, problem.fix)


def _try(name: str, probe: Callable[[], str]) -> Check:
    """Run a probe, which returns what it found or raises CapabilityError `reason: fix`."""
    try:
        return Check(name, True, probe(), "")
    except CapabilityError as error:
        problem = Problem.of(error)
        return Check(name, False, problem.reason, problem.fix)


def _events_cgroup() -> str:
    with OwnCgroup(find_layout(), with_memory=False) as own:
        return f"a cgroup for perf can be made: {own.events}"


def _memory_cgroup() -> str:
    with OwnCgroup(find_layout(), with_memory=True, with_events=False) as own:
        memory = memory_of(own)
        assert memory is not None, "asked for"
        memory.set_limit(MIN_MEMORY_BYTES)
        return f"a limit can be set, cgroup v{memory.version}: {own.memory}"


def _perf_events() -> str:
    events = probe_events()
    return f"page-fault events open on every CPU by {events.path}, rings of {events.ring_bytes >> 10} KiB"


def _bpf() -> str:
    with OwnCgroup(find_layout(), with_memory=False) as own:
        assert own.events is not None, "asked for"
        BpfFaults(own.events).close()
    return "BPF programs load, and write into a ring buffer"


def _tracefs() -> str:
    return f"an instance can be made and the scheduler's events enabled: {probe_tracefs()}/instances"


def _swap() -> str:
    devices = swap_devices()
    if not devices:
        raise CapabilityError("no swap is on, --memory needs it: scripts/swap up")
    free = free_swap_bytes()
    said = ", ".join(f"{device.path} ({device.kind})" for device in devices)
    if free < LOW_SWAP_BYTES:
        raise CapabilityError(f"{said}, only {free >> 20} MiB free: scripts/swap up --force --size 2G")
    return f"{said}, {free >> 20} MiB free"


def _page_cluster() -> str:
    return f"page-cluster is {check_page_cluster()} and can be set"


def _references() -> str:
    problem = References().unavailable()
    if problem is not None:
        raise CapabilityError(f"{problem.reason}: {problem.fix}")
    program = shutil.which("true") or "/bin/true"
    done = subprocess.run(["qemu-x86_64", program], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise CapabilityError(f"qemu-x86_64 cannot run {program} ({said[0]}): apt-get install qemu-user")
    return f"qemu-x86_64 runs {program}"


def _compiler() -> str:
    if shutil.which("gcc") is None:
        raise CapabilityError("gcc is not installed: apt-get install gcc libc6-dev")
    source = "int main(void) { return 0; }"
    command = ["gcc", "-x", "c", "-shared", "-fPIC", "-o", "/dev/null", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CapabilityError("gcc cannot compile and link: apt-get install gcc libc6-dev")
    return "gcc compiles and links"


def _opencl() -> str:
    names = probe()
    if not names:
        raise CapabilityError("no OpenCL device: apt-get install pocl-opencl-icd, or the driver of your GPU")
    return f"OpenCL devices: {', '.join(names)}"


def _gpu_jobs() -> str:
    return f"jobs of GPUs by {', '.join(find_jobs(find_tracefs()).names)}"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("events cgroup", _events_cgroup),
    ("page-fault events", _perf_events),
    ("BPF", _bpf),
    ("tracefs", _tracefs),
    ("memory cgroup", _memory_cgroup),
    ("swap", _swap),
    ("page-cluster", _page_cluster),
    ("references (qemu-user)", _references),
    ("gcc", _compiler),
    ("OpenCL", _opencl),
    ("GPU tracepoints", _gpu_jobs),
)
