"""The emulated machine: boots a kernel with the bench's runs and returns what its console said.

No KVM: instructions are counted (-icount) and the guest's clock goes on by NS_PER_INSN for each; where the
guest waits, it goes on to the next timer at once. Swap is a null_blk device that keeps what is written in
memory of the guest and ends each request LATENCY_NS after it was begun, by a timer of the guest's: what a run
does depends on nothing outside of the guest, whatever else the host does meanwhile.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.guest.initramfs import pack
from bench.guest.package import Kernel
from kdtool.errors import CapabilityError, CommandError

__all__ = ["LATENCY_NS", "NS_PER_INSN", "boot", "compile_static"]

FOLDER = Path(__file__).parent
ICOUNT_SHIFT = 1
NS_PER_INSN = 1 << ICOUNT_SHIFT
LATENCY_NS = 46_000
"""Of a request to the swap device: that of the profile `ssd`."""
MEMORY_MIB = 768
COMMAND_LINE = "console=ttyS0 quiet panic=-1 cgroup_no_v1=all transparent_hugepage=never mitigations=off"


def boot(kernel: Kernel, files: Mapping[str, bytes], work: Path, heard: Callable[[str], None]) -> str:
    """Boot with `files` beside init and busybox, until the guest switches itself off; return its console.

    heard : called with each line of the bench's own
    """
    initramfs = work / "initramfs.gz"
    initramfs.write_bytes(pack({**_own_files(work), **_modules(kernel), **files}))
    command = [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1"),
        *(
            "-icount",
            f"shift={ICOUNT_SHIFT},sleep=off",
            "-m",
            str(MEMORY_MIB),
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
        ),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", COMMAND_LINE),
    ]
    lines = []
    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as guest:
            assert guest.stdout is not None
            for line in guest.stdout:
                lines.append(line)
                if line.startswith("kdtool-"):
                    heard(line.strip())
    except FileNotFoundError:
        raise CapabilityError("qemu-system-x86_64 is not installed: install qemu-system-x86") from None
    finally:
        initramfs.unlink()
    if "kdtool-done" not in "".join(lines[-5:]):
        sys.stderr.writelines(lines[-20:])
        raise CommandError("the guest ended before its runs did: see its last lines above")
    return "".join(lines)


def _modules(kernel: Kernel) -> dict[str, bytes]:
    return {f"modules/{number}.ko": content for number, content in enumerate(kernel.modules())}


def _own_files(work: Path) -> dict[str, bytes]:
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        raise CapabilityError(f"{busybox} is not there: install busybox-static")
    limited = compile_static(FOLDER / "limited.c", work)
    return {
        "init": (FOLDER / "init.sh").read_bytes(),
        "latency_ns": str(LATENCY_NS).encode(),
        "bin/busybox": busybox.read_bytes(),
        "bin/limited": limited.read_bytes(),
    }


def compile_static(source: Path, work: Path) -> Path:
    """Return the program of a C source, linked statically, below `work`; CommandError when gcc fails."""
    target = work / "bin" / source.stem
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-Wall", "-static", "-o", str(target), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{source}: gcc failed: {done.stderr.strip()}")
    return target
