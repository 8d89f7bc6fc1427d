"""The bench's work folder: everything that took long to get, so that it is got once.

    WORK/bin/            compiled programs
    WORK/footprints/     PROGRAM.json, the run without a limit
    WORK/traces/         PROGRAM.kdt, every page reference, and PROGRAM.json, what recording took
    WORK/kernel-file/    PROGRAM-PERCENT-SETTING.json, a cell: the runs under the kernel with swap in a file
    WORK/kernel-loop/    the same, with swap on a loop device

Each file names the version of the program that it belongs to; files of another version count as missing.
"""

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.fidelity.looks import Numbers
from bench.fidelity.workloads import BenchProgram
from kdtool.errors import ParameterError
from kdtool.fidelity.footprint import Footprint
from kdtool.fidelity.runs import KernelRun

__all__ = ["Measured", "Store"]


@dataclass
class Measured:
    """The runs of one cell so far, see Cell in kdtool/fidelity/score.py, and looks at the disk meanwhile."""

    limit_bytes: int
    runs: list[KernelRun] = field(default_factory=list)
    oom_kills: int = 0
    disturbed: int = 0
    trouble: str = ""
    looks: list[Numbers] = field(default_factory=list)
    host: dict[str, Any] = field(default_factory=dict)


class Store:
    """The files of one work folder; ParameterError when another bench is at work in it.

    loop : the runs are those with swap on a loop device
    """

    def __init__(self, folder: Path, *, loop: bool) -> None:
        self._folder, self.loop = folder, loop
        self._kernel = "kernel-loop" if loop else "kernel-file"
        self.binaries = self._made("bin")
        self._lock = os.open(folder, os.O_RDONLY)  # held until this process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ParameterError(
                f"--work {folder}: another bench is at work in it: wait, or give another"
            ) from None

    def trace(self, program: BenchProgram) -> Path:
        """Return where the program's trace is or will be."""
        return self._made("traces") / f"{program.name}.kdt"

    def recorded(self, program: BenchProgram) -> dict[str, Any] | None:
        """Return what recording the program took, None when this version of it was not recorded."""
        found = self._read(self.trace(program).with_suffix(".json"), program)
        return found if found is not None and self.trace(program).is_dir() else None

    def keep_recorded(self, program: BenchProgram, facts: dict[str, Any]) -> None:
        """Note what recording the program took."""
        self._write(self.trace(program).with_suffix(".json"), program, facts)

    def forget_recorded(self, program: BenchProgram) -> None:
        """Remove the program's recording, first the note of it: one that is cut short has none."""
        self.trace(program).with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(self.trace(program), ignore_errors=True)

    def footprint(self, program: BenchProgram) -> Footprint | None:
        """Return the program's footprint if it was measured."""
        found = self._read(self._footprint_file(program), program)
        return None if found is None else Footprint(**found)

    def keep_footprint(self, program: BenchProgram, footprint: Footprint) -> None:
        """Keep the program's footprint."""
        self._write(self._footprint_file(program), program, footprint.to_row())

    def measured(self, program: BenchProgram, percent: int, setting: str, limit: int) -> Measured | None:
        """Return the runs of a cell, None when there are none in a memory of `limit` bytes."""
        found = self._read(self._cell_file(program, percent, setting), program)
        if found is None or found["limit_bytes"] != limit:
            return None
        return Measured(**found | {"runs": [KernelRun(**run) for run in found["runs"]]})

    def keep_measured(self, program: BenchProgram, percent: int, setting: str, measured: Measured) -> None:
        """Keep the runs of a cell."""
        self._write(self._cell_file(program, percent, setting), program, asdict(measured))

    def forget(self, program: BenchProgram, percent: int, setting: str) -> None:
        """Remove the runs of a cell."""
        self._cell_file(program, percent, setting).unlink(missing_ok=True)

    def forget_footprint(self, program: BenchProgram) -> None:
        """Remove the program's footprint."""
        self._footprint_file(program).unlink(missing_ok=True)

    def _footprint_file(self, program: BenchProgram) -> Path:
        return self._made("footprints") / f"{program.name}.json"

    def _cell_file(self, program: BenchProgram, percent: int, setting: str) -> Path:
        return self._made(self._kernel) / f"{program.name}-{percent}-{setting}.json"

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _read(self, file: Path, program: BenchProgram) -> dict[str, Any] | None:
        if not file.exists():
            return None
        document: dict[str, Any] = json.loads(file.read_text())
        return document["content"] if document["program_sha256"] == program.digest else None

    def _write(self, file: Path, program: BenchProgram, content: dict[str, Any]) -> None:
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"program_sha256": program.digest, "content": content}, indent=1))
        os.replace(partial, file)
