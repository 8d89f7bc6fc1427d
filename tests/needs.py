"""What a test needs of the machine: marks that skip and name what is missing, and swap for a session."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdtool.collect.accel import Accel
from kdtool.collect.faults import Faults
from kdtool.collect.refs import References
from kdtool.errors import CapabilityError
from kdtool.kernel.tracefs import Instance
from kdtool.rmt import stride_program
from kdtool.verify.kernelvm import KernelVm

__all__ = [
    "BPFTOOL",
    "POCL",
    "SWAP",
    "bpf",
    "bpftool",
    "compiled",
    "faults",
    "gcc",
    "loop",
    "loop_disk",
    "opencl",
    "qemu",
    "root",
    "swap_up",
    "tracefs",
]

SWAP = Path(__file__).parent.parent / "scripts" / "swap"
PROGRAMS = Path(__file__).parent / "programs"
POCL = Path("/etc/OpenCL/vendors/pocl.icd")


def _missing(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def _tracefs() -> str:
    """Return why no instance can be made here, or nothing."""
    try:
        Instance(buffer_bytes=4096).close()
    except CapabilityError as error:
        return str(error)
    return ""


def _bpf() -> str:
    """Return why a program of ours cannot run in this kernel, or nothing."""
    try:
        KernelVm(stride_program()).close()
    except CapabilityError as error:
        return str(error)
    return ""


_no_tracefs, _no_bpf = _tracefs(), _bpf()
_faults, _refs, _accel = Faults().unavailable(), References().unavailable(), Accel().unavailable()

bpf = pytest.mark.skipif(bool(_no_bpf), reason=_no_bpf)
root = pytest.mark.skipif(os.geteuid() != 0, reason="not root")
BPFTOOL = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin")
bpftool = pytest.mark.skipif(BPFTOOL is None, reason="bpftool is not installed")
gcc = _missing("gcc")
loop = _missing("losetup")
faults = pytest.mark.skipif(_faults is not None, reason=f"{_faults and _faults.reason}")
tracefs = pytest.mark.skipif(bool(_no_tracefs), reason=_no_tracefs)
qemu = pytest.mark.skipif(_refs is not None, reason=f"{_refs and _refs.reason}")
_no_device = _accel.reason if _accel else "" if POCL.exists() else "pocl-opencl-icd is not installed"
opencl = pytest.mark.skipif(bool(_no_device), reason=_no_device)


@contextmanager
def swap_up(*, rotational: bool = False) -> Iterator[None]:
    """Set up swap of this process's own for the block; skip where that cannot be done.

    Also beside other swap: that may be taken down by its owner, such as another worker, at any time.
    """
    file = ["--file", f"/var/tmp/kdtool-test-{os.getpid()}.img"]
    up = [sys.executable, SWAP, "up", "--force", "--size", "512M", *file]
    up += ["--rotational"] if rotational else []
    done = subprocess.run(up, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no swap: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([sys.executable, SWAP, "down", *file], check=True, capture_output=True)


@contextmanager
def loop_disk(size_bytes: int) -> Iterator[tuple[str, Path]]:
    """Give a loop device of this process's own, with direct I/O, and the file behind it."""
    file = Path(f"/var/tmp/kdtool-test-disk-{os.getpid()}.img")
    with file.open("wb") as made:
        os.posix_fallocate(made.fileno(), 0, size_bytes)
    try:
        attach = ["losetup", "-P", "-f", "--show", "--direct-io=on", str(file)]
        done = subprocess.run(attach, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr.strip()}")
        yield done.stdout.strip(), file
    finally:
        listed = subprocess.run(
            ["losetup", "-j", str(file)], capture_output=True, text=True, check=True
        ).stdout
        for line in listed.splitlines():
            subprocess.run(["losetup", "-d", line.split(":")[0]], check=True)
        file.unlink()


def compiled(folder: Path, name: str, *libraries: str) -> str:
    """Compile tests/programs/NAME.c into `folder` and return the program's path."""
    target = folder / name
    subprocess.run(["gcc", "-O1", "-Wall", "-o", target, PROGRAMS / f"{name}.c", *libraries], check=True)
    return str(target)
