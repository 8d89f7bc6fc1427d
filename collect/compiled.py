"""What is compiled on first use: C sources that ship beside this file, into the cache folder.

sources + compiler + flags --sha256--> cache/NAME-HASH[.so] --absent--> gcc, beside, renamed into place
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdtool.errors import CapabilityError

__all__ = ["CFLAGS", "build"]

PROGRAM_CFLAGS = ("-O2", "-Wall", "-Wextra")
CFLAGS = (*PROGRAM_CFLAGS, "-shared", "-fPIC", "-fvisibility=hidden")


def build(sources: Sequence[str], packages: str, *, program: bool = False) -> tuple[Path, str]:
    """Compile the first of `sources`, which includes the others, unless the cache has it.

    Parameters
    ----------
    sources : files of this folder
    packages : the Debian packages that it takes, for the message when it fails
    program : make a program of it, not a library

    Returns
    -------
    The path of what was made, and the sha256 it is kept under.

    Raises
    ------
    CapabilityError
        There is no gcc, gcc refused it, or the cache folder cannot be written.
    """
    folder = Path(__file__).resolve().parent
    flags = PROGRAM_CFLAGS if program else CFLAGS
    digest = hashlib.sha256("\0".join([_gcc_version(packages), *flags]).encode())
    for name in sources:
        digest.update((folder / name).read_bytes())
    key = digest.hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdtool"
    made = cache / f"{Path(sources[0]).stem}-{key[:16]}{'' if program else '.so'}"
    try:
        if not made.exists():
            _compile(folder / sources[0], made, flags, packages)
    except OSError as error:
        raise CapabilityError(f"{cache}: {error.strerror}: set XDG_CACHE_HOME to a folder of yours") from None
    return made, key


def _gcc_version(packages: str) -> str:
    try:
        done = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise CapabilityError(f"gcc is not installed: apt-get install {packages}") from None
    return done.stdout.splitlines()[0]


def _compile(source: Path, target: Path, flags: Sequence[str], packages: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        done = subprocess.run(
            ["gcc", *flags, "-o", made, source], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CapabilityError(
                f"gcc cannot compile {source.name} ({_first_error(done.stderr)}): apt-get install {packages}"
            )
        made.rename(target)


def _first_error(stderr: str) -> str:
    """Return what gcc found wrong first, without the place.

    >>> _first_error("a.c:3:10: fatal error: CL/cl.h: No such file or directory\\ncompilation terminated.")
    'CL/cl.h: No such file or directory'
    """
    for line in stderr.splitlines():
        _, found, said = line.partition("error: ")
        if found:
            return said
    return (stderr.strip().splitlines() or ["no reason given"])[-1]
