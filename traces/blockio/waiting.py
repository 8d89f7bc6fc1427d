"""Bios that wait for a request, and requests that are open: found by device, sector and operation.

A bio that goes on to another device without being queued there anew (md, old kernels) keeps the time at which
it arrived at the first one. Unit of work: an event. Kernel counterpart: struct bio and struct request.
"""

from dataclasses import dataclass

from kdtool.traces.blockio.events import OPERATION
from kdtool.traces.schema import NO_TIME

__all__ = ["MAX_ALIKE", "Bio", "Bios", "Key", "Request", "Requests"]

MAX_ALIKE = 256
"""Bios, and requests, of one key that are open at once: as many tasks may wait for a flush."""

Key = tuple[int, int, int]
"""Device, sector, operation."""
Bio = tuple[int, int, int, int]
"""When it arrived, whose it is, its `op`, and how many events were seen of it."""


class Bios:
    """The bios that wait. `stray`: events of those of which nothing more was seen."""

    def __init__(self) -> None:
        self._waiting: dict[Key, list[Bio]] = {}
        self._remapped: dict[Key, Bio] = {}
        self.stray = 0

    def keys(self) -> set[Key]:
        """Return where bios wait."""
        return self._waiting.keys() | self._remapped.keys()

    def waits(self, key: Key) -> bool:
        """Return whether a bio waits at `key`."""
        return key in self._waiting

    def queue(self, key: Key, t_ns: int, _nr: int, op: int, tid: int, *_: int) -> None:
        """Take in a bio that arrives."""
        if self._remapped and key in self._remapped:
            self.stray += self._remapped.pop(key)[-1]  # a clone, which arrives here in its own right
        bios = self._waiting.get(key)
        if bios is None:
            self._waiting[key] = [(t_ns, tid, op, 1)]
            return
        bios.append((t_ns, tid, op, 1))
        if len(bios) > MAX_ALIKE:
            self.stray += bios.pop(0)[-1]

    def remap(self, key: Key, _t: int, _nr: int, _op: int, tid: int, old_sector: int, old_dev: int) -> None:
        """Know the bio of `old_dev` by its new place too."""
        bio = self._find((old_dev, old_sector, key[2]), tid)
        if bio is None:
            self.stray += 1
            return
        if key in self._remapped:
            self.stray += self._remapped[key][-1]
        self._remapped[key] = (*bio[:3], 1)

    def split(self, key: Key, _t: int, _nr: int, _op: int, tid: int, rest: int, _old_dev: int) -> None:
        """Cut the bio at `key` in two; the later part begins at the sector `rest`."""
        bio = self._find(key, tid)
        if bio is None:
            self.stray += 1
            return
        self._waiting.setdefault((key[0], rest, key[2]), []).append((*bio[:3], 1))

    def take(self, key: Key, tid: int) -> Bio | None:
        """Return the bio that waits at `key`, and have it wait no more; of several one of task `tid`."""
        bios = self._waiting.pop(key, None)
        if bios is None:
            return self._remapped.pop(key, None)
        if len(bios) == 1:
            return bios[0]
        bio = _of_task(bios, tid)
        bios.remove(bio)
        self._waiting[key] = bios
        return bio

    def bound(self, limit: int) -> None:
        """Let the oldest go until there are no more than `limit`."""
        while len(self._waiting) > limit:
            self.stray += sum(bio[-1] for bio in self._waiting.pop(next(iter(self._waiting))))
        while len(self._remapped) > limit:
            self.stray += self._remapped.pop(next(iter(self._remapped)))[-1]

    def _find(self, key: Key, tid: int) -> Bio | None:
        bios = self._waiting.get(key)
        return self._remapped.get(key) if bios is None else _of_task(bios, tid)


def _of_task(bios: list[Bio], tid: int) -> Bio:
    """Return the first bio of a task, or, if there is none, the first."""
    return next((bio for bio in bios if bio[1] == tid), bios[0])


@dataclass(slots=True, eq=False)
class Request:
    """A request that is open.

    left : sectors not done yet
    grows_at : where a bio would begin that goes on behind it, while it is found by that
    flushed : the end of a flush is its end
    next : the one that came to be open at the same key after it
    """

    dev: int
    sector: int
    nr_sectors: int
    left: int
    queue_ns: int
    tid: int
    op: int
    events: int
    issue_ns: int = NO_TIME
    complete_ns: int = NO_TIME
    error: int = 0
    issued: bool = False
    flushed: bool = False
    grows_at: Key | None = None
    next: "Request | None" = None

    def take_in(self, nr_sectors: int, bio: Bio) -> None:
        """Grow by what a bio or another request brings with it; the event that says so is one more."""
        self.nr_sectors += nr_sectors
        self.left += nr_sectors
        self.events += bio[-1] + 1
        if bio[0] < self.queue_ns:
            self.queue_ns, self.tid, self.op, _ = bio


class Requests:
    """The requests that are open, by where what is left of them begins; those that wait also by their end."""

    def __init__(self) -> None:
        self._open: dict[Key, Request] = {}
        self._ends: dict[Key, Request] = {}

    def __len__(self) -> int:
        return len(self._open)

    def keys(self) -> set[Key]:
        """Return where requests are open."""
        return set(self._open)

    def oldest(self) -> Key:
        """Return the key that has been open the longest."""
        return next(iter(self._open))

    def first(self, key: Key) -> Request | None:
        """Return the request at `key` that came there first."""
        return self._open.get(key)

    def waiting(self, key: Key) -> Request | None:
        """Return the first request at `key` that is not at the device."""
        request = self._open.get(key)
        while request is not None and request.issued:
            request = request.next
        return request

    def at_device(self, key: Key) -> Request | None:
        """Return the first request at `key` that is at the device."""
        request = self._open.get(key)
        while request is not None and not request.issued:
            request = request.next
        return request

    def add(self, key: Key, request: Request) -> int:
        """Have a request open at `key`, behind those that are; return how many they are."""
        last, alike = self._open.setdefault(key, request), 1
        if last is not request:
            alike = 2
            while last.next is not None:
                last, alike = last.next, alike + 1
            last.next = request
        return alike

    def remove(self, key: Key, request: Request) -> None:
        """Have it open there no more."""
        first, after = self._open[key], request.next
        request.next = None
        if first is not request:
            while first.next is not request:
                assert first.next is not None, "open at this key"
                first = first.next
            first.next = after
        elif after is None:
            del self._open[key]
        else:
            self._open[key] = after

    def can_grow(self, request: Request) -> None:
        """Have it found by its end, until `take_end` or `cannot_grow`; without sectors it has none."""
        if request.nr_sectors:
            end = (request.dev, request.sector + request.nr_sectors, request.op & OPERATION)
            request.grows_at = end
            self._ends[end] = request

    def take_end(self, key: Key) -> Request | None:
        """Return the request that ends where `key` begins, which is not found by that any more."""
        request = self._ends.pop(key, None)
        if request is not None:
            request.grows_at = None
        return request

    def cannot_grow(self, request: Request) -> None:
        """Have it not found by its end."""
        end = request.grows_at
        if end is not None:
            request.grows_at = None
            if self._ends.get(end) is request:
                del self._ends[end]
