"""Asking the kernel to read another process's pages from swap: process_madvise(2), and /proc/PID/pagemap.

    pidfd ──process_madvise(MADV_WILLNEED, ranges)──► reads of what is in swap are submitted, nobody waits
    pagemap, 8 bytes a page:  PRESENT mapped · SWAPPED on the device or in the swap cache · 0 never touched

The advice changes nothing that the process can see, and outlives nobody. A page that is unmapped, resident or
never touched is passed over by the kernel. Unit of work: a call of at most MAX_RANGES ranges. Counterpart:
mm/madvise.c (vector_madvise(), swapin_walk_ops), fs/proc/task_mmu.c; Linux 5.10 and later.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError

__all__ = [
    "MAX_RANGES",
    "PROCESS_MADVISE",
    "check_advice",
    "open_pagemap",
    "open_process",
    "read_pagemap",
    "will_need",
]

PROCESS_MADVISE = 440
"""The same number on x86_64 and aarch64 (asm-generic/unistd.h)."""
MADV_WILLNEED = 3
MAX_RANGES = 64
PAGE_SHIFT = 12
PRESENT, SWAPPED = 1 << 63, 1 << 62
"""Bits of an entry of pagemap (Documentation/admin-guide/mm/pagemap.rst)."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


class _Range(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


def open_process(pid: int) -> int:
    """Return a pidfd: it means this process for ever, also when its number is given to another.

    Raises ProcessLookupError when it has ended, CapabilityError on a kernel without pidfds.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise CapabilityError("this kernel has no pidfd_open: use Linux 5.3 or later") from None
        raise ProcessLookupError(f"process {pid} has ended") from None
    except OverflowError:
        raise ProcessLookupError(f"no process has the number {pid}") from None


def open_pagemap(pid: int) -> int:
    """Return a descriptor of /proc/PID/pagemap, of the address space that the process has now.

    Raises ProcessLookupError when it has ended, CapabilityError when this user may not look.
    """
    try:
        return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise CapabilityError(
            f"/proc/{pid}/pagemap: refused to this user: run as root, or with CAP_SYS_PTRACE"
        ) from None
    except OSError:
        if Path("/proc/self/pagemap").exists():
            raise ProcessLookupError(f"process {pid} has ended") from None
        raise CapabilityError(
            "this kernel has no /proc/PID/pagemap: use one built with CONFIG_PROC_PAGE_MONITOR"
        ) from None


def has_address_space(fd: int) -> bool:
    """Tell whether a pagemap's address space is still there: its process has neither ended nor exec'd."""
    return bool(os.pread(fd, 8, 0))


def read_pagemap(fd: int, first_vpn: int, n_pages: int) -> npt.NDArray[np.uint64]:
    """Return the entries of `n_pages` pages from `first_vpn` on; fewer where the address space ends."""
    return np.frombuffer(os.pread(fd, 8 * n_pages, 8 * first_vpn), np.uint64)


def will_need(pidfd: int, ranges: Sequence[tuple[int, int]]) -> int:
    """Advise (first vpn, pages) ranges, at most MAX_RANGES of them; return how many pages the kernel took.

    The kernel stops at the first range that it refuses: one with a page that is not mapped.
    Raises ProcessLookupError when the process has ended, CapabilityError when the call is refused.
    """
    each = [_Range(vpn << PAGE_SHIFT, n << PAGE_SHIFT) for vpn, n in ranges]
    vector = (_Range * len(each))(*each)
    done: int = _LIBC.syscall(
        ctypes.c_long(PROCESS_MADVISE), ctypes.c_long(pidfd), vector, ctypes.c_size_t(len(ranges)),
        ctypes.c_int(MADV_WILLNEED), ctypes.c_uint(0),
    )  # fmt: skip
    if done >= 0:
        return done >> PAGE_SHIFT
    number = ctypes.get_errno()
    if number == errno.ESRCH:
        raise ProcessLookupError("the process has ended")
    if number == errno.ENOMEM:
        return 0
    raise _refusal(number)


def check_advice() -> None:
    """Raise CapabilityError, with what to do, unless this process may advise others."""
    pidfd = open_process(os.getpid())
    try:
        will_need(pidfd, [])
    finally:
        os.close(pidfd)
    # Advising oneself needs no rights; advising others takes both of these.
    effective = _effective_capabilities()
    missing = [
        name for name, bit in (("CAP_SYS_PTRACE", 19), ("CAP_SYS_NICE", 23)) if not effective >> bit & 1
    ]
    if missing:
        raise CapabilityError(
            f"process_madvise of other processes needs {' and '.join(missing)}: run as root, or give them"
        )


def _refusal(number: int) -> CapabilityError:
    if number == errno.ENOSYS:
        return CapabilityError("this kernel has no process_madvise: use Linux 5.10 or later")
    if number == errno.EPERM:
        return CapabilityError(
            "process_madvise: refused to this user: run as root, or with CAP_SYS_PTRACE and CAP_SYS_NICE"
        )
    return CapabilityError(f"process_madvise: {os.strerror(number)}: see process_madvise(2)")


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    raise CapabilityError("/proc/self/status does not say the capabilities: mount /proc")
