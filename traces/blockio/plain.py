"""The requests of which a block of events tells all and nothing else, found at once, with no loop over them.

    one sector     QUEUE GETRQ ISSUE COMPLETE, of one size                       a plain request
    the next ones  QUEUE BACKMERGE, QUEUE BACKMERGE ... as many as it grew by    what was merged into it
    one sector     QUEUE COMPLETE, of a device without requests                  a bio

It finds what `matcher.py` would make of the same events one by one (a property test): most requests, at a
small part of the cost. Unit of work: events sorted by device, operation, sector and time; those of one sector
are a group. Not here: flushes, splits, requeues, parts, and what is open already.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.traces.blockio.events import DEVICE_FLUSH, OPERATION, PREFLUSH, ROW_OP, BlockEvent, Events
from kdtool.traces.blockio.waiting import Key
from kdtool.traces.schema import NO_TIME, BlockOp, schema_of

__all__ = ["BlockColumns", "Plain", "blockio_columns", "find_plain"]

QUAD = np.array([BlockEvent.QUEUE, BlockEvent.GETRQ, BlockEvent.ISSUE, BlockEvent.COMPLETE], np.uint8)
BIO = np.array([BlockEvent.QUEUE, BlockEvent.COMPLETE], np.uint8)
PAIR = np.array([BlockEvent.QUEUE, BlockEvent.BACKMERGE], np.uint8)
OPEN = np.uint8(255)
"""Of what is not looked at here, and of what is open already: a group with it is not plain."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
BlockColumns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Plain:
    """What was found. `used`: which events it took; `columns`: rows; `adopted`: bios of another task."""

    used: Bools
    columns: BlockColumns
    adopted: int


def blockio_columns(columns: Iterable[npt.ArrayLike]) -> BlockColumns:
    """Return columns of `blockio`, given in its order, in its dtypes."""
    given = zip(schema_of("blockio"), columns, strict=True)
    return {field.name: np.asarray(column, field.type.to_pandas_dtype()) for field, column in given}


def find_plain(events: Events, taken: Iterable[Key], with_requests: Iterable[int]) -> Plain:
    """Return the plain requests among `events`, which are in order of time, but none at a key in `taken`.

    with_requests : the devices that were seen to have requests
    """
    groups = _Groups(events, taken, with_requests)
    chained, adopted = groups.chains()
    whole = (groups.simple | groups.bio | chained)[groups.group]
    used = np.zeros(len(groups.order), bool)
    used[groups.order[whole]] = True
    # A PAIR is part of the request before it.
    first = np.flatnonzero(
        whole & (groups.quad | groups.bio)[groups.group] & (groups.kind == BlockEvent.QUEUE)
    )
    is_bio = groups.bio[groups.group[first]]
    q, d, c = (events[groups.order[first + np.where(is_bio, place // 2, place)]] for place in (0, 2, 3))
    times = (q["ts_ns"], np.where(is_bio, NO_TIME, d["ts_ns"]), c["ts_ns"])
    rows = (q["dev"], q["sector"], c["nr_sectors"], q["op"] & ROW_OP, q["tid"], *times, c["other"])
    return Plain(used[: len(events)], blockio_columns(rows), adopted)


class _Groups:
    """Events in groups. Arrays over the events as they are sorted, and over the groups in that order.

    order, kind, group : of each event: its place in the block, what it is, its group
    quad, simple : of each group: whether it is QUADs all through, and whether those are plain requests
    bio : of each group: whether it is BIOs all through
    """

    def __init__(self, events: Events, taken: Iterable[Key], with_requests: Iterable[int]) -> None:
        marks = np.array(list(taken), np.uint64).reshape(-1, 3)
        operation = events["op"] & OPERATION
        special = (operation == BlockOp.FLUSH) | (operation == DEVICE_FLUSH)
        special |= events["op"] & (PREFLUSH | BlockOp.FUA) != 0
        # Of a bio that waits, which a PAIR has, any merge is a back merge.
        kind = np.where(events["event"] == BlockEvent.ANY_MERGE, BlockEvent.BACKMERGE, events["event"])
        kind = np.append(np.where(special, OPEN, kind).astype(np.uint8), np.full(len(marks), OPEN))
        place = events["dev"].astype(np.int64) << 4 | operation
        place = np.append(place, (marks[:, 0] << 4 | marks[:, 2]).astype(np.int64))
        sector = np.append(events["sector"], marks[:, 1])
        self._events, self.order = events, np.lexsort((sector, place))
        self.kind, place, sector = kind[self.order], place[self.order], sector[self.order]
        new = np.ones(len(place), bool)
        new[1:] = (place[1:] != place[:-1]) | (sector[1:] != sector[:-1])
        self.group = np.cumsum(new) - 1
        self._starts = np.flatnonzero(new)
        self._sizes = np.diff(self._starts, append=len(new))
        self._place, self._sector = place[self._starts], sector[self._starts]
        self._nr = np.append(events["nr_sectors"], np.zeros(len(marks), np.uint32))[self.order]
        self._classify()
        self.bio &= ~np.isin(self._place >> 4, np.array(sorted(with_requests), np.int64))

    def chains(self) -> tuple[Bools, int]:
        """Return which groups are a request and what it grew by, and how many bios were of other tasks."""
        nr = self._nr[self._later(1)].astype(np.uint64)
        linked = np.zeros(len(self._starts), bool)
        linked[1:] = self._pair[1:] & (self._pair | self._head)[:-1] & (self._place[1:] == self._place[:-1])
        linked[1:] &= self._sector[1:] == self._sector[:-1] + nr[:-1]
        first = np.flatnonzero(~linked)
        chain = np.cumsum(~linked) - 1
        head = first[chain]
        # The order of a chain: its own bio arrives, the others do, each of them is merged, it is issued.
        came, made, issued = (self.order[self._later(place)] for place in (0, 1, 2))
        fits = ~linked | (came > came[head]) & (made > made[head]) & (made < issued[head])
        whole = self._head[first] & np.logical_and.reduceat(fits, first)
        whole &= np.add.reduceat(nr, first) == self._nr[self._later(2)][first]
        chained = whole[chain]
        others = chained & linked
        tid = self._events["tid"]
        return chained, int((tid[came[others]] != tid[came[head[others]]]).sum())

    def _classify(self) -> None:
        """Find the groups that are QUADs, and those of one size; one QUAD that grew; one PAIR; BIOs."""
        within = np.arange(len(self.kind)) - self._starts[self.group]
        self.quad = self._all(self.kind == QUAD[within % 4]) & (self._sizes % 4 == 0)
        self._pair = self._all(self.kind == PAIR[within % 2]) & (self._sizes == 2)
        self.bio = self._all(self.kind == BIO[within % 2]) & (self._sizes % 2 == 0)
        same = np.ones(len(within), bool)
        same[1:] = (self._nr[1:] == self._nr[:-1]) | (within[1:] % 4 < 2)
        self.simple = self.quad & self._all(same)
        made, issued, done = (self._nr[self._later(place)] for place in (1, 2, 3))
        self._head = self.quad & (self._sizes == 4) & (made < issued) & (issued == done)

    def _all(self, events: Bools) -> Bools:
        """Return for which groups something holds of all their events."""
        return np.logical_and.reduceat(events, self._starts)

    def _later(self, place: int) -> Ints:
        """Return where the event number `place` of each group is, as far as it has so many."""
        return np.minimum(self._starts + place, len(self.kind) - 1)
