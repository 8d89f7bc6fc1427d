"""The programs of the bench: their commands, and what tells one version of a program from another."""

import hashlib
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kdtool.demo.workloads import FOLDER as DEMO_PROGRAMS
from kdtool.demo.workloads import SETTINGS as DEMO_ENVIRONMENT
from kdtool.errors import CommandError, ParameterError, unknown_name

__all__ = ["PROGRAMS", "BenchProgram", "choose_programs"]

FOLDER = Path(__file__).parent / "programs"
# OpenBLAS picks its block sizes by the CPU, and the emulator's is another: say one that both have.
ENVIRONMENT = (*DEMO_ENVIRONMENT, "OPENBLAS_CORETYPE=Haswell", "PYTHONHASHSEED=0")
COMPILE = ("gcc", "-O2", "-Wall")


@dataclass(frozen=True)
class BenchProgram:
    """A program, in Python or C; one of the user's own has no source and its whole command in `arguments`."""

    name: str
    source: Path | None
    arguments: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Return a hash of the source and the arguments: results of another version are not kept."""
        content = b"" if self.source is None else self.source.read_bytes()
        return hashlib.sha256(content + "\0".join(self.arguments).encode()).hexdigest()

    def command(self, binaries: Path) -> tuple[str, ...]:
        """Return the command; a C program is compiled into the folder `binaries` first."""
        if self.source is None:
            return self.arguments
        if self.source.suffix == ".py":
            return (*ENVIRONMENT, sys.executable, str(self.source), *self.arguments)
        target = binaries / self.source.stem
        if not target.exists() or target.stat().st_mtime < self.source.stat().st_mtime:
            _compile(self.source, target)
        return (str(target), *self.arguments)


def _compile(source: Path, target: Path) -> None:
    command = [*COMPILE, "-o", str(target), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{source}: gcc failed: {done.stderr.strip()}")


def _own(name: str, source: str, *arguments: str) -> BenchProgram:
    return BenchProgram(name, FOLDER / source, arguments)


def _strided(stride: int) -> BenchProgram:
    return _own(f"stride-{stride}", "strided_loads.c", "24000", str(stride), "20000")


PROGRAMS = (
    BenchProgram(
        "convolution",
        DEMO_PROGRAMS / "convolution.py",
        ("--rows", "3600", "--columns", "3600", "--block-columns", "600"),
    ),
    BenchProgram("resize", DEMO_PROGRAMS / "resize.py", ("--frames", "24")),
    _own("sort", "sort.py"),
    _own("bfs", "bfs.c", "1500000", "12", "5000", "2", "0"),
    _own("pagerank", "pagerank.py"),
    _own("sqlite", "sqlite.py"),
    _own("kmeans", "kmeans.py"),
    _own("matmul", "matmul.py"),
    _own("fft", "fft.py"),
    _own("objects", "objects.py"),
    _own("groupby", "groupby.py"),
    _own("stencil", "stencil.c", "2200", "4"),
    *(_strided(stride) for stride in (2, 3, 7, 64)),
    _own("zipf", "random_loads.c", "20000", "120000", "1.0", "0", "5000"),
    _own("uniform", "random_loads.c", "20000", "80000", "0.0", "0", "5000"),
)


def choose_programs(names: list[str] | None, commands: list[str]) -> list[BenchProgram]:
    """Return the programs of these names (all when None), and one for each `NAME=COMMAND LINE` of the user.

    Raises ParameterError for an unknown name and for a command without one.
    """
    known = {program.name: program for program in PROGRAMS}
    for name in names or []:
        if name not in known:
            raise unknown_name("program", name, known)
    chosen = [known[name] for name in (known if names is None else names)]
    for text in commands:
        name, _, line = text.partition("=")
        if not name.isidentifier() or not line:
            raise ParameterError(
                f"--command {text}: give NAME=COMMAND LINE, the name of letters, digits and _"
            )
        chosen.append(BenchProgram(name, None, tuple(shlex.split(line))))
    return chosen
