"""Scheduling: every switch, wakeup, migration, fork and exit of a scope's threads, by tracefs.

Idea: two instances of our own. One has `set_event_pid` with the scope's threads and follows forks: there the
kernel records switches and wakings that such a thread makes or that are made of it. The other records all
migrations, since those have no such rule (the thread that moves is seldom the one that moves it); what is not
ours is dropped when it is read.
State: two buffers a CPU, 56 bytes a switch.
Kernel counterpart: include/trace/events/sched.h; event_filter_pid_sched_*() in kernel/trace/trace_events.c.
Not used: perf sampling, which drops wakings from interrupts in silence. Not seen: threads that come in other
ways than by a fork (moved into the cgroup, io_uring's workers), until they are found, every 0.25 s; renames
by another process. Migrations that found no room are counted as lost, whosever they were.
Incomplete where the kernel's own tracing is: a 6.18 guest was seen to drop, in no count of its own, at times
all events of one CPU's idle task, and so switches from it to a thread of ours. Then that thread's switches in
and out do not alternate; `unpaired` in the facts counts how often.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from kdtool.collect.base import Problem, Progress, Scope
from kdtool.collect.schedrows import SchedRows
from kdtool.collect.threads import check_pid_namespace, identify, living_threads
from kdtool.collect.tracestream import TraceStream
from kdtool.errors import CapabilityError
from kdtool.kernel.tracefs import Instance, find_tracefs, reap_stale
from kdtool.traces import TraceWriter

__all__ = ["Sched", "SchedSource", "probe_tracefs"]

THREAD_EVENTS = (
    "sched:sched_switch",
    "sched:sched_waking",
    "sched:sched_wakeup",
    "sched:sched_wakeup_new",
    "sched:sched_process_fork",
    "sched:sched_process_exit",
    "task:task_newtask",
    "task:task_rename",
)
MIGRATE_EVENT = "sched:sched_migrate_task"
MIGRATE_SHARE = 4
"""Migrations are at most a fifth of all events (measured on a pipe ring): a quarter of the room will do."""
LOOK_S = 0.25


class Sched:
    """The collector `sched`: tables `sched` and `tasks`, clock `monotonic`."""

    name = "sched"
    tables = ("sched", "tasks")
    clock = "monotonic"

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here: tracefs, a tracepoint, a right."""
        try:
            probe_tracefs()
        except CapabilityError as error:
            reason, _, fix = str(error).rpartition(": ")
            return Problem(reason, fix)
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "SchedSource":
        """Make the instances; CapabilityError when something is missing or refused."""
        return SchedSource(scope, writer)


class SchedSource:
    """Records the scheduling of the scope's threads into `writer`."""

    def __init__(self, scope: Scope, writer: TraceWriter) -> None:
        check_pid_namespace()
        self._scope, self._pids = scope, list[int]()
        self.environment: dict[str, str] = {}
        self._known: set[int] = set()
        self._looked_s = 0.0
        self.joined = 0
        reap_stale(find_tracefs())
        asked = scope.request.buffer_bytes
        with ExitStack() as stack:
            self._ours = stack.enter_context(Instance(buffer_bytes=asked, options={"event-fork": True}))
            room = self._ours.buffer_bytes // MIGRATE_SHARE
            moves = stack.enter_context(Instance(buffer_bytes=room))
            self._ours.follow(set())  # nobody yet, and never everybody
            formats = [self._ours.enable(event) for event in THREAD_EVENTS]
            formats.append(moves.enable(MIGRATE_EVENT))
            self._rows = SchedRows(formats, writer)
            self._stream = TraceStream([self._ours, moves], self._rows.decode, self._rows.write)
            stack.pop_all()
        self._writer = writer

    def start(self, pids: Sequence[int]) -> None:
        """Begin to record the threads of `pids`, or of the cgroup, and what they start."""
        self._pids = list(pids)
        self._follow_new()
        self._stream.start()
        # What was started while we looked is found now: from the first look on, forks are followed.
        while self._follow_new():
            continue

    def check(self) -> None:
        """Raise what the thread failed with; look for threads that came in otherwise than by a fork."""
        self._stream.check()
        if time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self.joined += self._follow_new()

    def progress(self) -> Progress:
        """Return rows and losses so far."""
        return Progress(self._rows.rows, self._stream.lost + self._stream.late)

    def finish(self) -> None:
        """Stop recording, write all rows that are left and the losses.

        Raises TraceError when rows, losses and what was not ours are not what the kernel counted.
        """
        self._stream.finish()
        self._rows.balance(sum(self._stream.decoded) - self._stream.late)
        self._writer.lose("sched", self._stream.lost + self._stream.late)
        self._writer.lose("tasks", 0)

    def facts(self) -> dict[str, Any]:
        """Return the events, buffers and losses, and how many records were not the scope's."""
        return {**self._stream.facts(), **self._rows.facts(), "joined_later": self.joined}

    def close(self) -> None:
        """Take the instances down."""
        self._stream.close()

    def _follow_new(self) -> int:
        """Follow threads of the scope that are not followed yet; return how many there were."""
        living = living_threads(self._scope, self._pids)
        unknown = living - self._known
        self._known = living
        if not unknown:
            return 0
        new = unknown - self._ours.followed()
        if not new:
            return 0
        t_ns = time.monotonic_ns()
        self._ours.follow(new)
        for tid in sorted(new):
            said = identify(tid)
            if said is not None:
                self._rows.join(t_ns, tid, *said)
        return len(new)


def probe_tracefs() -> str:
    """Make an instance with all events and remove it; return where. CapabilityError where refused."""
    check_pid_namespace()
    with Instance(buffer_bytes=4096, options={"event-fork": True}) as instance:
        for event in (*THREAD_EVENTS, MIGRATE_EVENT):
            instance.enable(event)
        return str(instance.root)
