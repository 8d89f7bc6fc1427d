"""bpf(2) by ctypes: maps, programs, and why the kernel refused them.

A map or program lives as long as a file descriptor to it, an event it is attached to, or a mapping: when this
process dies, however it dies, they are gone. Layouts are those of union bpf_attr in include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from kdtool.errors import CapabilityError

__all__ = [
    "ARRAY",
    "ARRAY_OF_MAPS",
    "MMAPABLE",
    "PERF_EVENT",
    "RDONLY_PROG",
    "RINGBUF",
    "SOCKET_FILTER",
    "XDP",
    "ProgramInfo",
    "TestRun",
    "count_run_time",
    "create_map",
    "freeze_map",
    "load_program",
    "program_info",
    "run_program",
    "update_map",
]

ARRAY, ARRAY_OF_MAPS, RINGBUF = 2, 12, 27
"""enum bpf_map_type."""
SOCKET_FILTER, XDP, PERF_EVENT = 1, 6, 7
"""enum bpf_prog_type."""
RDONLY_PROG, MMAPABLE = 1 << 7, 1 << 10

SYSCALL = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, MAP_UPDATE_ELEM, PROG_LOAD, PROG_TEST_RUN, OBJ_GET_INFO_BY_FD, MAP_FREEZE = 0, 2, 5, 10, 15, 22
ENABLE_STATS, STATS_RUN_TIME = 32, 0
ATTR_BYTES = 144
INFO_BYTES, INFO_RUN_TIME, INFO_VERIFIED = 232, 192, 216
"""struct bpf_prog_info of Linux 5.16 on: its size, and where run_time_ns and verified_insns lie."""
NAME = b"kdtool"
LOG_BYTES = 1 << 20
REFUSALS = (errno.EINVAL, errno.EACCES, errno.E2BIG, errno.ENOSPC)
"""Of a program: E2BIG when it is too large, or takes too long to verify; ENOSPC when the log is full."""
LOAD_ATTEMPTS = 8
"""The verifier gives up when a signal comes."""
PACKET_BYTES = 64


@dataclass(frozen=True)
class ProgramInfo:
    """What the kernel says of a loaded program.

    verified : instructions that its verifier followed, over all paths
    run_ns, runs : what it took and how often it ran, while `count_run_time` has it count
    """

    instructions: int
    verified: int
    jited_bytes: int
    run_ns: int
    runs: int


@dataclass(frozen=True)
class TestRun:
    """What a test run returned, and the mean time of a run."""

    __test__ = False  # no test of pytest's

    returned: int
    duration_ns: int
    packet: bytes


def create_map(
    kind: int, key_bytes: int, value_bytes: int, max_entries: int, flags: int = 0, inner_fd: int = 0
) -> int:
    """Return the file descriptor of a new map; CapabilityError, with what to do, when it is refused.

    inner_fd : for a map of maps, one like those that it will hold
    """
    attr = struct.pack("<7I16s", kind, key_bytes, value_bytes, max_entries, flags, inner_fd, 0, NAME)
    return _bpf(MAP_CREATE, attr, "map")


def update_map(fd: int, key: int, value: bytes) -> None:
    """Write the value of an array map's `key`; of a map of maps, the descriptor of a map as 4 bytes."""
    at, whole = (
        ctypes.create_string_buffer(struct.pack("<I", key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    attr = struct.pack("<I4xQQQ", fd, ctypes.addressof(at), ctypes.addressof(whole), 0)
    _bpf(MAP_UPDATE_ELEM, attr, "map's value")


def freeze_map(fd: int) -> None:
    """Have nobody write to a map from user space any more."""
    _bpf(MAP_FREEZE, struct.pack("<I", fd), "freezing of a map")


def run_program(fd: int, repeat: int = 1, packet: bytes = bytes(PACKET_BYTES)) -> TestRun:
    """Run a socket filter or XDP program `repeat` times over `packet`.

    Raises InterruptedError when a signal came: some of the runs have been made then.
    """
    given, left = (ctypes.create_string_buffer(packet, len(packet)) for _ in range(2))
    attr = struct.pack(
        "<4I2Q2I",
        *(fd, 0, len(packet), len(packet), ctypes.addressof(given), ctypes.addressof(left), repeat, 0),
    )
    buffer = _bpf_attr(PROG_TEST_RUN, attr, "test run")[1]
    returned, _, _ = struct.unpack_from("<iII", buffer, 4)
    return TestRun(returned, struct.unpack_from("<I", buffer, 36)[0], left.raw)


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel says of a program."""
    info = ctypes.create_string_buffer(INFO_BYTES)
    _bpf(OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, INFO_BYTES, ctypes.addressof(info)), "program's facts")
    jited_bytes, xlated_bytes = struct.unpack_from("<II", info, 16)
    run_ns, runs = struct.unpack_from("<QQ", info, INFO_RUN_TIME)
    (verified,) = struct.unpack_from("<I", info, INFO_VERIFIED)
    return ProgramInfo(xlated_bytes // 8, verified, jited_bytes, run_ns, runs)


def count_run_time() -> int:
    """Return a descriptor; while it is open, the kernel counts what every BPF program takes."""
    return _bpf(ENABLE_STATS, struct.pack("<I", STATS_RUN_TIME), "run time statistics")


def load_program(kind: int, code: bytes) -> int:
    """Return the file descriptor of a program that the kernel's verifier has accepted.

    Raises CapabilityError when it is refused to this user or by this kernel, RuntimeError with the verifier's
    words when the program itself is refused: a bug of ours.
    """
    instructions, license_name = ctypes.create_string_buffer(code, len(code)), ctypes.c_char_p(b"GPL")
    log = ctypes.create_string_buffer(LOG_BYTES)

    def attr(log_level: int) -> bytes:
        return struct.pack(
            "<IIQQIIQII16s",
            kind,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.cast(license_name, ctypes.c_void_p).value,
            log_level,
            LOG_BYTES if log_level else 0,
            ctypes.addressof(log) if log_level else 0,
            0,
            0,
            NAME,
        )

    try:
        return _bpf(PROG_LOAD, attr(0), "program")
    except _RefusedProgram:  # once more, for the reason
        try:
            os.close(_bpf(PROG_LOAD, attr(1), "program"))
        except _RefusedProgram as refused:
            said = log.value.decode(errors="replace").strip().splitlines()
            if refused.error == errno.EINVAL and not said:  # the verifier never saw it
                raise CapabilityError(
                    "BPF program: this kernel does not take it, and says no reason: use Linux 5.8 or later"
                ) from None
            raise RuntimeError("the BPF verifier refused the program: " + " | ".join(said[-4:])) from None
        raise


class _RefusedProgram(Exception):
    """The verifier's no, or that of a kernel that lacks what the program uses."""

    def __init__(self, error: int) -> None:
        self.error = error


def _bpf(command: int, attr: bytes, what: str) -> int:
    return _bpf_attr(command, attr, what)[0]


def _bpf_attr(command: int, attr: bytes, what: str, attempts: int = LOAD_ATTEMPTS) -> tuple[int, bytes]:
    """Return what bpf(2) returned, and the attributes as it left them."""
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise CapabilityError(f"bpf: unknown on {platform.machine()}: use x86_64 or aarch64")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attr.ljust(ATTR_BYTES, b"\0"), ATTR_BYTES)
    fd: int = libc.syscall(number, command, buffer, ATTR_BYTES)
    if fd >= 0:
        return fd, buffer.raw
    error = ctypes.get_errno()
    if command == PROG_LOAD and error in REFUSALS:
        raise _RefusedProgram(error)
    if command == PROG_LOAD and error == errno.EAGAIN and attempts > 1:  # a signal came
        return _bpf_attr(command, attr, what, attempts - 1)
    if command == PROG_TEST_RUN and error == errno.EINTR:
        raise InterruptedError("a signal came during a test run")
    reasons = {
        errno.EPERM: f"refused to this user (kernel.unprivileged_bpf_disabled is {_unprivileged()}): run as "
        f"root, or give it CAP_BPF and CAP_PERFMON",
        errno.ENOSYS: "this kernel has no bpf(2): use one built with CONFIG_BPF_SYSCALL",
        errno.EINVAL: "this kernel does not know it: use Linux 5.8 or later",
        errno.ENOMEM: "no memory for it: give a smaller --buffer",
    }
    reason = reasons.get(error, f"{os.strerror(error)}: see dmesg")
    raise CapabilityError(f"BPF {what}: {reason}")


def _unprivileged() -> str:
    try:
        return Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip()
    except OSError:
        return "unreadable"
