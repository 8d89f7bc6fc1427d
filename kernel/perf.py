"""perf_event_open(2) by ctypes: counters and ring buffers of records, selected by cgroup, task or CPU.

    perf_event_open(attr, cgroup fd, cpu) --> fd --mmap--> | control page | data: 2^n pages, a ring |
                                                             data_head ^         ^ data_tail (ours)

Unit of work: one event on one CPU. A record in the ring is a multiple of 8 bytes; `perf_records.py` reads
them. Layouts are those of include/uapi/linux/perf_event.h. Not done here: hardware events, decoding.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError

__all__ = [
    "DUMMY",
    "PAGE_FAULTS",
    "PAGE_FAULTS_MAJ",
    "PAGE_FAULTS_MIN",
    "SWITCHES",
    "Counts",
    "Event",
    "OfCgroup",
    "OfTask",
    "Ring",
    "online_cpus",
]

PAGE_FAULTS, PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ, DUMMY = 2, 5, 6, 9
"""`config` of software events (enum perf_sw_ids). PAGE_FAULTS comes where a fault begins, the other two
where it ends."""
SWITCHES = 1 << 8 | DUMMY
"""A dummy event too, as far as the kernel goes, which reports switches of tasks and no mappings."""
NAMES = {PAGE_FAULTS_MIN: "page-faults-min", PAGE_FAULTS_MAJ: "page-faults-maj", DUMMY: "dummy"}
NAMES |= {PAGE_FAULTS: "page-faults"}
NAMES |= {SWITCHES: "dummy (context switches)"}

SYSCALL = {"x86_64": 298, "aarch64": 241}
TYPE_SOFTWARE = 1
CLOCK_MONOTONIC = 1
SAMPLE_IP, SAMPLE_TID, SAMPLE_TIME, SAMPLE_ADDR, SAMPLE_CPU = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 7
SAMPLE_IDENTIFIER = 1 << 16
SAMPLE = SAMPLE_IDENTIFIER | SAMPLE_IP | SAMPLE_TID | SAMPLE_TIME | SAMPLE_ADDR | SAMPLE_CPU
FORMAT_ID, FORMAT_LOST = 1 << 2, 1 << 4
ATTR_INHERIT, ATTR_EXCLUDE_KERNEL = 1 << 1, 1 << 5
ATTR_DISABLED, ATTR_MMAP, ATTR_COMM, ATTR_TASK, ATTR_WATERMARK = 1 << 0, 1 << 8, 1 << 9, 1 << 13, 1 << 14
ATTR_MMAP_DATA, ATTR_SAMPLE_ID_ALL, ATTR_MMAP2, ATTR_COMM_EXEC = 1 << 17, 1 << 18, 1 << 23, 1 << 24
ATTR_USE_CLOCKID, ATTR_CONTEXT_SWITCH = 1 << 25, 1 << 26
ATTR_MAPPINGS = ATTR_MMAP | ATTR_MMAP_DATA | ATTR_MMAP2 | ATTR_COMM | ATTR_COMM_EXEC | ATTR_TASK
FLAG_PID_CGROUP, FLAG_FD_CLOEXEC = 1 << 2, 1 << 3
EVERYONE = -1
IOC_ENABLE, IOC_DISABLE, IOC_SET_OUTPUT, IOC_SET_BPF = 0x2400, 0x2401, 0x2405, 0x40042408
HEAD_WORD, TAIL_WORD = 128, 129
"""Where data_head and data_tail lie in the control page, in 8-byte words."""
MIN_RING_BYTES = 64 << 10
"""Below this, at a full fault rate of 0.6 M/s, a ring fills in 2 ms: faster than a reader is woken."""


class _Attr(ctypes.Structure):
    """struct perf_event_attr, version 7 (128 bytes)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_watermark", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
        ("branch_sample_type", ctypes.c_uint64),
        ("sample_regs_user", ctypes.c_uint64),
        ("sample_stack_user", ctypes.c_uint32),
        ("clockid", ctypes.c_int32),
        ("sample_regs_intr", ctypes.c_uint64),
        ("aux_watermark", ctypes.c_uint32),
        ("sample_max_stack", ctypes.c_uint16),
        ("reserved_2", ctypes.c_uint16),
        ("aux_sample_size", ctypes.c_uint32),
        ("reserved_3", ctypes.c_uint32),
        ("sig_data", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Counts:
    """What the kernel says of an event: occurrences counted, and records that found no room in the ring."""

    counted: int
    lost: int


@dataclass(frozen=True)
class OfCgroup:
    """The tasks in a cgroup: `fd` is its directory, in the hierarchy that perf selects by (v2 mostly)."""

    fd: int


@dataclass(frozen=True)
class OfTask:
    """One thread and all that it starts. user_only : what happens in user mode, which needs no rights."""

    tid: int
    user_only: bool


class Event:
    """One software event of some tasks, on one CPU; each occurrence is one sample.

    config : PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ, or what has no samples: DUMMY, which reports mappings, forks
        and execs, and SWITCHES, which reports every switch to and from a task
    whose : which tasks; None: all
    watermark_bytes : wake the reader when the ring holds so many
    fields : what a sample holds; none for an event that only runs a program: the kernel would gather them
        before each run, which costs 0.4 us

    Raises CapabilityError, with what to do, when the kernel refuses.
    """

    def __init__(
        self,
        config: int,
        whose: OfCgroup | OfTask | None,
        cpu: int,
        *,
        watermark_bytes: int = 0,
        fields: int = SAMPLE,
    ) -> None:
        attr = _Attr()
        attr.type, attr.size, attr.config = TYPE_SOFTWARE, ctypes.sizeof(_Attr), config & 0xFF
        attr.sample_period, attr.sample_type, attr.read_format = 1, fields, FORMAT_ID | FORMAT_LOST
        attr.flags = ATTR_DISABLED | ATTR_USE_CLOCKID | ATTR_WATERMARK
        if fields:
            attr.flags |= ATTR_SAMPLE_ID_ALL
        attr.flags |= {DUMMY: ATTR_MAPPINGS, SWITCHES: ATTR_CONTEXT_SWITCH}.get(config, 0)
        if isinstance(whose, OfTask):
            attr.flags |= ATTR_INHERIT | (ATTR_EXCLUDE_KERNEL if whose.user_only else 0)
        attr.clockid = CLOCK_MONOTONIC
        attr.wakeup_watermark = watermark_bytes
        self.config, self.cpu = config, cpu
        self.fd = _open(attr, whose, cpu, NAMES[config])
        self.id = struct.unpack("QQQ", os.read(self.fd, 24))[1]

    def enable(self) -> None:
        """Begin to count and to sample."""
        fcntl.ioctl(self.fd, IOC_ENABLE, 0)

    def disable(self) -> None:
        """Stop counting and sampling; the counts stay."""
        fcntl.ioctl(self.fd, IOC_DISABLE, 0)

    def write_to(self, other: "Event") -> None:
        """Put the records into the ring of `other`, which must be on the same CPU."""
        fcntl.ioctl(self.fd, IOC_SET_OUTPUT, other.fd)

    def run(self, program_fd: int) -> None:
        """Run a BPF program at each occurrence; where it returns 0, no sample is written."""
        fcntl.ioctl(self.fd, IOC_SET_BPF, program_fd)

    def read(self) -> Counts:
        """Return counted and lost so far."""
        counted, _, lost = struct.unpack("QQQ", os.read(self.fd, 24))
        return Counts(counted, lost)

    def close(self) -> None:
        """Take the event down."""
        os.close(self.fd)


class Ring:
    """The ring buffer of an event.

    `size_bytes` (a power of two of pages) is halved until the user's locked-memory limit allows it;
    `self.size_bytes` is what it became. CapabilityError when not even 64 KiB are allowed.

    Loads and stores of data_head and data_tail need no barrier on x86-64; for other CPUs Python has none.
    """

    def __init__(self, event: Event, size_bytes: int) -> None:
        self._map, self.size_bytes = _map_ring(event, size_bytes)
        whole = np.frombuffer(self._map, np.uint64)
        words = mmap.PAGESIZE // 8
        self._control: npt.NDArray[np.uint64] | None = whole[:words]
        self._data: npt.NDArray[np.uint64] | None = whole[words:]

    def drain(self) -> npt.NDArray[np.uint64] | None:
        """Return the whole records that are there, as 8-byte words, and free their room; None if empty."""
        assert self._control is not None and self._data is not None, "the ring is closed"
        head, tail = int(self._control[HEAD_WORD]), int(self._control[TAIL_WORD])
        if head == tail:
            return None
        start, stop = tail % self.size_bytes // 8, head % self.size_bytes // 8
        if start < stop:
            words = self._data[start:stop].copy()
        else:
            words = np.concatenate((self._data[start:], self._data[:stop]))
        self._control[TAIL_WORD] = head
        return words

    @property
    def addresses(self) -> tuple[int, int]:
        """Return where the control page and the data lie in memory, for a reader in compiled code."""
        assert self._control is not None and self._data is not None, "the ring is closed"
        return self._control.ctypes.data, self._data.ctypes.data

    def close(self) -> None:
        """Unmap it."""
        self._control = self._data = None  # a map with views cannot be closed
        self._map.close()


def online_cpus() -> list[int]:
    """Return the numbers of the CPUs that are on."""
    text = Path("/sys/devices/system/cpu/online").read_text().strip()
    cpus: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _open(attr: _Attr, whose: OfCgroup | OfTask | None, cpu: int, name: str) -> int:
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise CapabilityError(f"perf_event_open: unknown on {platform.machine()}: use x86_64 or aarch64")
    libc = ctypes.CDLL(None, use_errno=True)
    pid, flags = (whose.fd, FLAG_PID_CGROUP) if isinstance(whose, OfCgroup) else (EVERYONE, 0)
    if isinstance(whose, OfTask):
        pid = whose.tid
    fd: int = libc.syscall(number, ctypes.byref(attr), pid, cpu, -1, flags | FLAG_FD_CLOEXEC)
    if fd < 0:
        if ctypes.get_errno() == errno.ESRCH:
            raise ProcessLookupError(f"thread {pid} has ended")
        raise _refusal(ctypes.get_errno(), name, cpu)
    return fd


def _refusal(number: int, event: str, cpu: int) -> CapabilityError:
    """Return the error that says why the kernel refused the event, and what to do."""
    subject = f"perf event {event} on CPU {cpu}"
    if number in (errno.EACCES, errno.EPERM):
        return CapabilityError(
            f"{subject}: refused to this user (kernel.perf_event_paranoid is {_paranoid()}): "
            f"run as root, give it CAP_PERFMON, or sysctl kernel.perf_event_paranoid=0"
        )
    reasons = {
        errno.ENOENT: "this kernel does not have it: use one built with CONFIG_PERF_EVENTS",
        errno.ENOSYS: "this kernel has no perf events: use one built with CONFIG_PERF_EVENTS",
        errno.EBADF: "perf does not select by this cgroup hierarchy: give a v2 cgroup, or one of the mounted "
        "v1 perf_event hierarchy",
        errno.EINVAL: "this kernel does not count lost samples (PERF_FORMAT_LOST): use Linux 6.0 or later",
        errno.EMFILE: "too many open files: ulimit -n 4096",
        errno.ENODEV: "the CPU is off line: bring it on line or record on another machine",
    }
    reason = reasons.get(number, f"{os.strerror(number)}: see dmesg")
    return CapabilityError(f"{subject}: {reason}")


def _paranoid() -> str:
    try:
        return Path("/proc/sys/kernel/perf_event_paranoid").read_text().strip()
    except OSError:
        return "unreadable"


def _map_ring(event: Event, size_bytes: int) -> tuple[mmap.mmap, int]:
    while True:
        try:
            return mmap.mmap(event.fd, size_bytes + mmap.PAGESIZE), size_bytes
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOMEM) or size_bytes // 2 < MIN_RING_BYTES:
                raise CapabilityError(
                    f"perf ring of {size_bytes >> 10} KiB: {error.strerror}: raise the locked "
                    f"memory, such as by sysctl kernel.perf_event_mlock_kb=65536"
                ) from None
            size_bytes //= 2
