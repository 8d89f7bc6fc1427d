"""A trace's references as replay takes them: dense page ids, a virtual clock, and what was unmapped when.

Anonymous pages (heap, stack, private mappings once they are written) are kept apart by process; a page that
is unmapped is forgotten: touched again, it is a new page. Pages of files are told by file and offset, and
stay when they are unmapped (filemaps.py). A trace without `vmas` is taken to be anonymous throughout.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.filemaps import DATA, VPN_SHIFT, FileMaps, file_maps
from kdtool.replay.longarrays import copied, kept, new_array
from kdtool.replay.mapped import (
    check_mappings,
    follow_mappings,
    holds_code,
    note_kinds,
    page_keys,
    spans,
)
from kdtool.replay.numbering import number_keys
from kdtool.replay.policies.linux_file import RA_PAGES
from kdtool.replay.vmas import follow_vmas
from kdtool.rmt.jit import jit
from kdtool.traces import NO_ROW, Trace, schema_of

__all__ = ["Workload", "load_workload", "workload_from_arrays"]


@dataclass(frozen=True)
class Workload:
    """The references of one trace. All arrays of shape (n_refs,) are in global order.

    page : int32, dense ids, indexes into `keys`; those from len(keys) on are pages of files
    insns : int64, instructions executed by all threads so far, taken one after another
    store : uint8, 1 for a reference that writes
    tid, ip : int32 and int64, who made the reference
    keys : int64 of shape (n_pages,), sorted
    pids : int64 of shape (n_processes,)
    vma_row, vma_change : int64 of shapes (n_changes,) and (n_changes, 5), how VMAs change before a row,
        see vmas.py; n_vmas : how many there are, at first one for each process
    free_row, free_page : int64, pages that are unmapped before a row, of files by the last who touched it
    files : the files whose pages are in memory
    k : the reduction window of the trace, in pages
    """

    name: str
    sha256: str
    page: npt.NDArray[np.int32]
    insns: npt.NDArray[np.int64]
    store: npt.NDArray[np.uint8]
    tid: npt.NDArray[np.int32]
    ip: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    pids: npt.NDArray[np.int64]
    vma_row: npt.NDArray[np.int64]
    vma_change: npt.NDArray[np.int64]
    n_vmas: int
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
            tid=self.tid[:n_refs],
            ip=self.ip[:n_refs],
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
            vma_change=self.vma_change + np.array([0, 0, 0, n_pages, n_pages]),
            files=replace(self.files, mappings=mappings),
        )

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
    tid = copied(refs["tid"], np.int32)
    insns = kept(_merged_clock(name, copied(refs["insns"], np.int64), tid), keep, n_kept)
    vma_row, vma_change, n_vmas = follow_vmas(maps, pids, keys, keep)
    return Workload(
        name=name,
        sha256=sha256,
        page=page,
        insns=insns,
        store=store,
        tid=kept(tid, keep, n_kept),
        ip=kept(refs["ip"].view(np.int64), keep, n_kept),
        keys=keys,
        pids=pids,
        vma_row=vma_row,
        vma_change=vma_change,
        n_vmas=n_vmas,
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


def _merged_clock(
    name: str, insns: npt.NDArray[np.int64], tid: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Return the instructions of all threads so far, written over `insns`, which counts each thread's own."""
    tids, thread = number_keys(tid)
    if not _merge_clocks(insns, thread, np.zeros(len(tids), np.int64)):
        raise TraceError(f"{name}: counts more than 2^63 instructions, centuries of them: record it again")
    return insns


@jit()
def _merge_clocks(insns, thread, last):  # type: ignore[no-untyped-def]
    """Add up what each thread advanced from `last` on; a clock that went back is of a new program (exec).

    False when the sum, or a clock, does not fit into 63 bits.
    """
    total = np.int64(0)
    for i in range(len(insns)):
        own = insns[i]
        advanced = own - last[thread[i]]
        total += advanced if advanced >= 0 else own
        if own < 0 or total < 0:
            return False
        last[thread[i]] = own
        insns[i] = total
    return True
