"""Whose page a page is after fork() and mremap(): a child shares its parent's, until one of them writes.

    fork      each anonymous page of the parent, in memory or swapped, is the child's as well
    a store   by one of several: it gets a page of its own, the others keep the old one; the last one left
              writes in place; what was mapped MAP_SHARED stays shared
    mremap    moves pages, in memory or swapped, to other addresses: they stay what they are
    unmapped  by one, by exec and exit too, a page is forgotten when nobody is left who has it

Follows copy_page_range(), do_wp_page(), wp_can_reuse_anon_folio() and do_swap_page() of mm/memory.c, and
move_page_tables() of mm/mremap.c, v6.18.

A process's page (its key) and the page of memory that it is (Workload.page) are then two things:

    ids [0, n_keys)            the page that began as this process's own, and is it again when it can be
    ids [n_keys, + n_copies)   copies made while others had that one
    current[key] --> id        as the walk over the references has it; what it was at each row is noted

What a process has by a fork or a move and never touches there, it holds: that is no key, but nobody may write
there in place. Differs from the kernel: a copy is told as a read of the old page and the first touch of the
new one; page tables are not charged; what only a child moves of a shared mapping is its own where it is new.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.replay.filemaps import NOT_MAPPED
from kdtool.replay.forks import Forks
from kdtool.replay.keys import VPN_BITS, VPN_MASK
from kdtool.replay.longarrays import new_array
from kdtool.replay.owners import (
    CHANGE,
    N_COPIES,
    N_COUNTS,
    N_FREED,
    N_IDS,
    N_KEPT,
    N_NOTES,
    N_SPARE,
    ROW,
    begin_shared,
    inherit,
    leave_keys,
)
from kdtool.traces import VmaFlag

__all__ = ["SharedPages", "Sharing", "no_sharing"]

Numbers = npt.NDArray[np.int64]
UNMAPPING, END, MOVE = -1, -2, -3
KeyState = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Numbers]
"""Kind, liveness and mapping of each key."""


@dataclass(frozen=True)
class SharedPages:
    """Which pages of memory the processes' pages are, where that differs; all empty without forks and moves.

    n_copies : ids beyond the keys
    key_of_row : int32 of shape (n_refs,), the index in `keys` of each reference
    note_of_key : int64 of shape (n_keys + 1,); the notes of key k are those from note_of_key[k] on
    note_row, note_page : int64 and int32; from this row on the key is this page, -1 for none. Before its
        first note it is the page of its own number
    copying_row : int64, rows that read a page to copy it, each of whose next row stores to the copy
    """

    n_copies: int
    key_of_row: npt.NDArray[np.int32]
    note_of_key: Numbers
    note_row: Numbers
    note_page: npt.NDArray[np.int32]
    copying_row: Numbers

    def until(self, n_refs: int) -> "SharedPages":
        """Return what is to be known of the first `n_refs` rows."""
        copying = self.copying_row[self.copying_row < n_refs]
        return replace(self, key_of_row=self.key_of_row[:n_refs], copying_row=copying)

    def copies(self, n_keys: int) -> tuple[npt.NDArray[np.int32], Numbers]:
        """Return the pages that are copies, and the key of which each is one."""
        made = self.note_page >= n_keys
        key = np.repeat(np.arange(len(self.note_of_key[1:])), np.diff(self.note_of_key))
        return self.note_page[made], key[made]


def no_sharing() -> SharedPages:
    """Return what a trace has in which nobody forks and nothing is moved."""
    rows, pages = np.empty(0, np.int64), np.empty(0, np.int32)
    return SharedPages(0, pages, rows, rows, pages, rows)


class _Pages(NamedTuple):
    """Pages of one process, by rising vpn."""

    vpn: Numbers
    page: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]

    def part(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "_Pages":
        return _Pages(self.vpn[which], self.page[which], self.kind[which])

    def beside(self, vpn: Numbers, page: npt.NDArray[np.int32], kind: npt.NDArray[np.uint8]) -> "_Pages":
        vpn, page, kind = np.append(self.vpn, vpn), np.append(self.page, page), np.append(self.kind, kind)
        return _Pages(vpn, page, kind).part(np.argsort(vpn))


_NOTHING = _Pages(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint8))


class Sharing:
    """Who has which page while follow_mappings() walks over the references; no room without forks and moves.

    changes : of mapping changes row, process, first vpn, vpn after the last, flags, and where it was moved to
    """

    def __init__(
        self, forks: Forks, keys: Numbers, store: npt.NDArray[np.uint8], changes: tuple[Numbers, ...]
    ) -> None:
        self._forks, self._keys, self._changes, self._n_rows = forks, keys, changes, len(store)
        self._held: dict[int, _Pages] = {}
        self._due: list[tuple[int, int]] = []  # where each process that holds pages unmaps next
        self._awaited: set[int] = set()  # the processes in it
        _, process, _, _, flags, moved_to = changes
        unmaps, self._moves = flags & VmaFlag.UNMAPPED > 0, np.flatnonzero(moved_to)
        self._n_moved = 0
        holders = np.union1d(forks.child, process[self._moves])
        self._unmaps = {int(p): np.flatnonzero(unmaps & (process == p)) for p in holders}
        n_forks = len(forks.row)
        self._follows = n_forks > 0 or len(self._moves) > 0
        n_keys, n_rows = (len(keys), len(store)) if self._follows else (0, 0)
        process_of = keys[:n_keys] >> VPN_BITS
        self._begin = np.searchsorted(process_of, np.arange(process_of[-1] + 2 if self._follows else 0))
        # As many as there may be: of what does not come, memory is never touched.
        ranges = [self._ids(each) for each in (*forks.parent, *forks.child)]
        moved = [self._move_of(int(change)) for change in self._moves]
        n_left, n_taken = (
            sum(last - first for first, last in (self._between(who, at, at + n) for who, at, n in each))
            for each in (
                [(who, start, end - start) for who, start, end, _ in moved],
                [(who, to, end - start) for who, start, end, to in moved],
            )
        )
        self.most_pages = n_rows + sum(last - first for first, last in ranges) + n_left + n_taken
        self.most_ids = min(self.most_pages, n_keys * (1 + n_forks) + n_left)
        n_copies, n_notes = int(np.count_nonzero(store[:n_rows])), 2 * self.most_pages
        self.counts = np.zeros(N_COUNTS, np.int64)
        self.counts[N_IDS] = len(keys)
        self.key_of_row = new_array(n_rows, np.int32)
        self._current = np.arange(n_keys, dtype=np.int32)
        self._users = np.zeros(n_keys + self.most_ids, np.int32)
        self._spare = np.empty(self.most_ids, np.int32)
        self._copies = np.empty(n_copies, np.int64), np.empty(n_copies, np.int32)
        self._notes = np.empty(n_notes, np.int32), np.empty(n_notes, np.int64), np.empty(n_notes, np.int32)

    def arrays(self) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.int32], ...]:
        """Return what compiled code takes, as owners.py has it."""
        return self._current, self._users, self._spare, *self._copies, *self._notes, self.counts

    def stops(self) -> Iterator[tuple[int, int, int]]:
        """Yield (row, change, fork) where the walk stops, at last its end; do() belongs between two.

        fork : which one it is, UNMAPPING for what a process that holds pages unmaps, MOVE, or END
        """
        forks, fork, n_changes = self._forks, 0, len(self._changes[0])
        while fork < len(forks.row) or self._due or self._n_moved < len(self._moves):
            due = self._due[0][0] if self._due else n_changes
            move = int(self._moves[self._n_moved]) if self._n_moved < len(self._moves) else n_changes
            if fork < len(forks.row) and forks.change[fork] <= min(due, move):
                yield self._within(forks.row[fork]), int(forks.change[fork]), fork
                fork += 1
            elif move <= due:
                yield self._within(self._changes[0][move]), move, MOVE
            else:
                yield self._within(self._changes[0][due]), due, UNMAPPING
        yield self._n_rows, n_changes, END

    def _within(self, row: np.int64) -> int:
        return int(min(max(row, self.counts[ROW]), self._n_rows))

    def do(self, fork: int, state: KeyState, freed: tuple[Numbers, Numbers]) -> None:
        """Do what the walk has stopped for, see follow_mappings()."""
        if fork >= 0:
            self._fork(fork, state, freed)
        elif fork == UNMAPPING:
            change, process = heapq.heappop(self._due)
            self._awaited.remove(process)
            start, end = (int(column[change]) for column in self._changes[2:4])
            self._give_back(process, start, end, freed)
            self._await_unmap(process, change + 1)
        elif fork == MOVE:
            self._move(int(self._moves[self._n_moved]), state)
            self._n_moved += 1

    def _move_of(self, change: int) -> tuple[int, int, int, int]:
        """Return whose pages a change moves, from where, up to where, and to where."""
        _, process, start, end, _, moved_to = (int(column[change]) for column in self._changes)
        return process, start, end, moved_to

    def _move(self, change: int, state: KeyState) -> None:
        """Have what a process has at some addresses, touched there or not, at others: move_page_tables()."""
        kind, live, mapping = state
        process, start, end, to = self._move_of(change)
        first, last = self._between(process, start, end)
        own = first + np.flatnonzero((live[first:last] > 0) & (mapping[first:last] == NOT_MAPPED))
        held = self._held.get(process, _NOTHING)
        inside = (held.vpn >= start) & (held.vpn < end)
        pages = held.part(inside).beside(self._keys[own] & VPN_MASK, self._current[own], kind[own])
        self._users[held.page[inside]] -= 1
        leave_keys(own, live, self.arrays())
        pages = pages._replace(vpn=pages.vpn - start + to)
        has_key = np.zeros(len(pages.vpn), np.bool_)
        first, last = self._between(process, to, to + end - start)
        inherit(*pages, first, last, self._keys, kind, live, mapping, has_key, self.arrays())
        self._held[process] = held.part(~inside).beside(*pages.part(~has_key))
        self._await_unmap(process, change + 1)

    def _fork(self, fork: int, state: KeyState, freed: tuple[Numbers, Numbers]) -> None:
        """Have the child share all anonymous pages of its parent: copy_page_range()."""
        kind, live, mapping = state
        parent, child = int(self._forks.parent[fork]), int(self._forks.child[fork])
        self._give_back(child, 0, 1 << VPN_BITS, freed)  # of a process of this pid that nobody saw end
        first, last = self._ids(parent)
        begin_shared(first, last, kind, live, mapping, self.arrays())
        own = first + np.flatnonzero((live[first:last] > 0) & (mapping[first:last] == NOT_MAPPED))
        held = self._held.get(parent, _NOTHING)
        pages = held.beside(self._keys[own] & VPN_MASK, self._current[own], kind[own])
        first, last = self._ids(child)
        has_key = np.zeros(len(pages.vpn), np.bool_)
        inherit(*pages, first, last, self._keys, kind, live, mapping, has_key, self.arrays())
        self._held[child] = pages.part(~has_key)
        self._await_unmap(child, int(self.counts[CHANGE]))

    def _ids(self, process: int) -> tuple[int, int]:
        """Return the process's first key and the one after its last."""
        return int(self._begin[process]), int(self._begin[process + 1])

    def _between(self, process: int, start: int, end: int) -> tuple[int, int]:
        """Return the process's first key in [start, end) and the one after its last there."""
        first, last = np.searchsorted(self._keys, (process << VPN_BITS | start, process << VPN_BITS | end))
        return int(first), int(last)

    def _await_unmap(self, process: int, change: int) -> None:
        """Have the walk stop where a process that holds pages next unmaps any, as before each new mapping."""
        coming = self._unmaps[process]
        at = int(np.searchsorted(coming, change))
        if at < len(coming) and len(self._held[process].vpn) and process not in self._awaited:
            heapq.heappush(self._due, (int(coming[at]), process))
            self._awaited.add(process)

    def _give_back(self, process: int, start: int, end: int, freed: tuple[Numbers, Numbers]) -> None:
        """Take from a process what it holds of pages [start, end); what nobody has any more is freed."""
        held = self._held.get(process, _NOTHING)
        inside = (held.vpn >= start) & (held.vpn < end)
        if not inside.any():
            return
        self._held[process] = held.part(~inside)
        pages, counts = held.page[inside], self.counts
        self._users[pages] -= 1
        gone = pages[self._users[pages] == 0]
        at, spare = int(counts[N_FREED]), gone[gone >= len(self._keys)]
        freed[0][at : at + len(gone)] = counts[N_KEPT] + counts[N_COPIES]
        freed[1][at : at + len(gone)] = gone
        self._spare[counts[N_SPARE] : counts[N_SPARE] + len(spare)] = spare
        counts[N_FREED] += len(gone)
        counts[N_SPARE] += len(spare)

    def copies(self) -> tuple[Numbers, npt.NDArray[np.int32]]:
        """Return the rows, of those kept, whose store copies a page, rising, and the pages that they copy."""
        rows, pages = self._copies
        return rows[: self.counts[N_COPIES]], pages[: self.counts[N_COPIES]]

    def told(self, replayed: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> SharedPages:
        """Return what a replay is to know, whose rows of a column `replayed` gives."""
        if not self._follows:
            return no_sharing()
        key, row, page = self._notes
        order = np.argsort(key[: self.counts[N_NOTES]], kind="stable")
        of_key = np.searchsorted(key[order], np.arange(len(self._keys) + 1)).astype(np.int64)
        n_copies, copied = int(self.counts[N_IDS]) - len(self._keys), self.copies()[0]
        copying = copied + np.arange(len(copied))
        return SharedPages(n_copies, replayed(self.key_of_row), of_key, row[order], page[order], copying)
