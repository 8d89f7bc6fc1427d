"""The machine during the bench: swap of our own, no huge pages, and a watch on what others may change.

What is set up is taken down by guard.py, another process, so that it happens even if this one is killed.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdtool.errors import CapabilityError
from kdtool.fidelity.settings import Setting
from kdtool.kernel.host import read_page_cluster
from kdtool.kernel.swap import SwapDevice, swap_devices

__all__ = ["Watch", "forbid_huge_pages", "own_swap"]

ROOT = Path(__file__).resolve().parent.parent.parent
SWAP = ROOT / "scripts" / "swap"
PRIORITY = 32767
"""The highest that swapon(2) takes: SWAP_FLAG_PRIO_MASK of linux/swap.h."""
PR_SET_THP_DISABLE = 41


def forbid_huge_pages() -> None:
    """Forbid huge pages to this process and to all that it starts: prctl(2), kept over fork and exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise CapabilityError(f"huge pages cannot be turned off: {os.strerror(ctypes.get_errno())}")


@contextmanager
def own_swap(rotational: bool, size: str, *, loop: bool = True) -> Iterator[str]:
    """Set up swap of ours, filled before any other, and yield its path; it is gone after the block.

    loop : on a loop device, else on a file as it is

    The guard is started first, and takes down whatever there is when the block or this process ends.

    Raises CapabilityError where that cannot be done.
    """
    file = Path(f"/var/tmp/kdtool-fidelity-{os.getpid()}.img")
    guard = subprocess.Popen(
        [sys.executable, "-m", "bench.fidelity.guard", str(os.getpid()), str(file), str(read_page_cluster())],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        cwd=ROOT,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        command = [sys.executable, SWAP, "up", "--force", "--size", size, "--file", file]
        kind = ["--rotational"] * rotational + ["--no-loop"] * (not loop)
        done = subprocess.run(
            [*command, "--priority", str(PRIORITY), *kind], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CapabilityError(done.stderr.strip().removeprefix("swap: error: "))
        yield _filled_first(swap_devices(), file)
    finally:
        guard.communicate(b"done")
    if guard.returncode:
        raise CapabilityError(f"{file}: could not be taken down: scripts/swap down --file {file}")


def _filled_first(devices: list[SwapDevice], file: Path) -> str:
    """Return the path of the device on `file`; raise when another would be filled before or along with it."""
    ours = next(device for device in devices if str(file) in (device.backing, device.path))
    for device in devices:
        if device.priority >= PRIORITY and device != ours:
            raise CapabilityError(f"{device.path}: is swap of the highest priority: swapoff {device.path}")
    return ours.path


class Watch:
    """Tells during a run when the machine is no longer set up as the setting says: others may change it."""

    def __init__(self, setting: Setting, device: str) -> None:
        self._setting, self._device = setting, device
        self.changed: str | None = None

    def __call__(self) -> str | None:
        """Look, and return what is wrong or was at an earlier look; called every 50 ms."""
        if self.changed is None:
            self.changed = self._look_at_page_cluster() or self._look_at(swap_devices())
        return self.changed

    def _look_at_page_cluster(self) -> str | None:
        found = read_page_cluster()
        if found == self._setting.page_cluster:
            return None
        return f"vm.page-cluster became {found}"

    def _look_at(self, devices: list[SwapDevice]) -> str | None:
        """Ours must be filled first; cluster readahead begins, for all, with the first rotating device."""
        others = [device for device in devices if device.path != self._device]
        if len(others) == len(devices):
            return f"{self._device} is no longer swap"
        if any(device.priority >= PRIORITY for device in others):
            return "other swap is filled first"
        if self._setting.page_cluster and not self._setting.rotational:
            rotating = [device.path for device in others if device.rotational]
            if rotating:
                return f"{rotating[0]} is swap that rotates"
        return None
