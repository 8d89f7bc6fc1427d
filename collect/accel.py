"""Accelerators: what a program has its devices do, with the bytes it moves, one row a command.

Idea: an OpenCL layer in the program sees every command it enqueues (`cllayer.c`, `opencl.py`).
State: spool files of 96 bytes a command, read about once a second and kept until the trace is sealed.
Differs from a vendor's profiler: any OpenCL driver, and the times of all devices on CLOCK_MONOTONIC.
Not seen: other interfaces (CUDA, Level Zero, Vulkan); what a vendor's own profiler wrote is imported instead.
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdtool.collect.accelspool import NEVER_NS
from kdtool.collect.base import Problem, Progress, Scope
from kdtool.collect.opencl import Columns, OpenCl, build_layer
from kdtool.errors import CapabilityError, ParameterError
from kdtool.traces import TraceWriter

__all__ = ["Accel", "AccelSource", "Merger"]

TABLE = "accel"
EVERY_S = 1.0


class Accel:
    """The collector `accel`: table `accel`, clock `monotonic`."""

    name = "accel"
    tables = (TABLE,)
    clock = "monotonic"

    def unavailable(self) -> Problem | None:
        """Return what is missing: a compiler, the headers of OpenCL, or its loader."""
        try:
            build_layer()
        except CapabilityError as error:
            reason, _, fix = str(error).rpartition(": ")
            return Problem(reason, fix)
        try:
            ctypes.CDLL("libOpenCL.so.1")
        except OSError:
            return Problem("no OpenCL loader (libOpenCL.so.1)", "apt-get install ocl-icd-libopencl1")
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "AccelSource":
        """Compile the layer unless that was done; CapabilityError or ParameterError when it cannot record."""
        if not scope.request.command:
            raise ParameterError(
                "accel: an OpenCL layer enters a program when it starts, not while it runs: give -- COMMAND"
            )
        return AccelSource(writer)


class AccelSource:
    """The source of one recording: what the layer spools becomes rows while the program runs."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._opencl = OpenCl(writer.spool / TABLE, writer)
        self._merger = Merger(writer)
        self._taken_s = 0.0

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what makes an OpenCL loader load the layer, and tells the layer where to write."""
        return self._opencl.environment

    def start(self, pids: Sequence[int]) -> None:
        """Do nothing: the layer is in the command's environment."""
        self._taken_s = time.monotonic()

    def check(self) -> None:
        """Append what was spooled, once a second."""
        if time.monotonic() - self._taken_s >= EVERY_S:
            self._take(final=False)
            self._taken_s = time.monotonic()

    def progress(self) -> Progress:
        """Return the commands appended or about to be, and those known to be lost."""
        return Progress(self._merger.rows, self._opencl.lost.total())

    def finish(self) -> None:
        """Append the commands that completed; those whose completion was never seen are lost."""
        self._take(final=True)
        self._writer.lose(TABLE, self._opencl.lost.total())

    def facts(self) -> dict[str, Any]:
        """Return the devices and their clocks, losses by reason, and what could not be seen."""
        return {"opencl": self._opencl.facts()}

    def close(self) -> None:
        """Close the spool files."""
        self._opencl.close()

    def _take(self, *, final: bool) -> None:
        rows, before_ns = self._opencl.take(final=final)
        for columns in rows:
            self._merger.add(columns)
        self._merger.flush(before_ns)


class Merger:
    """Rows of several processes in order of `queued_ns`: held back as long as an earlier one may come."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._held: list[Columns] = []
        self.rows = 0

    def add(self, columns: Columns) -> None:
        """Take rows in any order."""
        self._held.append(columns)
        self.rows += len(columns["queued_ns"])

    def flush(self, before_ns: int = NEVER_NS) -> None:
        """Append the rows queued before `before_ns`."""
        if not self._held:
            return
        columns = {name: np.concatenate([each[name] for each in self._held]) for name in self._held[0]}
        order = np.argsort(columns["queued_ns"], kind="stable")
        n = int(np.searchsorted(columns["queued_ns"][order], before_ns))
        if n:
            self._writer.append(TABLE, {name: values[order[:n]] for name, values in columns.items()})
        rest = {name: values[order[n:]] for name, values in columns.items()}
        self._held = [rest] if len(order) > n else []
