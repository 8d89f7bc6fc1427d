"""What `kdtool calibrate` is asked for and needs: checked before anything large is imported or touched."""

from dataclasses import dataclass
from pathlib import Path

from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel.host import check_page_cluster
from kdtool.kernel.swap import Disk, SwapDevice, swap_devices, swap_disk

__all__ = ["LAYOUT", "Plan", "choose_swap", "make_plan"]

ZSWAP = Path("/sys/module/zswap/parameters/enabled")
PAGE_BYTES = 4096
MAX_DURATION_S = 50.0
"""With what comes before and after, a minute."""


@dataclass(frozen=True)
class Layout:
    """How many pages of which kind: 116 MiB of swap at most, and 70 MiB of memory beside them.

    first_touches : before those that are timed, as a program has its faults one after another: a virtual disk
        took 10 % longer for the first 16 of them after it had nothing to do, and 15 % after it had read much
        at once, which wore off in 50 ms
    """

    scattered: int = 24_576
    neighbours: int = 4096
    fresh: int = 1024
    first_touches: int = 512
    touches: int = 256
    burst: int = 128
    merged_burst: int = 256
    batch: int = 16
    batches: int = 16
    window: int = 8

    @property
    def pages(self) -> int:
        """Return the pages that are in swap at once."""
        return self.scattered + self.neighbours + self.fresh


LAYOUT = Layout()


@dataclass(frozen=True)
class Plan:
    """What to write, how long to measure, the swap device, its disk, and vm.page-cluster as it is."""

    output: Path
    duration_s: float
    device: SwapDevice
    disk: Disk
    page_cluster: int


def make_plan(output: Path, duration_s: float) -> Plan:
    """Return what is to be done.

    Raises ParameterError for a bad `output` or `duration_s`, CapabilityError where it cannot be done.
    """
    if not output.name.endswith(".json"):
        raise ParameterError(f"{output}: a device's name ends in .json: give -o {output.name}.json")
    if not 0 < duration_s <= MAX_DURATION_S:
        raise ParameterError(f"--duration {duration_s:g}, allowed: more than 0, up to {MAX_DURATION_S:g} s")
    devices = swap_devices()
    device = choose_swap(devices)
    if ZSWAP.exists() and ZSWAP.read_text().strip() == "Y":
        raise CapabilityError(f"zswap is on, so that reads may not reach {device.path}: echo N > {ZSWAP}")
    disk = swap_disk(device)
    if disk is None:
        raise CapabilityError(f"{device.path}: its disk is not in /sys/dev/block: use swap on a block device")
    _check_room(device, devices)
    return Plan(output, duration_s, device, disk, check_page_cluster())


def choose_swap(devices: list[SwapDevice]) -> SwapDevice:
    """Return the swap device that the kernel fills first.

    Raises CapabilityError where there is none, or not one alone.
    """
    if not devices:
        raise CapabilityError("no swap is on, and swap is what is measured: scripts/swap up")
    device, *others = sorted(devices, key=lambda each: -each.priority)
    if others and others[0].priority == device.priority:
        raise CapabilityError(
            f"{device.path} and {others[0].path} have one priority, pages go to both: swapoff one of them"
        )
    return device


def _check_room(device: SwapDevice, devices: list[SwapDevice]) -> None:
    """Raise CapabilityError unless there is swap for our pages, and the kernel lets them keep it.

    A page that is read keeps its slot while less than half of all swap is used: vm_swap_full(), mm/swap.h.
    """
    needed = LAYOUT.pages * PAGE_BYTES
    total, used = sum(each.size_bytes for each in devices), sum(each.used_bytes for each in devices)
    if device.size_bytes - device.used_bytes < needed or 2 * (used + needed) > total:
        raise CapabilityError(
            f"{device.path}: {needed >> 20} MiB are needed, with half of all swap free beside them: "
            f"free some, or swapoff it and scripts/swap up --size 2G"
        )
