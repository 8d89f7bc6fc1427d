"""Block I/O: every request that a scope's threads submit, from arrival to completion, by tracefs.

Idea: three instances of our own. One records what happens to all bios and requests of the devices, since
anybody may issue, complete or merge a request; the kernel selects by device at most. One records the births
and names of all threads, which tell who is of the scope, and when. The third has no events, but
`set_event_pid` with the scope's threads: the kernel has it follow forks, so that we find who came otherwise.
Of the requests, those are kept whose first bio a thread of the scope submitted during the recording.
State: two buffers a CPU, 56 to 80 bytes an event, four events a request; what is open.
Kernel counterpart: include/trace/events/block.h; block/blk-core.c, blk-mq.c.
Whose a request is: that of the thread that submitted it. Not the scope's are therefore the pages that it made
dirty and a kworker writes back, or that kswapd swaps out; and what others submit for it: a device's throttle
(io.max), the worker of a loop device to the disk below. Its own is what it writes back or swaps out itself
(fsync, direct reclaim), for whomever. A bio of the scope that is merged into a request of others makes no
row: `adopted_bios` counts merges across tasks.
Lost events are counted, whosever they were: each is at most one lost request, but for the birth of a thread,
which is found within 0.25 s.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from kdtool.collect.base import Problem, Progress, Scope
from kdtool.collect.blockrows import BLOCK_EVENTS, BlockRows
from kdtool.collect.following import Follower
from kdtool.collect.threadrows import THREAD_EVENTS
from kdtool.collect.threads import check_pid_namespace
from kdtool.collect.tracestream import Rows, TraceStream, probe_events
from kdtool.errors import CapabilityError
from kdtool.kernel.blockdev import find_disks
from kdtool.kernel.tracefs import Instance, find_tracefs, reap_stale
from kdtool.traces import TraceWriter

__all__ = ["BlockIO", "BlockSource"]

THREADS_SHARE = 4
"""Threads come and go more seldom than requests: a quarter of the room will do."""


class BlockIO:
    """The collector `blockio`: tables `blockio` and `tasks`, clock `monotonic`."""

    name = "blockio"
    tables = ("blockio", "tasks")
    clock = "monotonic"

    def unavailable(self) -> Problem | None:
        """Return what keeps it from working here: tracefs, a tracepoint, a right."""
        try:
            probe_events((*THREAD_EVENTS, *BLOCK_EVENTS))
        except CapabilityError as error:
            return Problem.of(error)
        return None

    def open(self, scope: Scope, writer: TraceWriter) -> "BlockSource":
        """Make the instances; CapabilityError when something is missing, ParameterError for no such disk."""
        return BlockSource(scope, writer)


class BlockSource:
    """Records the block I/O of the scope's threads into `writer`."""

    def __init__(self, scope: Scope, writer: TraceWriter) -> None:
        check_pid_namespace()
        self.environment: dict[str, str] = {}
        self._disks = find_disks(scope.request.devices)
        reap_stale(find_tracefs())
        asked = scope.request.buffer_bytes
        with ExitStack() as stack:
            disks = stack.enter_context(Instance(buffer_bytes=asked))
            room = disks.buffer_bytes // THREADS_SHARE
            threads = stack.enter_context(Instance(buffer_bytes=room))
            followed = stack.enter_context(Instance(buffer_bytes=room, options={"event-fork": True}))
            only = " || ".join(f"dev == {number}" for number in self._disks.values())
            formats = [disks.enable(event, filter_by=only) for event in BLOCK_EVENTS]
            formats += [threads.enable(event) for event in THREAD_EVENTS]
            self._rows = BlockRows(formats, writer)
            self._follower = Follower(followed, scope, self._rows.threads.join)
            self._stream = TraceStream([disks, threads, followed], self._rows.decode, self._write)
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
        """Stop recording, write all requests that are left, and the losses.

        Raises TraceError when what was decoded is not what the kernel counted, or not what was accounted for.
        """
        self._stream.finish()
        self._rows.finish(sum(self._stream.decoded) - self._stream.late)
        self._writer.lose("blockio", self._lost)
        self._writer.lose("tasks", 0)

    def facts(self) -> dict[str, Any]:
        """Return the events, buffers, devices and losses, and what became of the rest."""
        found = {"devices": self._disks, "joined_later": self._follower.joined_later}
        return {**self._stream.facts(), **self._rows.facts(), **found}

    def close(self) -> None:
        """Take the instances down."""
        self._stream.close()

    @property
    def _lost(self) -> int:
        return self._stream.lost + self._stream.late

    def _write(self, rows: Rows) -> None:
        self._rows.matcher.lossy |= self._lost > 0
        self._rows.write(rows)
