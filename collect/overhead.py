"""What recording adds to an event, measured on this machine in 0.4 s, for the manifest.

    two like processes on one CPU take turns at making events (loads.py); the same source records the first

Idea: nothing differs between the two but that they are recorded, and turns of 1 ms hit what else the machine
does alike. The difference of each pair of turns is one sample; their median is the answer.
Not in it: the CPU time of the recorder itself, which the manifest has beside it, and what a disk or a device
takes, beside which the recording of blockio and accel is nothing (docs/collect.md).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from kdtool.collect.base import Collector, Probed, Request, Scope
from kdtool.errors import CapabilityError, KdtoolError
from kdtool.kernel.cgroup import OwnCgroup, find_layout
from kdtool.traces import TraceWriter

__all__ = ["Added", "added_by", "overhead_of"]

PAIRS = 31
LOADS = Path(__file__).with_name("loads.py")


@dataclass(frozen=True)
class Added:
    """Nanoseconds that recording adds to one event: the median of the pairs, and their quartiles."""

    median_ns: int
    low_ns: int
    high_ns: int


def overhead_of(collectors: Sequence[Collector]) -> dict[str, int | str]:
    """Return what the manifest says of each source whose events can be made on demand.

    Keys: `added_per_EVENT_ns` (median of pairs) and `added_per_EVENT_spread_ns` (between the quartiles), or
    `added_per_EVENT`: why it could not be measured, for which no recording is given up.
    """
    facts: dict[str, int | str] = {}
    for each in collectors:
        if isinstance(each, Probed):
            try:
                added = added_by(each)
            except (KdtoolError, OSError) as error:
                facts[f"added_per_{each.load}"] = f"not measured: {error}"
                continue
            facts[f"added_per_{each.load}_ns"] = added.median_ns
            facts[f"added_per_{each.load}_spread_ns"] = added.high_ns - added.low_ns
    return facts


def added_by(collector: Probed) -> Added:
    """Measure what `collector` adds to an event of its load; nothing of it is kept.

    Raises CapabilityError when it may not record here, or a process that makes the events ends early.
    """
    with tempfile.TemporaryDirectory(prefix="kdtool-overhead-") as folder, ExitStack() as stack:
        request = Request((LOADS.name,), Path(folder) / "t.kdt")
        writer = stack.enter_context(TraceWriter(request.output))
        recorded, other = (stack.enter_context(Load(collector.load)) for _ in range(2))
        ours, _ = (_cgroup_of(stack, load.pid) for load in (recorded, other))
        source = collector.open(Scope(ours, request), writer)
        stack.callback(source.close)
        source.start([recorded.pid])
        for load in (recorded, other):
            load.batch_ns()  # the first starts what it needs, and touches what later ones find warm
        samples = []
        for pair in range(PAIRS):
            order = (recorded, other) if pair % 2 else (other, recorded)
            took = {load: load.batch_ns() for load in order}
            samples.append((took[recorded] - took[other]) / recorded.n_events)
        source.finish()
    low, median, high = quantiles(samples, n=4)
    return Added(round(median), round(low), round(high))


class Load:
    """A process that makes a batch of events when told to."""

    def __init__(self, name: str) -> None:
        cpu = max(os.sched_getaffinity(0))
        command = [sys.executable, "-I", "-S", str(LOADS), name, str(cpu)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.pid = self._process.pid
        self.n_events = 0

    def __enter__(self) -> "Load":
        self.n_events = self._number()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def batch_ns(self) -> int:
        """Return the time that a batch took."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._number()

    def _number(self) -> int:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            code = self._process.wait()
            raise CapabilityError(
                f"{LOADS.name} ended with {code}: it makes the events: look at standard error"
            )
        return int(said)


def _cgroup_of(stack: ExitStack, pid: int) -> Path | None:
    """Move a process into a cgroup of ours, as a command is, and return that; None without the right to."""
    try:
        own = stack.enter_context(OwnCgroup(find_layout(), with_memory=False))
    except CapabilityError:
        return None
    assert own.events is not None, "asked for"
    (own.events / "cgroup.procs").write_text(str(pid))
    return own.events
