"""Facts of the machine that decide how it pages, and what we turn of it: page-cluster and our priority."""

import fcntl
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel.cgroup import Hierarchy, find_layout
from kdtool.kernel.swap import swap_devices

__all__ = [
    "MAX_PAGE_CLUSTER",
    "base_slice_ns",
    "check_page_cluster",
    "host_facts",
    "page_cluster",
    "page_cluster_claim",
    "read_page_cluster",
    "real_time",
    "tick_ns",
    "write_page_cluster",
]

CLOCK_MONOTONIC_COARSE = 6
"""Of linux/time.h; Python has no name for it."""
PAGE_CLUSTER = Path("/proc/sys/vm/page-cluster")
CLAIM = Path("/run/kdtool/page-cluster")
"""Held with flock(2) while vm.page-cluster is changed."""
_claims: list[int] = []
"""The claim of this process, once a block that needs it."""
MAX_PAGE_CLUSTER = 5
"""page_cluster_max in mm/swap.c: readahead of 2^5 pages."""


def host_facts() -> dict[str, Any]:
    """Return what a trace's manifest says of the machine; a fact that the kernel does not have is None."""
    vm = Path("/proc/sys/vm")
    mm = Path("/sys/kernel/mm")
    layout = find_layout()
    return {
        "kernel_release": platform.release(),
        "machine": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * resource.getpagesize(),
        "page_bytes": resource.getpagesize(),
        "thp": _chosen(_text(mm / "transparent_hugepage/enabled")),
        "swap": [asdict(device) for device in swap_devices()],
        "page_cluster": _number(vm / "page-cluster"),
        "vma_ra_enabled": _text(mm / "swap/vma_ra_enabled"),
        "swappiness": _number(vm / "swappiness"),
        "lru_gen": _text(mm / "lru_gen/enabled"),
        "cgroups": {"memory": _hierarchy(layout.memory), "events": _hierarchy(layout.events)},
    }


def check_page_cluster() -> int:
    """Return vm.page-cluster; CapabilityError when the user may not set it."""
    now = read_page_cluster()
    write_page_cluster(now)  # the value it has: a write that changes nothing
    return now


@contextmanager
def page_cluster(n: int) -> Iterator[None]:
    """Let swap readahead take 2^n pages inside the block, and put the old value back whatever happens.

    Raises ParameterError for n outside 0 to 5, CapabilityError when the user may not write it.
    """
    if not 0 <= n <= MAX_PAGE_CLUSTER:
        raise ParameterError(f"page-cluster {n}, allowed: 0 (no readahead) to {MAX_PAGE_CLUSTER} (32 pages)")
    with page_cluster_claim():
        before = read_page_cluster()
        write_page_cluster(n)
        try:
            yield
        finally:
            write_page_cluster(before)


@contextmanager
def page_cluster_claim() -> Iterator[int]:
    """Be the one process that changes vm.page-cluster: of two, the last to end would put back the other's.

    Yields the descriptor that holds the claim; who inherits it holds it on. Blocks of one process may lie
    within each other. Raises CapabilityError when another process has it, or the user may not.
    """
    claim = _claims[-1] if _claims else _take_claim()
    _claims.append(claim)
    try:
        yield claim
    finally:
        _claims.pop()
        if not _claims:
            os.close(claim)


def _take_claim() -> int:
    try:
        CLAIM.parent.mkdir(mode=0o700, exist_ok=True)
        claim = os.open(CLAIM, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CapabilityError(f"{CLAIM}: {error.strerror}: run as root") from None
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        raise CapabilityError(
            "vm.page-cluster: another kdtool has changed it until it ends: wait for that, or leave it alone"
        ) from None
    return claim


@contextmanager
def real_time() -> Iterator[None]:
    """Have the calling thread run before all ordinary ones (SCHED_FIFO) inside the block.

    An ordinary thread that a device wakes on a busy CPU waits for that CPU's next tick, 4 ms.
    Raises CapabilityError when the user may not.
    """
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
    except OSError as error:
        raise CapabilityError(
            f"real-time priority: {error.strerror}: run as root, in a CPU cgroup with cpu.rt_runtime_us"
        ) from None
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, param)


def read_page_cluster() -> int:
    """Return vm.page-cluster."""
    return int(PAGE_CLUSTER.read_text())


def write_page_cluster(n: int) -> None:
    """Set vm.page-cluster for good; CapabilityError when the user may not."""
    try:
        PAGE_CLUSTER.write_text(str(n))
    except OSError as error:
        raise CapabilityError(f"{PAGE_CLUSTER}: {error.strerror}: run as root") from None


def base_slice_ns(n_cpus: int) -> int:
    """Return how long a thread that was just given its CPU keeps it, on a machine of so many CPUs.

    sysctl_sched_base_slice with the kernel's own scaling, get_update_sysctl_factor(), kernel/sched/fair.c,
    v6.18; /sys/kernel/debug has it, which a locked-down kernel does not show.

    >>> base_slice_ns(1), base_slice_ns(2), base_slice_ns(64)
    (700000, 1400000, 2800000)
    """
    return 700_000 * min(n_cpus, 8).bit_length()


def tick_ns() -> int:
    """Return the period of the scheduler's tick, that of the coarse clocks: 1 s over CONFIG_HZ."""
    return round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _hierarchy(hierarchy: Hierarchy | None) -> dict[str, Any] | None:
    return None if hierarchy is None else {"root": str(hierarchy.root), "version": hierarchy.version}


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return None if text is None else int(text)


def _chosen(text: str | None) -> str | None:
    """Return the word in brackets of `always [madvise] never`."""
    return None if text is None else text.partition("[")[2].partition("]")[0]
