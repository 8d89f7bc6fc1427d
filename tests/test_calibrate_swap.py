"""calibrate on real swap: pages that leave and come back, a file that replay takes, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest
from builders import strided_trace
from test_cli import kdtool

from kdtool.collect.pageprobe import Pages
from kdtool.kernel.host import PAGE_CLUSTER, page_cluster
from kdtool.kernel.swap import swap_devices, swap_disk
from kdtool.replay import DEVICE_FIELDS, load_device

pytestmark = [pytest.mark.root, needs.root, needs.tracefs, needs.gcc]

INSTANCES = Path("/sys/kernel/tracing/instances")
POSITIVE = (
    "cold_ns",
    "range_ns",
    "call_ns",
    "reclaim_ns",
    "beside_ns",
    "beside_write_ns",
    "step_ps",
    "insn_ps",
)


@pytest.fixture(scope="module", autouse=True)
def _swap() -> Iterator[None]:
    with needs.swap_up():
        yield


@pytest.fixture
def zram() -> Iterator[str]:
    """Give swap on a zram of this test's own, filled before all other swap."""
    control = Path("/sys/class/zram-control")
    if not control.is_dir():
        pytest.skip("this kernel has no zram")
    number = int((control / "hot_add").read_text())
    device = f"/dev/zram{number}"
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text("1G")
        subprocess.run(["mkswap", device], check=True, capture_output=True)
        subprocess.run(["swapon", "-p", "32767", device], check=True, capture_output=True)
        try:
            yield device
        finally:
            subprocess.run(["swapoff", device], check=True)
    finally:
        Path(f"/sys/block/zram{number}/reset").write_text("1")
        (control / "hot_remove").write_text(str(number))


def test_pages_leave_and_come_back_by_a_major_fault_or_ahead_of_one() -> None:
    with page_cluster(0), Pages(700) as pages:
        pages.first_touch()
        pages.fill(1)
        pages.swap_out()
        assert not pages.resident().any()

        faults = pages.time_touches([5, 3, 699])
        pages.read_ahead([100], 50)
        pages.wait_for(100, 50)
        ahead = pages.touch(np.arange(100, 150))

        assert faults.spent.major_faults == 3 and ahead.major_faults == 0
        assert np.flatnonzero(pages.resident()).tolist() == [3, 5, *range(100, 150), 699]
        assert (np.diff(faults.begin_ns) > 0).all() and (faults.end_ns > faults.begin_ns).all()


def test_a_host_is_measured_into_a_file_that_replay_takes(tmp_path: Path) -> None:
    before, output = PAGE_CLUSTER.read_text(), tmp_path / "host.json"
    output.write_text("an earlier file")

    done = kdtool("calibrate", "-o", output, "--duration", "1")

    document: dict[str, Any] = json.loads(output.read_text())
    top = max(swap_devices(), key=lambda device: device.priority)
    assert document["swap_device"]["path"] == top.path and f"{top.path} (" in done.stderr
    assert "vm.page-cluster is 0 for the measurement" in done.stderr
    assert f"set back to {before.strip()}" in done.stderr and PAGE_CLUSTER.read_text() == before
    assert document["host"]["kernel_release"] == os.uname().release
    for field in DEVICE_FIELDS:
        entry = document[field]
        assert entry["repeats"] >= 3 and len(entry["quartiles"]) == 2
        assert os.uname().release in entry["source"] and f"{entry['value']:,}" in done.stdout
    values = dict(zip((*DEVICE_FIELDS, "agent_ns"), load_device(str(output)).values.tolist(), strict=True))
    assert values["synchronous"] == top.synchronous
    assert values["latency_ns"] > 1000 and values["major_ns"] > values["minor_ns"] > 300
    assert all(values[field] > 0 for field in POSITIVE)
    trace = strided_trace(tmp_path / "t.kdt").path
    rows = json.loads(kdtool("replay", trace, "--device", output, "ssd", "--json").stdout)["rows"]
    assert {row["device"] for row in rows} == {"host", "ssd"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.json", "t.kdt"]


def test_zram_is_read_by_the_faulting_thread(zram: str, tmp_path: Path) -> None:
    document = json.loads(kdtool("calibrate", "-o", tmp_path / "z.json", "--duration", "1", "--json").stdout)

    assert document["swap_device"]["path"] == zram
    assert document["synchronous"]["value"] == 1
    assert document["service_ns"]["value"] == document["transfer_ns"]["value"] == 0
    assert 100 < document["latency_ns"]["value"] < 100_000
    assert document["prefetch_ns"]["value"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_puts_everything_back(number: signal.Signals, tmp_path: Path) -> None:
    before = PAGE_CLUSTER.read_text()
    command = [sys.executable, "-m", "kdtool", "calibrate", "-o", tmp_path / "h.json", "--duration", "50"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while "is 0 for the measurement" not in run.stderr.readline():
            assert run.poll() is None

        run.send_signal(number)
        said = run.stderr.read()

    assert run.returncode == 130
    assert said.splitlines()[-1] == f"kdtool: interrupted: {tmp_path}/h.json was not written"
    assert PAGE_CLUSTER.read_text() == before
    assert not list(tmp_path.iterdir()) and not list(INSTANCES.glob(f"kdtool-{run.pid}-*"))


def test_a_user_who_is_not_root_is_told(tmp_path: Path) -> None:
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-m", "kdtool"]

    done = subprocess.run(
        [*nobody, "calibrate", "-o", tmp_path / "h.json"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == "kdtool: error: /proc/sys/vm/page-cluster: Permission denied: run as root\n"


def test_the_disk_under_each_swap_device_is_found() -> None:
    for device in swap_devices():
        disk = swap_disk(device)

        assert disk is not None
        major, minor = map(int, Path(f"/sys/block/{disk.name}/dev").read_text().split(":"))
        assert disk.dev == major << 20 | minor
        assert disk.queued == (device.kind != "zram")
