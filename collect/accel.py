"""Accelerators: what a program has its devices do, with the bytes it moves, one row a command.

Idea: an OpenCL layer in the program sees every command it enqueues (`cllayer.c`, `opencl.py`); beside it,
where the kernel has them, tracepoints see every job of a GPU's driver (`drmjobs.py`, `drmrecord.py`). An
OpenCL command of such a driver is a row, and the jobs it becomes are rows of another device and queue.
State: spool files of 96 bytes a command, read about once a second and kept until the trace is sealed.
Differs from a vendor's profiler: any OpenCL driver, and the times of all devices on CLOCK_MONOTONIC.
Not seen: other interfaces (CUDA, Level Zero, Vulkan); what a vendor's own profiler wrote is imported instead.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.collect.accelspool import NEVER_NS
from kdtool.collect.base import Problem, Progress, Scope
from kdtool.collect.drmrecord import DrmJobs
from kdtool.collect.opencl import Columns, OpenCl, probe
from kdtool.errors import CapabilityError
from kdtool.traces import AccelKind, TraceWriter

__all__ = ["Accel", "AccelSource", "Jobs", "Merger"]

TABLE = "accel"
EVERY_S = 1.0
FIRST_RING = 1 << 16
"""`queue` of the first ring of a GPU's driver: above those of OpenCL."""
GPU = "GPU"
"""What a device is called whose driver does not say."""


class Accel:
    """The collector `accel`: table `accel`, clock `monotonic`."""

    name = "accel"
    tables = (TABLE,)
    clock = "monotonic"

    def unavailable(self) -> Problem | None:
        """Return what is missing: a compiler, the headers of OpenCL, or a loader that loads layers."""
        try:
            probe()
        except CapabilityError as error:
            return Problem.of(error)
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "AccelSource":
        """Compile the layer unless that was done, and open what the kernel tells of GPUs.

        Raises CapabilityError when the layer cannot be made for a command, and where something that lives
        already is to be recorded on a machine whose kernel tells nothing.
        """
        return AccelSource(scope, writer)


class AccelSource:
    """The source of one recording: what the layer spools and the kernel traces becomes rows as it comes."""

    def __init__(self, scope: Scope, writer: TraceWriter) -> None:
        self._writer = writer
        self._devices: dict[str, int] = {}
        self._merger = Merger(writer)
        self._opencl: OpenCl | None = None
        self._jobs: Jobs | None = None
        self._no_jobs = ""
        self._taken_s = 0.0
        if scope.request.command:
            self._opencl = OpenCl(writer.spool / TABLE, writer, self._devices)
        try:
            self._jobs = Jobs(DrmJobs(buffer_bytes=scope.request.buffer_bytes), writer, self._devices)
        except CapabilityError as error:
            self._no_jobs = str(error)
            if self._opencl is None:
                raise CapabilityError(
                    f"accel: an OpenCL layer enters a program only when it starts, and {error}, or give "
                    f"-- COMMAND"
                ) from None

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what makes an OpenCL loader load the layer, and tells the layer where to write."""
        return {} if self._opencl is None else self._opencl.environment

    def start(self, pids: Sequence[int]) -> None:
        """Begin to record the jobs of `pids`; the layer is in the command's environment."""
        if self._jobs is not None:
            self._jobs.start(pids)
        self._taken_s = time.monotonic()

    def check(self) -> None:
        """Append what came, once a second."""
        if time.monotonic() - self._taken_s >= EVERY_S:
            self._take(final=False)
            self._taken_s = time.monotonic()

    def progress(self) -> Progress:
        """Return the commands and jobs appended or about to be, and those known to be lost."""
        return Progress(self._merger.rows, sum(part.lost.total() for part in self._parts()))

    def finish(self) -> None:
        """Append what completed; that whose completion was never seen is lost."""
        self._take(final=True)
        self._writer.lose(TABLE, self.progress().lost)

    def facts(self) -> dict[str, Any]:
        """Return the devices and their clocks, losses by reason, and what could not be seen."""
        facts = {part.name: part.facts() for part in self._parts()}
        return facts | ({"drm": {"unavailable": self._no_jobs}} if self._no_jobs else {})

    def close(self) -> None:
        """Close the spool files, and remove what was made in tracefs."""
        for part in self._parts():
            part.close()

    def _parts(self) -> "list[OpenCl | Jobs]":
        return [part for part in (self._opencl, self._jobs) if part is not None]

    def _take(self, *, final: bool) -> None:
        before_ns = NEVER_NS
        for part in self._parts():
            rows, part_before_ns = part.take(final=final)
            before_ns = min(before_ns, part_before_ns)
            for columns in rows:
                self._merger.add(columns)
        self._merger.flush(before_ns)


class Jobs:
    """The jobs of the kernel's GPU drivers as rows.

    lost : jobs without a row so far, by reason; of an event that was overwritten unread, its job
    """

    name = "drm"

    def __init__(self, record: DrmJobs, writer: TraceWriter, devices: dict[str, int]) -> None:
        self._record, self._writer, self._devices = record, writer, devices
        self._rows = 0
        self.lost: Counter[str] = Counter()

    def start(self, pids: Sequence[int]) -> None:
        """Begin to record the threads of `pids`."""
        self._record.start(pids)

    def take(self, *, final: bool) -> tuple[list[Columns], int]:
        """Return rows, and the time before which no more will be queued."""
        jobs, start_ns = self._record.take(final=final)
        unfinished = self._record.dropped + (self._record.open if final else 0)
        self.lost = Counter(overwritten=self._record.lost_events(), unfinished=unfinished)
        self._rows += len(jobs)
        where = [self._where(device, ring) for device, ring in self._record.labels.known]
        devices, names = np.array(where, np.int64).reshape(-1, 2).T
        rows: Columns = {
            "queued_ns": jobs["queued"],
            "submit_ns": jobs["submit"],
            "start_ns": start_ns,
            "end_ns": jobs["end"],
            "pid": np.array([_process_of(tid) for tid in jobs["tid"].tolist()], np.int32),
            "device": devices[jobs["label"]].astype(np.int16),
            "queue": (jobs["label"] + FIRST_RING).astype(np.uint32),
            "kind": np.full(len(jobs), AccelKind.KERNEL, np.uint8),
            "bytes": np.zeros(len(jobs), np.uint64),
            "address": np.zeros(len(jobs), np.uint64),
            "name_id": names[jobs["label"]].astype(np.uint32),
        }
        return [rows] if len(jobs) else [], NEVER_NS if final else self._record.before_ns

    def facts(self) -> dict[str, Any]:
        """Return the tracepoints, the rings, and the losses by reason."""
        rings = [
            {
                "queue": FIRST_RING + i,
                "device": self._devices.get(device or GPU),
                "name": device,
                "ring": ring,
            }
            for i, (device, ring) in enumerate(self._record.labels.known)
        ]
        lost = {reason: n for reason, n in self.lost.items() if n}
        return {"events": list(self._record.events.names), "jobs": self._rows, "rings": rings, "lost": lost}

    def close(self) -> None:
        """Remove the instances of tracefs."""
        self._record.close()

    def _where(self, device: str, ring: str) -> tuple[int, int]:
        number = self._devices.setdefault(device or GPU, len(self._devices))
        return number, self._writer.name_id(ring or "job")


def _process_of(tid: int) -> int:
    """Return the process of a thread, or its own number when it has ended."""
    try:
        status = Path(f"/proc/{tid}/status").read_text(errors="replace")
    except OSError:
        return tid
    return int(status.partition("Tgid:")[2].split()[0])


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
