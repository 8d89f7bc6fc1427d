"""A trace's references as replay takes them: dense page ids, a virtual clock, and what was unmapped when.

Anonymous pages (heap, stack, private mappings once they are written) are kept apart by process; a page that
is unmapped is forgotten: touched again, it is a new page. Pages of files are told by file and offset, and
stay when they are unmapped (filemaps.py). A trace without `vmas` is taken to be anonymous throughout. What
processes share since a fork is one page for all of them (sharing.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.columns import OneByOne
from kdtool.replay.filemaps import DATA, VPN_SHIFT, FileMaps, file_maps
from kdtool.replay.forks import Forks, changes_of_processes, find_forks, keys_of_parents
from kdtool.replay.keys import VPN_BITS, page_keys
from kdtool.replay.longarrays import kept, new_array, told_twice, writable
from kdtool.replay.mapped import (
    check_kept,
    check_mappings,
    follow_mappings,
    holds_code,
    in_order,
    note_kinds,
    spans,
)
from kdtool.replay.memory import ZeroPages, no_zeros
from kdtool.replay.numbering import add_keys, count_distinct, number_keys, number_own
from kdtool.replay.policies.linux_file import RA_PAGES
from kdtool.replay.sharing import SharedPages, Sharing
from kdtool.replay.streams import Streams, last_insns, own_clocks, split
from kdtool.replay.vmas import follow_vmas
from kdtool.replay.waits import Wakes, after_conflicts, wakes_of
from kdtool.replay.zeropages import find_zero_pages, replayed_rows
from kdtool.traces import Trace

__all__ = ["Workload", "load_workload", "workload_from_arrays"]

READ_IN_ORDER = ("pid", "vpn", "kind", "tid", "insns", "ip")
"""The order in which workload_from_arrays() asks for the columns of `refs`."""


@dataclass(frozen=True)
class Workload:
    """The references of one trace. All arrays of shape (n_refs,) are in global order.

    page : int32, dense ids, indexes into `keys`; those from len(keys) on are copies of pages that processes
        shared, and after them pages of files
    insns : int64, instructions that the thread has executed
    store : uint8, 1 for a reference that writes
    thread, ip : int32, index into `tids`, and int64: who made the reference
    tids : int32 of shape (n_threads,)
    wakes : where a thread begins or wakes
    keys : int64 of shape (n_pages,), sorted
    pids : int64 of shape (n_processes,)
    vma_row, vma_change : int64 of shapes (n_changes,) and (n_changes, 5), how VMAs change before a row,
        see vmas.py; n_vmas : how many there are, at first one for each process
    free_row, free_page : int64, pages that are unmapped before a row, of files by the last who touched it
    files : the files whose pages are in memory
    shared : whose a page is since processes forked
    zeros : when which page is full of zeros
    k : the reduction window of the trace, in pages
    """

    name: str
    sha256: str
    page: npt.NDArray[np.int32]
    insns: npt.NDArray[np.int64]
    store: npt.NDArray[np.uint8]
    thread: npt.NDArray[np.int32]
    ip: npt.NDArray[np.int64]
    tids: npt.NDArray[np.int32]
    wakes: Wakes
    keys: npt.NDArray[np.int64]
    pids: npt.NDArray[np.int64]
    vma_row: npt.NDArray[np.int64]
    vma_change: npt.NDArray[np.int64]
    n_vmas: int
    free_row: npt.NDArray[np.int64]
    free_page: npt.NDArray[np.int64]
    files: FileMaps
    shared: SharedPages
    k: int
    zeros: ZeroPages = field(default_factory=no_zeros)

    @property
    def n_pages(self) -> int:
        """Return how many page ids there are."""
        return len(self.keys) + self.shared.n_copies + self.files.n_pages

    @property
    def n_refs(self) -> int:
        """Return the number of references."""
        return len(self.page)

    def keys_of(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Return the keys of the anonymous pages that these rows touch."""
        of_row = self.shared.key_of_row
        return self.keys[(of_row if len(of_row) else self.page)[rows]]

    def prefix(self, n_refs: int) -> "Workload":
        """Return the workload's first `n_refs` references, which know nothing of the later ones."""
        freed = self.free_row < n_refs
        return replace(
            self,
            page=self.page[:n_refs],
            insns=self.insns[:n_refs],
            store=self.store[:n_refs],
            thread=self.thread[:n_refs],
            ip=self.ip[:n_refs],
            wakes=self.wakes.until(n_refs),
            free_row=self.free_row[freed],
            free_page=self.free_page[freed],
            shared=self.shared.until(n_refs),
        )

    def moved(self, n_pages: int) -> "Workload":
        """Return the workload with all its mappings `n_pages` higher in the address space."""
        mappings = self.files.mappings.copy()
        mappings[:, VPN_SHIFT] -= n_pages
        return replace(
            self,
            keys=self.keys + n_pages,
            vma_change=self.vma_change + np.array([0, 0, 0, n_pages, n_pages]),
            files=replace(self.files, mappings=mappings),
        )

    @cached_property
    def last_insns(self) -> npt.NDArray[np.int64]:
        """Return what each thread has executed at its last reference, int64 of shape (n_threads,)."""
        return last_insns(self.insns, self.thread, len(self.tids))

    @cached_property
    def streams(self) -> Streams:
        """Return each thread's references by themselves."""
        n_keys, process = len(self.keys), self.keys >> VPN_BITS
        owner = np.full(self.n_pages, -1, np.int64)
        owner[:n_keys] = process
        copies, copied_by = self.shared.copies(n_keys)
        owner[copies] = process[copied_by]
        key = self.shared.key_of_row if len(self.shared.key_of_row) else self.page
        own = np.flatnonzero(key < n_keys)
        process_of = np.full(len(self.tids), -1, np.int64)
        process_of[self.thread[own]] = process[key[own]]
        changed = process[np.minimum(self.vma_change[:, 0], n_keys - 1)]
        return split(
            self.thread,
            after_conflicts(self.page, self.store, self.thread, self.n_pages, len(self.tids), self.wakes),
            self.wakes,
            self.shared.copying_row,
            process_of,
            (self.free_row, self.free_page, owner[self.free_page]),
            (self.vma_row, self.vma_change, changed),
        )

    @cached_property
    def footprint_pages(self) -> int:
        """Return the number of distinct pages referenced."""
        return count_distinct(self.page, self.n_pages)


