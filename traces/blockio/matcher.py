r"""From events of block devices to requests: a row each, with the times at which it came, went and was done.

    QUEUE ---> bio --GETRQ---> request --ISSUE--> at the device --COMPLETE--> row
                 \--BACKMERGE, FRONTMERGE: into a request that waits      REQUEUE: it waits again

What a row says: `sector` and `nr_sectors` are those of the request as it was first issued, after all merges.
`queue_ns`, `tid` and `op` are those of the earliest of its bios: its arrival, and the task that submitted it.
`issue_ns` is when it went to the device; after a requeue the next time, unless a part was done already.
`complete_ns` is when the last part was done, a flush after it included where the device cannot write through
(FUA); `error` the first one told, a negative errno. A time that no event told is NO_TIME, a task NO_TID.
An empty flush is a row at sector 0: the kernel sends one flush for all who wait for one, and its issue is
theirs. A bio on a device without requests (zram, dm, md) is a row without an issue. Of stacked devices each
has a row of its own, of the task that submitted it there.

Requests of one operation at one sector at one time cannot be told apart: first in, first out is assumed.
State: what is open, 1 kB a request, MAX_OPEN at most. Kernel counterpart: block/blk-mq.c, blk-merge.c and
blk-flush.c, v6.18.
"""

from collections.abc import Callable

import numpy as np

from kdtool.errors import TraceError
from kdtool.traces.blockio.events import DEVICE_FLUSH, OPERATION, PREFLUSH, ROW_OP, BlockEvent, Events
from kdtool.traces.blockio.plain import BlockColumns, blockio_columns, find_plain
from kdtool.traces.blockio.waiting import MAX_ALIKE, Bio, Bios, Key, Request, Requests
from kdtool.traces.schema import NO_TID, NO_TIME, BlockOp

__all__ = ["RequestMatcher"]

MAX_OPEN = 1 << 19
"""Requests, and bios, that are open at once: far more than any device takes. The oldest go first."""
MAX_SECTORS = (1 << 32) - 1
"""What `nr_sectors` holds; a kernel's request has less than 2**23."""
FIELDS = ("ts_ns", "nr_sectors", "op", "tid", "other", "old_dev")
FLUSH, FUA = int(BlockOp.FLUSH), int(BlockOp.FUA)


