"""A kernel of Debian's: its package, fetched with apt from a suite that need not be the host's, and unpacked.

apt gets sources and folders of its own, so that the host's are left as they are. Once a package is unpacked
nothing is fetched again.
"""

import lzma
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdtool.errors import CapabilityError

__all__ = ["Kernel", "fetch_kernel"]

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
SWAP_MODULES = ("configfs", "null_blk")
"""What the guest's swap device needs, in the order in which they are loaded; some may be built in."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked package: `release` is what uname -r will say, `image` what is booted."""

    release: str
    image: Path
    folder: Path

    def option(self, name: str) -> str:
        """Return the value of a configuration option, such as y or m; "n" when it is not set."""
        for line in (self.folder / "boot" / f"config-{self.release}").read_text().splitlines():
            if line.startswith(f"{name}="):
                return line.partition("=")[2]
        return "n"

    def modules(self, names: Sequence[str] = SWAP_MODULES) -> list[bytes]:
        """Return the modules of these names, unpacked; those built in are left out."""
        found = []
        for name in names:
            for path in self.folder.rglob(f"{name}.ko*"):
                content = path.read_bytes()
                found.append(lzma.decompress(content) if path.suffix == ".xz" else content)
        return found


def fetch_kernel(package: str, suite: str, work: Path) -> Kernel:
    """Return the kernel of a package such as linux-image-6.18.15+deb13-cloud-amd64, unpacked below `work`.

    Raises CapabilityError where apt cannot fetch it.
    """
    folder = work / package
    if not folder.is_dir():
        partial = work / f"{package}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        archive = _download(package, suite, work / "apt" / suite)
        _run(["dpkg-deb", "--extract", str(archive), str(partial)], f"{archive} cannot be unpacked")
        partial.rename(folder)
    images = sorted(folder.glob("boot/vmlinuz-*"))
    if not images:
        raise CapabilityError(f"{package} has no kernel image: give the name of a linux-image package")
    return Kernel(images[0].name.removeprefix("vmlinuz-"), images[0], folder)


def _download(package: str, suite: str, apt: Path) -> Path:
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": apt / "none",
        "Dir::Etc::preferencesparts": apt / "none",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt,
    }
    (apt / "none").mkdir(exist_ok=True)
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value.resolve()}")]
    _run(["apt-get", *given, "update"], f"the list of {suite} cannot be fetched")
    problem = f"{package} is not to be had from {suite}: give --package and --suite of one that Debian has"
    _run(["apt-get", *given, "download", package], problem, apt)
    return max(apt.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)


def _run(command: list[str], problem: str, folder: Path | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise CapabilityError(f"{command[0]} is not installed: packages are Debian's, install it")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        said = done.stderr.strip() or f"{command[0]} ended with {done.returncode}"
        raise CapabilityError(f"{problem}: {said.splitlines()[-1]}")
