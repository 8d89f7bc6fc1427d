"""bpf(2) by ctypes: maps, programs, and why the kernel refused them.

A map or program lives as long as a file descriptor to it, an event it is attached to, or a mapping: when this
process dies, however it dies, they are gone. Layouts are those of union bpf_attr in include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path

from kdtool.errors import CapabilityError

__all__ = ["ARRAY", "MMAPABLE", "PERF_EVENT", "RINGBUF", "create_map", "load_program"]

ARRAY, RINGBUF = 2, 27
"""enum bpf_map_type."""
PERF_EVENT = 7
"""enum bpf_prog_type."""
MMAPABLE = 1 << 10

SYSCALL = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, PROG_LOAD = 0, 5
ATTR_BYTES = 144
NAME = b"kdtool"
LOG_BYTES = 1 << 20


def create_map(kind: int, key_bytes: int, value_bytes: int, max_entries: int, flags: int = 0) -> int:
    """Return the file descriptor of a new map; CapabilityError, with what to do, when it is refused."""
    attr = struct.pack("<7I16s", kind, key_bytes, value_bytes, max_entries, flags, 0, 0, NAME)
    return _bpf(MAP_CREATE, attr, "map")


def load_program(kind: int, code: bytes) -> int:
    """Return the file descriptor of a program that the kernel's verifier has accepted.

    Raises CapabilityError when it is refused to this user, RuntimeError with the verifier's words when the
    program itself is refused: a bug of ours.
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
        except _RefusedProgram:
            said = log.value.decode(errors="replace").strip().splitlines()
            raise RuntimeError("the BPF verifier refused the program: " + " | ".join(said[-4:])) from None
        raise


class _RefusedProgram(Exception):
    """EINVAL or EACCES: the verifier's, or a kernel that lacks what the program uses."""


def _bpf(command: int, attr: bytes, what: str) -> int:
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise CapabilityError(f"bpf: unknown on {platform.machine()}: use x86_64 or aarch64")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attr.ljust(ATTR_BYTES, b"\0"), ATTR_BYTES)
    fd: int = libc.syscall(number, command, buffer, ATTR_BYTES)
    if fd >= 0:
        return fd
    error = ctypes.get_errno()
    if command == PROG_LOAD and error in (errno.EINVAL, errno.EACCES):
        raise _RefusedProgram
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
