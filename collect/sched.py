"""Scheduling: every switch, wakeup, migration, fork and exit of a scope's threads, by tracefs.

Idea: two instances of our own. One has `set_event_pid` with the scope's threads and follows forks: there the
kernel records switches and wakings that such a thread makes or that are made of it. The other records all
migrations, forks, exits, births and names: the thread that moves is seldom the one that moves it, and the
kernel's selection by thread follows sched_switch, which one kernel was seen to pass by (seenswitches.py).
What is not ours is dropped when it is read.
State: two buffers a CPU, 56 bytes a switch.
Kernel counterpart: include/trace/events/sched.h; event_filter_pid_sched_*() in kernel/trace/trace_events.c.
Not used: perf sampling, which drops wakings from interrupts in silence. Not seen: threads that come in other
ways than by a fork (moved into the cgroup, io_uring's workers), until they are found, every 0.25 s. What the
second instance had no room for is counted as lost, whosever it was.
Checked: a thread's switches to and from it alternate. Where they do not, one was not reported and not found
by other means, and the trace says that it is lost.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from kdtool.collect.base import Problem, Progress, Scope
from kdtool.collect.following import Follower
from kdtool.collect.schedrows import ROW, SchedRows
from kdtool.collect.seenswitches import SeenSwitches, unreported_cpus
from kdtool.collect.threadrows import THREAD_EVENTS
from kdtool.collect.threads import check_pid_namespace
from kdtool.collect.tracestream import TraceStream, probe_events
from kdtool.errors import CapabilityError
from kdtool.kernel.tracefs import Instance, find_tracefs, reap_stale
from kdtool.traces import TraceWriter

__all__ = ["Sched", "SchedSource", "probe_tracefs"]

OUR_EVENTS = (
    "sched:sched_switch",
    "sched:sched_waking",
    "sched:sched_wakeup",
    "sched:sched_wakeup_new",
)
ALL_EVENTS = (
    "sched:sched_migrate_task",
    "sched:sched_process_fork",
    "sched:sched_process_exit",
    *THREAD_EVENTS,
)
ALL_SHARE = 4
"""Migrations are at most a fifth of all events (measured on a pipe ring): a quarter of the room will do."""


class Sched:
    """The collector `sched`: tables `sched` and `tasks`, clock `monotonic`."""

    name = "sched"
    tables = ("sched", "tasks")
    clock = "monotonic"
    load = "switch"

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here: tracefs, a tracepoint, a right."""
        try:
            probe_tracefs()
        except CapabilityError as error:
            return Problem.of(error)
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "SchedSource":
        """Make the instances; CapabilityError when something is missing or refused."""
        return SchedSource(scope, writer)


class SchedSource:
    """Records the scheduling of the scope's threads into `writer`."""

    def __init__(self, scope: Scope, writer: TraceWriter) -> None:
        check_pid_namespace()
        self.environment: dict[str, str] = {}
        reap_stale(find_tracefs())
        asked = scope.request.buffer_bytes
        with ExitStack() as stack:
            ours = stack.enter_context(Instance(buffer_bytes=asked, options={"event-fork": True}))
            everyones = stack.enter_context(Instance(buffer_bytes=ours.buffer_bytes // ALL_SHARE))
            formats = [ours.enable(event) for event in OUR_EVENTS]
            formats += [everyones.enable(event) for event in ALL_EVENTS]
            self._rows = SchedRows(formats, writer)
            self._follower = Follower(ours, scope, self._rows.threads.join)
            self._unreported = unreported_cpus()
            self._seen = SeenSwitches(ours.cpus if self._unreported else [], ROW)
            stack.callback(self._seen.close)
            work = self._rows.decode, self._rows.write
            self._stream = TraceStream([ours, everyones], *work, beside=[self._seen])
            stack.pop_all()
        self._writer = writer

    def start(self, pids: Sequence[int]) -> None:
        """Begin to record the threads of `pids`, or of the cgroup, and what they start."""
        self._follower.begin(pids)
        self._stream.start()
        self._follower.settle()

    def check(self) -> None:
        """Raise what the thread failed with; look for threads that came in otherwise than by a fork."""
        self._stream.check()
        self._follower.look()

    def progress(self) -> Progress:
        """Return rows and losses so far."""
        return Progress(self._rows.rows, self._lost)

    def finish(self) -> None:
        """Stop recording, write all rows that are left and the losses.

        Raises TraceError when rows, losses and what was not ours are not what the kernel counted.
        """
        self._stream.finish()
        self._rows.balance(sum(self._stream.decoded) + self._stream.told_beside - self._stream.late)
        self._writer.lose("sched", self._lost)
        self._writer.lose("tasks", 0)

    def facts(self) -> dict[str, Any]:
        """Return the events, buffers and losses, and how many records were not the scope's."""
        found = {"joined_later": self._follower.joined_later, "unreported_idle_cpus": self._unreported}
        return {**self._stream.facts(), **self._rows.facts(), **found, "seen_lost": self._seen.lost}

    def close(self) -> None:
        """Take the instances down."""
        self._stream.close()

    @property
    def _lost(self) -> int:
        """Return what buffers could not keep, or what is missing between the rows, which may be the same."""
        return max(self._stream.lost + self._stream.late, self._rows.pairs.unpaired)


def probe_tracefs() -> str:
    """Make an instance with all events and remove it; return where. CapabilityError where refused."""
    return probe_events((*OUR_EVENTS, *ALL_EVENTS))
