"""Replay against the running kernel: the same program, the same memory, the same major faults."""

from pathlib import Path
from statistics import median

import needs
import numpy as np
import pytest
from builders import end_of_run

from kdtool.collect import collector
from kdtool.collect.base import Request
from kdtool.collect.limited import run_limited
from kdtool.collect.session import record
from kdtool.kernel.host import page_cluster
from kdtool.replay import load_device, load_workload, run_shadow
from kdtool.replay.memory import RECLAIMED, WRITTEN

PAGES, LOADS, LIMIT_PAGES = 24_000, 16_000, 10_240
SPARSE_LIMIT_PAGES = 5120
KERNEL_PAGES = 60
"""What the kernel keeps of the limit besides page tables: stacks, task structures, per-CPU stock."""


@pytest.mark.root
@needs.root
@needs.qemu
@pytest.mark.parametrize("stride", [3, 7, 64])
def test_none_at_page_cluster_0_has_the_kernels_major_faults(stride, tmp_path):
    command = (needs.compiled(tmp_path, "strides"), str(PAGES), str(stride), str(LOADS))
    trace = record(Request(command, tmp_path / "strides.kdt", k=64), [collector("refs")])
    workload = load_workload(trace)

    with needs.swap_up(), page_cluster(0):
        runs = [run_limited(command, LIMIT_PAGES * 4096) for _ in range(3)]

    assert [run.exit_code for run in runs] == [0, 0, 0]
    kernel = median(run.major_faults for run in runs)
    memory_pages = LIMIT_PAGES - PAGES // 512 - KERNEL_PAGES
    predicted = run_shadow(workload, memory_pages, load_device("ssd")).missed.sum()
    assert kernel > 10_000
    assert abs(predicted / kernel - 1) < 0.05, (predicted, [run.major_faults for run in runs])


@pytest.mark.root
@needs.root
@needs.qemu
@pytest.mark.parametrize("k", [0, 64])
def test_pages_that_were_never_stored_to_take_no_memory(k, tmp_path):
    command = (needs.compiled(tmp_path, "sparse"), str(PAGES), "7", str(3 * PAGES))
    trace = record(Request(command, tmp_path / "sparse.kdt", k=k), [collector("refs")])
    workload = load_workload(trace)

    with needs.swap_up(), page_cluster(0):
        runs = [run_limited(command, SPARSE_LIMIT_PAGES * 4096) for _ in range(3)]

    assert [run.exit_code for run in runs] == [0, 0, 0]
    assert PAGES // 3 <= workload.footprint_pages < PAGES // 3 + 100
    kernel = median(run.major_faults for run in runs)
    memory_pages = SPARSE_LIMIT_PAGES - PAGES // 512 - KERNEL_PAGES
    predicted = run_shadow(workload, memory_pages, load_device("ssd")).missed.sum()
    assert kernel > PAGES // 3
    assert abs(predicted / kernel - 1) < 0.05, (predicted, [run.major_faults for run in runs])


ZEROS_OUT = ("pswpout", "swpout_zero")


def swapped_out():
    """Return how many pages the machine wrote to swap, and how many it need not, for they held zeros."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    if "swpout_zero" not in counts:
        pytest.skip("pages full of zeros are counted since Linux 6.13")
    return np.array([int(counts[name]) for name in ZEROS_OUT])


@pytest.mark.root
@needs.root
@needs.qemu
@pytest.mark.parametrize("stride", [3, 7])
def test_half_of_the_pages_full_of_zeros_are_written_as_seldom_as_by_the_kernel(stride, tmp_path):
    command = (needs.compiled(tmp_path, "zeropages"), str(PAGES), str(stride), str(LOADS))
    trace = record(Request(command, tmp_path / "zeros.kdt", k=64), [collector("refs")])
    workload = load_workload(trace)

    runs, out = [], []
    with needs.swap_up(), page_cluster(0):
        for _ in range(3):
            before = swapped_out()
            runs.append(run_limited(command, LIMIT_PAGES * 4096))
            out.append(swapped_out() - before)

    assert [run.exit_code for run in runs] == [0, 0, 0]
    memory_pages = LIMIT_PAGES - PAGES // 512 - KERNEL_PAGES
    state, missed = end_of_run(workload, memory_pages, load_device("ssd"), "linux")
    written, zeros = np.median(out, axis=0)
    predicted = state.counters[WRITTEN]
    assert abs(predicted / written - 1) < 0.05, (predicted, out)
    assert abs((state.counters[RECLAIMED] - predicted) / zeros - 1) < 0.05, out
    assert abs(missed.sum() / median(run.major_faults for run in runs) - 1) < 0.05
