"""The programs of the guest bench, in C and linked statically: one file is recorded and run in the guest.

They are smaller than those of bench/fidelity: the emulated machine makes some hundred million instructions a
second.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.guest.machine import compile_static
from kdtool.collect import collector
from kdtool.collect.base import Request
from kdtool.collect.refs import recorded_by_this_version
from kdtool.collect.session import record
from kdtool.errors import CommandError, unknown_name
from kdtool.traces import Trace

__all__ = ["PROGRAMS", "GuestProgram", "choose", "record_program"]

OWN = Path(__file__).parent / "programs"
FIDELITY = Path(__file__).parent.parent / "fidelity" / "programs"


@dataclass(frozen=True)
class GuestProgram:
    """A C source and its arguments."""

    name: str
    source: Path
    arguments: tuple[str, ...]

    @property
    def version(self) -> str:
        """Return what tells its source and arguments from others."""
        content = self.source.read_bytes() + "\0".join(self.arguments).encode()
        return hashlib.sha256(content).hexdigest()[:12]

    def binary(self, work: Path) -> Path:
        """Return the compiled program."""
        return compile_static(self.source, work)


def _program(name: str, source: Path, *arguments: int | float) -> GuestProgram:
    return GuestProgram(name, source, tuple(str(argument) for argument in arguments))


PROGRAMS = (
    *(_program(f"stride-{n}", FIDELITY / "strided_loads.c", 12000, n, 4000) for n in (3, 64)),
    _program("zipf", FIDELITY / "random_loads.c", 12000, 60000, 1.0, 0, 500),
    _program("uniform", FIDELITY / "random_loads.c", 12000, 40000, 0.0, 0, 500),
    _program("stencil", FIDELITY / "stencil.c", 1500, 3),
    _program("bfs", FIDELITY / "bfs.c", 600000, 12, 5000, 2, 0),
    _program("hot_scans", OWN / "hot_scans.c", 12000, 2000, 2, 3),
)


def choose(names: list[str] | None) -> list[GuestProgram]:
    """Return the programs of these names, all when None; ParameterError for an unknown one."""
    known = {program.name: program for program in PROGRAMS}
    for name in names or []:
        if name not in known:
            raise unknown_name("program", name, known)
    return [known[name] for name in (known if names is None else names)]


def record_program(program: GuestProgram, work: Path, k: int) -> Path:
    """Return the trace of every page that it refers to, recorded unless this version's is there already.

    This version of the program, and of what records it.
    """
    path = work / "traces" / f"{program.name}-{program.version}-k{k}.kdt"
    if path.is_dir():
        if recorded_by_this_version(Trace(path)):
            return path
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = (str(program.binary(work)), *program.arguments)
    trace = record(Request(command, path, k=k, quiet_stdout=True), [collector("refs")])
    if trace.manifest.workload["exit_code"]:
        raise CommandError(f"{program.name}: ended with {trace.manifest.workload['exit_code']} under qemu")
    return path