def load_workload(
    trace: Trace, *, allow_loss: bool = False, files: str = DATA, ra_pages: int = RA_PAGES
) -> Workload:
    """Read the references of `trace`.

    allow_loss : replay what is there although events were lost, which makes every figure too good or too bad
    files : whose pages to keep beside the anonymous ones, of filemaps.FILES
    ra_pages : the largest window of their readahead

    Raises
    ------
    TraceError
        The trace has no references (a fault trace cannot say what another policy would have done), has
        lost some, or has none to memory that is replayed.
    ParameterError
        `files` is unknown.
    """
    trace.require_whole(allow_loss=allow_loss)
    if "refs" not in trace.manifest.tables:
        raise TraceError(
            f"{trace.path}: has no page references: faults say what one memory and one policy missed, not "
            f"what others would have missed: record it with `kdtool collect --events refs`"
        )
    maps = trace.columns("vmas") if trace.rows("vmas") else None
    reduction = trace.manifest.reduction
    with OneByOne(trace, "refs", READ_IN_ORDER) as refs:
        return workload_from_arrays(
            trace.path.name,
            trace.sha256,
            refs,
            maps,
            reduction.k if reduction is not None else 0,
            files,
            ra_pages,
            trace.columns("forks") if trace.rows("forks") else None,
            trace.columns("waits") if trace.rows("waits") else None,
            trace.columns("zeros")["row"] if trace.rows("zeros") else None,
        )


