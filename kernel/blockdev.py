"""Block devices: the disk that a user means by a name, a path or a number, as the kernel's events number it.

Kernel counterpart: include/linux/kdev_t.h (MINORBITS); /sys/block has the disks, /sys/class/block also their
partitions. Events tell of disks alone.
"""

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from kdtool.errors import ParameterError, unknown_name

__all__ = ["disk_names", "find_disks"]

MINOR_BITS = 20
DISKS = Path("/sys/block")
BY_NAME = Path("/sys/class/block")
BY_NUMBER = Path("/sys/dev/block")


def disk_names() -> list[str]:
    """Return the names of this machine's disks."""
    return sorted(folder.name for folder in DISKS.iterdir())


def find_disks(given: Iterable[str]) -> dict[str, int]:
    """Return, by its name, the number (major << 20 | minor) of each disk: `vda`, `/dev/loop0`, `8:0`.

    Raises ParameterError for what is no disk of this machine: unknown, no block device, a partition.
    """
    disks = {}
    for text in given:
        folder = _folder(text)
        if (folder / "partition").exists():
            disk = folder.resolve().parent.name
            raise ParameterError(
                f"device {text}: is a partition, and block events tell of whole disks: give {disk}"
            )
        major, minor = (folder / "dev").read_text().split(":")
        disks[folder.resolve().name] = int(major) << MINOR_BITS | int(minor)
    return disks


def _folder(text: str) -> Path:
    """Return the folder in sysfs of a disk or partition."""
    folder = BY_NAME / text
    if text.startswith("/"):
        folder = _of_node(Path(text))
    elif re.fullmatch(r"\d+:\d+", text):
        folder = BY_NUMBER / text
    if folder.parent not in (BY_NAME, BY_NUMBER) or not os.path.isfile(folder / "dev"):
        raise unknown_name("device", text.removeprefix("/dev/"), disk_names())
    return folder


def _of_node(path: Path) -> Path:
    try:
        status = path.stat()
    except OSError:
        return BY_NAME / path.name
    if not stat.S_ISBLK(status.st_mode):
        raise ParameterError(f"device {path}: is no block device: give one of {', '.join(disk_names())}")
    return BY_NUMBER / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
