"""Swap: which devices are on, of which kind, and how much is free.

Kernel counterpart: mm/swapfile.c. A device without seeks (rotational 0) gets VMA readahead, others cluster
readahead; a synchronous one (zram, pmem, brd) is read in the fault itself, without readahead for one owner.
"""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Disk", "SwapDevice", "WriteQueue", "free_swap_bytes", "swap_devices", "swap_disk", "write_queue"]

PROC_SWAPS = Path("/proc/swaps")
RWB_DEF_DEPTH = 16
"""block/blk-wbt.c, v6.18."""
PAGE_BYTES = 4096
SYNCHRONOUS = ("zram", "pmem", "ram")
"""Drivers that set BLK_FEAT_SYNCHRONOUS, by the name of their disks; the kernel shows the flag nowhere."""


@dataclass(frozen=True)
class SwapDevice:
    """One line of /proc/swaps, and what its disk is.

    kind : file, zram, loop, or disk
    backing : the file behind a loop device, or None
    rotational : the flag now; None when the disk does not say. The kernel read it at swapon.
    """

    path: str
    kind: str
    backing: str | None
    rotational: bool | None
    synchronous: bool
    size_bytes: int
    used_bytes: int
    priority: int


@dataclass(frozen=True)
class Disk:
    """The disk that a swap device's reads go to.

    name : as in /sys/block
    dev : as block tracepoints say it, major << 20 | minor (MKDEV, include/linux/kdev_t.h)
    queued : reads become requests in a queue (block_rq_*); else they stay bios (block_bio_*), as on zram,
        pmem and most of device-mapper
    """

    name: str
    dev: int
    queued: bool


def swap_devices(proc_swaps: Path = PROC_SWAPS) -> list[SwapDevice]:
    """Return the swap that is on, in the kernel's order."""
    return [_device(line) for line in proc_swaps.read_text(errors="replace").splitlines()[1:]]


def free_swap_bytes() -> int:
    """Return the bytes of swap that are free, over all devices."""
    return sum(device.size_bytes - device.used_bytes for device in swap_devices())


def swap_disk(device: SwapDevice) -> Disk | None:
    """Return the disk under a swap device, None where the kernel shows none.

    A request belongs to the whole disk, a bio to the partition that it was sent to.
    """
    path, is_file = Path(device.path), device.kind == "file"
    folder = _disk(path, is_file=is_file)
    if folder is None:
        return None
    queued = (folder / "mq").is_dir()
    if queued:
        major, minor = map(int, (folder / "dev").read_text().split(":"))
    else:
        status = path.stat()
        number = status.st_dev if is_file else status.st_rdev
        major, minor = os.major(number), os.minor(number)
    return Disk(folder.name, major << 20 | minor, queued)


@dataclass(frozen=True)
class WriteQueue:
    """How a swap device's disk takes writes.

    by_worker : a worker of the CPU that the disk interrupts notes the ends of writes, not the interrupt: so
        it is on a loop device with direct I/O, iomap_dio_bio_end_io(), fs/iomap/direct-io.c, v6.18
    request_pages : the most pages of one request, by its segments and its size; 1 where the kernel shows none
    write_requests : how many write requests may be on their way at first where blk-wbt throttles them, else 0
    """

    by_worker: bool
    request_pages: int
    write_requests: int


def write_queue(device: SwapDevice) -> WriteQueue:
    """Return how the disk of a swap device takes writes, by /sys/block/*/queue."""
    disk = _disk(Path(device.path), is_file=device.kind == "file")
    segments, kib = (_read(disk, f"queue/{name}") or "0" for name in ("max_segments", "max_sectors_kb"))
    throttled = int(_read(disk, "queue/wbt_lat_usec") or 0) > 0
    return WriteQueue(
        by_worker=device.kind == "loop" and _read(disk, "loop/dio") == "1",
        request_pages=max(min(int(segments), int(kib) * 1024 // PAGE_BYTES), 1),
        write_requests=RWB_DEF_DEPTH * throttled,
    )


def _device(line: str) -> SwapDevice:
    *names, kind, size, used, priority = line.split()
    path = " ".join(names).encode().decode("unicode_escape")
    disk = _disk(Path(path), is_file=kind == "file")
    driver = disk.name.rstrip("0123456789") if disk is not None else ""
    named = kind if kind == "file" else driver if driver in ("zram", "loop") else "disk"
    return SwapDevice(
        path=path,
        kind=named,
        backing=_read(disk, "loop/backing_file"),
        rotational=_flag(disk),
        synchronous=driver in SYNCHRONOUS,
        size_bytes=int(size) * 1024,
        used_bytes=int(used) * 1024,
        priority=int(priority),
    )


def _disk(path: Path, *, is_file: bool) -> Path | None:
    """Return the sysfs folder of the disk that holds a swap file or partition; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None  # deleted while in use, or in another mount namespace
    number = status.st_dev if is_file else status.st_rdev
    folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not folder.exists():
        return None
    folder = folder.resolve()
    return folder.parent if (folder / "partition").exists() else folder


def _flag(disk: Path | None) -> bool | None:
    text = _read(disk, "queue/rotational")
    return None if text is None else text == "1"


def _read(disk: Path | None, name: str) -> str | None:
    """Return what sysfs says of a disk; None where there is no such file, or it does not apply (EINVAL)."""
    try:
        return None if disk is None else (disk / name).read_text().strip()
    except OSError:
        return None