class RequestMatcher:
    """Takes events in order of time, block by block; gives the rows of `blockio` that they end.

    lossy : set it when events are missing: then a request that comes in place of an open one ends that, which
        would otherwise take its completion
    fed : events taken so far
    flushes : events of the kernel's own flushes
    adopted : bios and requests merged into a request of another task
    """

    def __init__(self) -> None:
        self._bios = Bios()
        self._requests = Requests()
        self._flush_ns: dict[int, int] = {}
        self._queued: set[int] = set()
        self._with_requests: set[int] = set()
        self._done: list[tuple[int, ...]] = []
        self._told = self._stray = 0
        self.lossy = False
        self.fed = self.flushes = self.adopted = 0
        self._handlers: tuple[Callable[..., None], ...] = (  # by BlockEvent
            self._bios.queue,
            self._bios.remap,
            self._bios.split,
            self._getrq,
            self._backmerge,
            self._frontmerge,
            self._merge,
            self._issue,
            self._requeue,
            self._complete,
            self._any_merge,
        )

    @property
    def stray(self) -> int:
        """Return the events in no row: of bios without a request, of requests of which no more is known."""
        return self._stray + self._bios.stray

    def match(self, events: Events) -> BlockColumns:
        """Return the requests that these events end, in order of completion."""
        self.fed += len(events)
        events = self._without_partitions(events)
        if not len(events):
            return self._rows()
        requests = np.isin(events["event"], (BlockEvent.GETRQ, BlockEvent.ISSUE))
        self._with_requests.update(np.unique(events["dev"][requests]).tolist())
        plain = find_plain(events, self._requests.keys() | self._bios.keys(), self._with_requests)
        self._told += int(plain.used.sum())
        self.adopted += plain.adopted
        self._match_each(events[~plain.used])
        others = self._rows()
        order = np.argsort(np.append(plain.columns["complete_ns"], others["complete_ns"]), kind="stable")
        return {name: np.append(column, others[name])[order] for name, column in plain.columns.items()}

    def finish(self) -> BlockColumns:
        """Return the requests that are still open; TraceError unless every event is accounted for."""
        while len(self._requests):
            self._give_up(self._requests.oldest())
        self._bios.bound(0)
        if self.fed != self._told + self.stray + self.flushes:
            raise TraceError(
                f"{self.fed} block events, {self._told} told in rows, {self.stray} of no request, "
                f"{self.flushes} of flushes: events vanished: record it again"
            )
        return self._rows()

    def _without_partitions(self, events: Events) -> Events:
        """Drop what tells that a bio goes from a partition to its disk, where it is queued after that."""
        self._queued.update(np.unique(events["dev"][events["event"] == BlockEvent.QUEUE]).tolist())
        moves = events["event"] == BlockEvent.REMAP
        if not moves.any():
            return events
        moves &= ~np.isin(events["old_dev"], np.array(sorted(self._queued), np.uint32))
        self._stray += int(moves.sum())
        kept: Events = events[~moves]
        return kept

    def _match_each(self, events: Events) -> None:
        places = (events["dev"], events["sector"], events["op"] & OPERATION)
        keys = zip(*(column.tolist() for column in places), strict=True)
        fields = zip(keys, *(events[name].tolist() for name in FIELDS), strict=True)
        handlers = self._handlers
        for number, event in zip(events["event"].tolist(), fields, strict=True):
            handlers[number](*event)
        self._bios.bound(MAX_OPEN)
        while len(self._requests) > MAX_OPEN:
            self._give_up(self._requests.oldest())

    # --------------------------------------------------------------------------------- requests that wait

    def _getrq(self, key: Key, t_ns: int, nr: int, op: int, tid: int, *_: int) -> None:
        queue_ns, owner, op, events = self._bios.take(key, tid) or (t_ns, tid, op, 0)
        request = Request(key[0], key[1], nr, nr, queue_ns, owner, op, events + 1)
        self._open(key, request)
        self._requests.can_grow(request)

    def _backmerge(self, key: Key, t_ns: int, nr: int, op: int, tid: int, *_: int) -> None:
        bio = self._bios.take(key, tid) or (t_ns, tid, op, 0)
        request = self._requests.take_end(key)
        if request is None:
            self._stray += bio[-1] + 1
            return
        self._absorb(request, nr, bio)
        self._requests.can_grow(request)

    def _frontmerge(self, key: Key, t_ns: int, nr: int, op: int, tid: int, *_: int) -> None:
        bio = self._bios.take(key, tid) or (t_ns, tid, op, 0)
        before = key[0], key[1] + nr, key[2]
        request = self._requests.waiting(before)
        if request is None:
            self._stray += bio[-1] + 1
            return
        self._requests.remove(before, request)
        request.sector = key[1]
        self._absorb(request, nr, bio)
        self._open(key, request)

    def _merge(self, key: Key, _t: int, nr: int, *_: int) -> None:
        """A request goes into the one that ends where it begins; either may be unknown."""
        stays, gone = self._requests.take_end(key), self._requests.waiting(key)
        if gone is not None:
            self._requests.remove(key, gone)
            self._requests.cannot_grow(gone)
        if stays is None:
            self._stray += 1 + (0 if gone is None else gone.events)
            return
        if gone is None:
            self._absorb(stays, nr, (stays.queue_ns, stays.tid, stays.op, 0))
        else:
            self._absorb(stays, gone.nr_sectors, (gone.queue_ns, gone.tid, gone.op, gone.events))
        self._requests.can_grow(stays)

    def _any_merge(self, key: Key, t_ns: int, nr: int, op: int, tid: int, *_: int) -> None:
        request = None if self._bios.waits(key) else self._requests.waiting(key)
        if request is not None and request.nr_sectors == nr:
            self._merge(key, t_ns, nr)
        else:
            self._backmerge(key, t_ns, nr, op, tid)

    def _absorb(self, request: Request, nr: int, bio: Bio) -> None:
        self.adopted += bio[1] != request.tid
        request.take_in(nr, bio)

    # --------------------------------------------------------------------------------- requests at the device

    def _issue(self, key: Key, t_ns: int, nr: int, op: int, *_: int) -> None:
        if key[2] == DEVICE_FLUSH:
            self._flush_ns[key[0]] = t_ns
            self.flushes += 1
            return
        request = self._requests.waiting(key)
        if request is None:
            request = Request(key[0], key[1], nr, nr, NO_TIME, NO_TID, op, 0)
            self._open(key, request)
        else:
            self._requests.cannot_grow(request)
        request.events += 1
        request.issued = True
        if request.left == request.nr_sectors:
            request.issue_ns = t_ns
            request.nr_sectors = request.left = nr
        if request.op & (PREFLUSH | FUA):
            request.flushed = bool(request.op & PREFLUSH or not op & FUA)

    def _requeue(self, key: Key, *_: int) -> None:
        request = self._requests.at_device(key)
        if request is None:
            self.flushes += key[2] == DEVICE_FLUSH
            self._stray += key[2] != DEVICE_FLUSH
            return
        request.events += 1
        request.issued = False
        if request.left == request.nr_sectors:
            request.issue_ns = NO_TIME
            self._requests.can_grow(request)

    def _complete(self, key: Key, t_ns: int, nr: int, op: int, tid: int, error: int, *_: int) -> None:
        requests = self._requests
        request = requests.first(key) if key[2] == FLUSH else requests.at_device(key) or requests.first(key)
        if request is None:
            self._complete_unknown(key, t_ns, nr, op, tid, error)
            return
        request.events += 1
        request.complete_ns = t_ns
        request.error = request.error or error
        request.left -= nr
        requests.remove(key, request)
        if nr and request.left > 0:
            self._open((key[0], key[1] + nr, key[2]), request)
        elif nr and request.flushed:
            self._open((key[0], request.sector, FLUSH), request)
        else:
            self._end(request)

    def _complete_unknown(self, key: Key, t_ns: int, nr: int, op: int, tid: int, error: int) -> None:
        """Complete a bio that never got a request, a request from before, or a flush."""
        if key[2] == DEVICE_FLUSH:
            self.flushes += 1
            return
        bio = self._bios.take(key, tid)
        if bio is None and not nr:
            self._stray += 1  # the end of a flush of which nothing else was seen
            return
        queue_ns, owner, op, events = bio or (NO_TIME, NO_TID, op, 0)
        request = Request(key[0], key[1], nr, nr, queue_ns, owner, op, events + 1)
        request.complete_ns, request.error = t_ns, error
        self._end(request)

    # --------------------------------------------------------------------------------- ends

    def _open(self, key: Key, request: Request) -> None:
        if self.lossy and key[2] != FLUSH:
            self._give_up(key)
        if self._requests.add(key, request) > MAX_ALIKE:
            oldest = self._requests.first(key)
            assert oldest is not None, "many are open there"
            self._requests.remove(key, oldest)
            self._end(oldest)

    def _give_up(self, key: Key) -> None:
        """End the requests at `key` as they are."""
        while (request := self._requests.first(key)) is not None:
            self._requests.remove(key, request)
            self._end(request)

    def _end(self, request: Request) -> None:
        """Make a row of a request. A flush has the issue of the kernel's own, if there was one meanwhile."""
        r = request
        if not r.issued:
            self._requests.cannot_grow(r)
            flush_ns = self._flush_ns.get(r.dev, NO_TIME)
            if r.op & OPERATION == FLUSH and r.queue_ns <= flush_ns <= r.complete_ns:
                r.issue_ns = flush_ns
        self._told += r.events
        times = (r.queue_ns, r.issue_ns, r.complete_ns)
        nr = min(r.nr_sectors, MAX_SECTORS)
        self._done.append((r.dev, r.sector, nr, r.op & ROW_OP, r.tid, *times, r.error))

    def _rows(self) -> BlockColumns:
        done, self._done = self._done, []
        return blockio_columns(zip(*done, strict=True) if done else [()] * 9)