def workload_from_arrays(
    name: str,
    sha256: str,
    refs: Mapping[str, npt.NDArray[Any]],
    maps: dict[str, npt.NDArray[np.generic]] | None,
    k: int,
    files: str = DATA,
    ra_pages: int = RA_PAGES,
    forks: Mapping[str, npt.NDArray[Any]] | None = None,
    waits: Mapping[str, npt.NDArray[Any]] | None = None,
    zeros: npt.NDArray[np.int64] | None = None,
) -> Workload:
    """Build a workload from `refs`, each column asked for once and written over, and other tables known."""
    if maps is not None:
        check_mappings(name, maps)
    pids, keys, page, followed = _number_pages(name, refs, maps, forks)
    store, code = new_array(len(page), np.uint8), np.zeros(len(keys), np.uint8)
    note_kinds(np.require(refs["kind"], np.uint8), page, store, code)
    keep = new_array(len(page), np.bool_)
    ranges = spans(maps, pids, keys)
    file_pages, map_of = file_maps(maps, holds_code(code, *ranges), files, ra_pages)
    changes = in_order(maps, followed.order, *ranges, map_of)
    sharing = Sharing(followed, keys, store, changes_of_processes(maps, followed.order, pids))
    n_kept, free_row, free_page = follow_mappings(page, store, changes, keys, file_pages, keep, sharing)
    check_kept(name, n_kept, files)
    copies, copied_page = sharing.copies()

    def replayed(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return told_twice(kept(column, keep, n_kept), copies)

    page, store = _copying(replayed(page), replayed(store), copies, copied_page)
    tids, thread = number_own(writable(refs["tid"]))
    insns = replayed(_clocks(name, writable(refs["insns"].view(np.int64)), thread, len(tids)))
    thread = replayed(thread)
    vma_row, vma_change, n_vmas = follow_vmas(maps, pids, keys, keep)
    made = Workload(
        name=name,
        sha256=sha256,
        page=page,
        insns=insns,
        store=store,
        thread=thread,
        ip=replayed(refs["ip"].view(np.int64)),
        tids=tids.astype(np.int32),
        wakes=wakes_of(name, waits, insns, thread, tids, keep, copies),
        keys=keys,
        pids=pids,
        vma_row=vma_row + np.searchsorted(copies, vma_row),
        vma_change=vma_change,
        n_vmas=n_vmas,
        free_row=free_row,
        free_page=free_page,
        files=file_pages,
        shared=sharing.told(replayed),
        k=k,
    )
    return replace(made, zeros=_zero_pages(made, replayed_rows(name, zeros, keep, copies)))


def _zero_pages(w: Workload, rows: npt.NDArray[np.int64]) -> ZeroPages:
    freed = w.free_row, w.free_page
    return find_zero_pages(w.page, w.store, w.thread, rows, freed, w.n_pages, w.files.n_pages)


def _copying(
    page: npt.NDArray[np.int32],
    store: npt.NDArray[np.uint8],
    copies: npt.NDArray[np.int64],
    copied_page: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Have the first of two rows that make a copy read the old page: the second one writes the new one."""
    reads = copies + np.arange(len(copies))
    page[reads], store[reads] = copied_page, 0
    return page, store


def _clocks(
    name: str, insns: npt.NDArray[np.int64], thread: npt.NDArray[np.int32], n_threads: int
) -> npt.NDArray[np.int64]:
    """Return what each thread has executed, written over `insns`; TraceError when that is too much."""
    if not own_clocks(insns, thread, n_threads):
        raise TraceError(f"{name}: counts more than 2^63 instructions, centuries of them: record it again")
    return insns


def _number_pages(
    name: str,
    refs: Mapping[str, npt.NDArray[Any]],
    maps: dict[str, npt.NDArray[np.generic]] | None,
    forks: Mapping[str, npt.NDArray[Any]] | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], Forks]:
    """Return the processes, the keys, the index of each reference's key, and the forks."""
    pids, key = page_keys(name, refs)
    keys, page = number_keys(key)
    del key  # here and in the caller: a column less while the next one is read
    forked = find_forks(forks, maps, pids)
    more = keys_of_parents(forked, keys, maps, pids)
    return pids, add_keys(more, keys, page), page, forked
