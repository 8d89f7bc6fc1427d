"""A trace's references as replay takes them: dense page ids, a virtual clock, and what was unmapped when.

Anonymous pages (heap, stack, private mappings once they are written) are kept apart by process; a page that
is unmapped is forgotten: touched again, it is a new page. Pages of files are told by file and offset, and
stay when they are unmapped (filemaps.py). A trace without `vmas` is taken to be anonymous throughout.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.filemaps import DATA, VPN_SHIFT, FileMaps, file_maps
from kdtool.replay.longarrays import copied, kept, new_array
from kdtool.replay.mapped import (
    VPN_BITS,
    check_mappings,
    follow_mappings,
    holds_code,
    note_kinds,
    page_keys,
    spans,
)
from kdtool.replay.numbering import number_keys
from kdtool.replay.policies.linux_file import RA_PAGES
from kdtool.replay.streams import Streams, find_wakes, last_insns, own_clocks, split
from kdtool.traces import NO_ROW, Trace, VmaFlag, schema_of

__all__ = ["Workload", "load_workload", "workload_from_arrays"]


@dataclass(frozen=True)
class Workload:
    """The references of one trace. All arrays of shape (n_refs,) are in global order.

    page : int32, dense ids, indexes into `keys`; those from len(keys) on are pages of files
    insns : int64, instructions that the thread has executed
    store : uint8, 1 for a reference that writes
    thread, ip : int32, index into `tids`, and int64: who made the reference
    tids : int32 of shape (n_threads,)
    wake_row : int64, rows at which a thread begins or wakes, see streams.py
    keys : int64 of shape (n_pages,), sorted
    pids : int64 of shape (n_processes,)
    vma_of_page : int32 of shape (n_pages,)
    vma_bounds : int64 of shape (n_vmas, 2), first and last + 1 vpn
    free_row, free_page : int64, pages that are unmapped before a row, of files by the last who touched it
    files : the files whose pages are in memory
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
    wake_row: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    pids: npt.NDArray[np.int64]
    vma_of_page: npt.NDArray[np.int32]
    vma_bounds: npt.NDArray[np.int64]
    free_row: npt.NDArray[np.int64]
    free_page: npt.NDArray[np.int64]
    files: FileMaps
    k: int

    @property
    def n_pages(self) -> int:
        """Return how many page ids there are."""
        return len(self.keys) + self.files.n_pages

    @property
    def n_refs(self) -> int:
        """Return the number of references."""
        return len(self.page)

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
            wake_row=self.wake_row[self.wake_row < n_refs],
            free_row=self.free_row[freed],
            free_page=self.free_page[freed],
        )

    def moved(self, n_pages: int) -> "Workload":
        """Return the workload with all its mappings `n_pages` higher in the address space."""
        mappings = self.files.mappings.copy()
        mappings[:, VPN_SHIFT] -= n_pages
        return replace(
            self,
            keys=self.keys + n_pages,
            vma_bounds=self.vma_bounds + n_pages,
            files=replace(self.files, mappings=mappings),
        )

    @cached_property
    def last_insns(self) -> npt.NDArray[np.int64]:
        """Return what each thread has executed at its last reference, int64 of shape (n_threads,)."""
        return last_insns(self.insns, self.thread, len(self.tids))

    @cached_property
    def streams(self) -> Streams:
        """Return each thread's references by themselves."""
        process_of = np.full(len(self.tids), -1, np.int64)
        own = np.flatnonzero(self.page < len(self.keys))
        process_of[self.thread[own]] = self.keys[self.page[own]] >> VPN_BITS
        process = np.full(len(self.free_page), -1, np.int64)
        known = self.free_page < len(self.keys)
        process[known] = self.keys[self.free_page[known]] >> VPN_BITS
        return split(self.thread, self.wake_row, process_of, (self.free_row, self.free_page, process))

    @property
    def footprint_pages(self) -> int:
        """Return the number of distinct pages referenced."""
        touched = np.zeros(self.n_pages, np.bool_)
        touched[self.page] = True
        return int(np.count_nonzero(touched))


class _OneByOne(Mapping[str, npt.NDArray[Any]]):
    """A table whose columns are read when they are asked for: memory never holds them all."""

    def __init__(self, trace: Trace, table: str) -> None:
        self._trace, self._table = trace, table

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        column, done = new_array(self._trace.rows(self._table), _dtype(self._table, name)), 0
        for batch in self._trace.batches(self._table, [name]):
            part = batch[name]
            column[done : done + len(part)] = part
            done += len(part)
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(schema_of(self._table).names)

    def __len__(self) -> int:
        return len(schema_of(self._table).names)


def _dtype(table: str, name: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(schema_of(table).field(name).type.to_pandas_dtype())
    return dtype


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
    refs = _OneByOne(trace, "refs")
    maps = trace.columns("vmas") if trace.rows("vmas") else None
    reduction = trace.manifest.reduction
    return workload_from_arrays(
        trace.path.name,
        trace.sha256,
        refs,
        maps,
        reduction.k if reduction is not None else 0,
        files,
        ra_pages,
    )


def workload_from_arrays(
    name: str,
    sha256: str,
    refs: Mapping[str, npt.NDArray[Any]],
    maps: dict[str, npt.NDArray[np.generic]] | None,
    k: int,
    files: str = DATA,
    ra_pages: int = RA_PAGES,
) -> Workload:
    """Build a workload from the columns of `refs`, each asked for once, and, if known, of `vmas`."""
    if maps is not None:
        check_mappings(name, maps)
    pids, key = page_keys(name, refs)
    keys, page = number_keys(key)
    del key  # here and below: a column less while the next one is read
    store, code = new_array(len(page), np.uint8), np.zeros(len(keys), np.uint8)
    note_kinds(np.require(refs["kind"], np.uint8), page, store, code)
    keep = new_array(len(page), np.bool_)
    ranges = spans(maps, pids, keys)
    file_pages, map_of = file_maps(maps, holds_code(code, *ranges), files, ra_pages)
    changes = _changes(maps, map_of, pids, *ranges)
    n_kept, free_row, free_page = follow_mappings(
        page, store, changes, keys, file_pages.mappings, file_pages.mapping_of, keep
    )
    if not n_kept:
        raise TraceError(
            f"{name}: has no reference to memory that is replayed: anonymous pages, and those of files by "
            f"--files {files}: record what uses more, or give --files all"
        )
    page, store = kept(page, keep, n_kept), kept(store, keep, n_kept)
    tids, thread = number_keys(np.require(refs["tid"], np.int32))
    insns = copied(refs["insns"], np.int64)
    if not own_clocks(insns, thread, len(tids)):
        raise TraceError(f"{name}: counts more than 2^63 instructions, centuries of them: record it again")
    insns, thread = kept(insns, keep, n_kept), kept(thread, keep, n_kept)
    bounds, vma_of_page = _anonymous_vmas(maps, pids, keys)
    return Workload(
        name=name,
        sha256=sha256,
        page=page,
        insns=insns,
        store=store,
        thread=thread,
        ip=kept(refs["ip"].view(np.int64), keep, n_kept),
        tids=tids.astype(np.int32),
        wake_row=find_wakes(insns, thread, len(tids)),
        keys=keys,
        pids=pids,
        vma_of_page=vma_of_page,
        vma_bounds=bounds,
        free_row=free_row,
        free_page=free_page,
        files=file_pages,
        k=k,
    )


def _changes(
    maps: dict[str, npt.NDArray[np.generic]] | None,
    map_of: npt.NDArray[np.int64],
    pids: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return mapping changes as (row, first key, last key + 1, flags, mapping of a file), in order of row."""
    if maps is None:
        empty = np.empty(0, np.int64)
        return empty, empty, empty, empty, empty
    known = np.isin(maps["pid"], pids) & (maps["row"] != NO_ROW)
    order = np.flatnonzero(known)[np.argsort(maps["row"][known], kind="stable")]
    rows, flags = (maps[name][order].astype(np.int64) for name in ("row", "flags"))
    return rows, first[order], last[order], flags, map_of[order]


_FILE_FLAG, _UNMAPPED_FLAG = int(VmaFlag.FILE), int(VmaFlag.UNMAPPED)


def _anonymous_vmas(
    maps: dict[str, npt.NDArray[np.generic]] | None,
    pids: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the bounds of the VMAs and each page's VMA; neighbours of one kind merge as in the kernel.

    A VMA that grew is taken at its largest extent; without `maps` each process is one VMA.
    """
    bounds: list[list[int]] = [[0, 1 << VPN_BITS] for _ in pids]
    vma_of_page = (keys >> VPN_BITS).astype(np.int32)
    if maps is None:
        return np.array(bounds, np.int64), vma_of_page
    newest: dict[tuple[int, int, int], int] = {}
    for i in np.argsort(maps["row"], kind="stable"):
        flags, pid = int(maps["flags"][i]), int(maps["pid"][i])
        if flags & _UNMAPPED_FLAG or pid not in pids:
            continue
        start, end = int(maps["start_vpn"][i]), int(maps["end_vpn"][i])
        vma = newest.pop((pid, flags, start), None) if not flags & _FILE_FLAG else None
        vma = newest.pop((pid, ~flags, end), None) if vma is None and not flags & _FILE_FLAG else vma
        if vma is None:
            vma = len(bounds)
            bounds.append([start, end])
        bounds[vma] = [min(bounds[vma][0], start), max(bounds[vma][1], end)]
        newest[pid, flags, bounds[vma][1]] = newest[pid, ~flags, bounds[vma][0]] = vma
        process = int(np.searchsorted(pids, pid)) << VPN_BITS
        first, last = np.searchsorted(keys, [process | start, process | end])
        vma_of_page[first:last] = vma
    return np.array(bounds, np.int64), vma_of_page
