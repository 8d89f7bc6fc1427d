"""Replay against the running kernel: the same program, the same memory, the same major faults."""

from statistics import median

import needs
import pytest

from kdtool.collect import collector
from kdtool.collect.base import Request
from kdtool.collect.limited import run_limited
from kdtool.collect.session import record
from kdtool.kernel.host import page_cluster
from kdtool.replay import load_device, load_workload, run_shadow

PAGES, LOADS, LIMIT_PAGES = 24_000, 16_000, 10_240
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
