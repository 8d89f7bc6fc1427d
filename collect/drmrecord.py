"""Recording the jobs of GPU drivers by two tracefs instances: a job ends in another context than it began.

    instance 1  queue        of the followed threads only, and of what they start
    instance 2  run, done    of all: a worker of the kernel and an interrupt have nobody's pid

Unit of work: what the rings hold, once a second; a second is held back, for what another CPU has not written
yet. What is done but was not queued by a followed thread is dropped. Every event overwritten unread counts as
a lost job. Whose work this is: GPUs' only, so that recording cannot record itself.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdtool.collect.drmjobs import EVENT, QUEUE, JobEvents, Labels, decode, find_generation, match, starts_of
from kdtool.errors import CapabilityError
from kdtool.kernel.trace_ring import RingReader
from kdtool.kernel.tracefs import Instance, find_tracefs, reap_stale

__all__ = ["DrmJobs", "find_jobs"]

BUFFER_BYTES = 4 << 20
"""A CPU's buffer: 30,000 jobs."""
HOLD_NS = 1_000_000_000
DRIVERS = (Path("/sys/class/drm"), Path("/sys/class/accel"))


def find_jobs(root: Path, drivers: Sequence[Path] = DRIVERS) -> JobEvents:
    """Return the tracepoints of GPU jobs under the tracefs `root`; CapabilityError when there are none.

    Fences alone are signalled by other devices too: they count where a driver of GPUs is.
    """
    events = root / "events"
    available = {
        f"{system}:{event.name}"
        for system in ("gpu_scheduler", "dma_fence")
        if (events / system).is_dir()
        for event in (events / system).iterdir()
        if event.is_dir()
    }
    found = find_generation(available)
    if found is None or (found.queue.startswith("dma_fence:") and not any(map(Path.exists, drivers))):
        raise CapabilityError(
            f"no driver of a GPU has tracepoints here ({root}/events/gpu_scheduler): load one that uses the "
            f"DRM scheduler"
        )
    return found


class DrmJobs:
    """Records the jobs queued by some threads and what those start; CapabilityError when that is refused.

    open, dropped : jobs that are queued and not done, and those that never will be
    before_ns : what is queued from now on is queued later
    """

    def __init__(self, events: JobEvents | None = None, buffer_bytes: int | None = None) -> None:
        root = find_tracefs()
        reap_stale(root)
        self.events = find_jobs(root) if events is None else events
        self.labels = Labels()
        self.open = self.dropped = self.before_ns = 0
        self._open = np.empty(0, EVENT)
        self._ring_done_ns: dict[int, int] = {}
        with ExitStack() as stack:
            size = BUFFER_BYTES if buffer_bytes is None else buffer_bytes
            fork = {"event-fork": True}
            self._queued = stack.enter_context(Instance(buffer_bytes=size, options=fork, root=root))
            self._served = stack.enter_context(Instance(buffer_bytes=size, root=root))
            self._queued.enable(self.events.queue)
            for name in self.events.names[1:]:
                self._served.enable(name)
            formats = {**self._queued.formats, **self._served.formats}
            self._key = self.events.key_of(formats.values())
            self._readers = [stack.enter_context(RingReader(each)) for each in (self._queued, self._served)]
            self._stack = stack.pop_all()

    def start(self, pids: Sequence[int]) -> None:
        """Begin to record the threads of `pids`."""
        self._queued.follow({tid for pid in pids for tid in _threads(pid)} or {os.getpid()})
        self._served.start()
        self._queued.start()

    def take(self, *, final: bool) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
        """Return the jobs that are done and when each began to run. With `final`, recording stops first."""
        if final:
            self._queued.stop()
            self._served.stop()
        until_ns = np.iinfo(np.int64).max if final else time.monotonic_ns() - HOLD_NS
        fresh = [
            self._read(*each, rest=final)
            for each in zip((self._queued, self._served), self._readers, strict=True)
        ]
        events = np.concatenate([self._open, *fresh])
        late = events["t_ns"] >= until_ns
        jobs, rest, dropped = match(events[~late])
        self.dropped += dropped
        self._open = np.concatenate([rest, events[late]])
        queued = self._open["role"] == QUEUE
        self.open = int(np.count_nonzero(queued))
        self.before_ns = min(until_ns, int(self._open["t_ns"][queued].min(initial=until_ns)))
        return jobs, starts_of(jobs, self._ring_done_ns)

    def lost_events(self) -> int:
        """Return how many events were overwritten before they were read."""
        return sum(cpu.lost for each in (self._queued, self._served) for cpu in each.stats())

    def close(self) -> None:
        """Remove the instances."""
        self._stack.close()

    def _read(self, instance: Instance, reader: RingReader, *, rest: bool) -> "np.ndarray[Any, Any]":
        """Return the events that the rings of an instance hold."""
        found = [np.empty(0, EVENT)]
        for cpu in range(len(instance.cpus)):
            more = True
            while more:
                records, more = reader.read(cpu, rest=rest)
                types = records.types()
                for number, fmt in instance.formats.items():
                    mine = types == number
                    columns = {
                        "buffer": records.buffer,
                        "starts": records.starts[mine],
                        "t_ns": records.t_ns[mine],
                    }
                    name = next(each for each in self.events.names if each.endswith(f":{fmt.name}"))
                    found.append(decode(self.events, name, fmt, self._key, columns, self.labels))
        return np.concatenate(found)


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry) for entry in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []
