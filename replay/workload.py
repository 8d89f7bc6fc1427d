"""A trace's references as replay takes them: dense page ids, a virtual clock, and what was unmapped when.

Swap holds anonymous memory, so replay keeps the references to anonymous pages (heap, stack, private
mappings once they are written) and leaves out file-backed ones: those belong to the page cache. A trace
without `vmas` is taken to be anonymous throughout. A page that is unmapped is forgotten: touched again,
it is a new page.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.longarrays import copied, kept, new_array
from kdtool.replay.numbering import number_keys
from kdtool.rmt.jit import jit
from kdtool.traces import NO_ROW, RefKind, Trace, VmaFlag, schema_of

__all__ = ["VPN_BITS", "Workload", "load_workload", "workload_from_arrays"]

VPN_BITS = 52
"""A page's key is its process's index << VPN_BITS | vpn: 2**52 pages cover any 64-bit address."""


@dataclass(frozen=True)
class Workload:
    """The references of one trace. All arrays of shape (n_refs,) are in global order.

    page : int32, dense ids, indexes into `keys`
    insns : int64, instructions executed by all threads so far, taken one after another
    store : uint8, 1 for a reference that writes
    tid, ip : int32 and int64, who made the reference
    keys : int64 of shape (n_pages,), sorted
    pids : int64 of shape (n_processes,)
    vma_of_page : int32 of shape (n_pages,)
    vma_bounds : int64 of shape (n_vmas, 2), first and last + 1 vpn
    free_row, free_page : int64, pages that are unmapped before a row
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
    vma_of_page: npt.NDArray[np.int32]
    vma_bounds: npt.NDArray[np.int64]
    free_row: npt.NDArray[np.int64]
    free_page: npt.NDArray[np.int64]
    k: int

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

    @property
    def footprint_pages(self) -> int:
        """Return the number of distinct pages referenced."""
        touched = np.zeros(len(self.keys), np.bool_)
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


def load_workload(trace: Trace, *, allow_loss: bool = False) -> Workload:
    """Read the references of `trace`.

    allow_loss : replay what is there although events were lost, which makes every figure too good or too bad

    Raises
    ------
    TraceError
        The trace has no references (a fault trace cannot say what another policy would have done), has
        lost some, or has none to anonymous memory.
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
        trace.path.name, trace.sha256, refs, maps, k=reduction.k if reduction is not None else 0
    )


def workload_from_arrays(
    name: str,
    sha256: str,
    refs: Mapping[str, npt.NDArray[Any]],
    maps: dict[str, npt.NDArray[np.generic]] | None,
    k: int,
) -> Workload:
    """Build a workload from the columns of `refs`, each asked for once, and, if known, of `vmas`."""
    pids, key = _keys(refs)
    keys, page = number_keys(key)
    del key  # here and below: a column less while the next one is read
    store = new_array(len(page), np.uint8)
    np.equal(refs["kind"], RefKind.STORE, out=store.view(np.bool_))
    keep = new_array(len(page), np.bool_)
    changes = _changes(maps, pids, keys)
    n_kept, free_row, free_page = _follow_mappings(page, store, *changes, len(keys), keep)
    if not n_kept:
        raise TraceError(f"{name}: has no reference to anonymous memory, which is all that swap holds")
    page, store = kept(page, keep, n_kept), kept(store, keep, n_kept)
    tid = copied(refs["tid"], np.int32)
    insns = kept(_merged_clock(copied(refs["insns"], np.int64), tid), keep, n_kept)
    bounds, vma_of_page = _anonymous_vmas(maps, pids, keys)
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
        vma_of_page=vma_of_page,
        vma_bounds=bounds,
        free_row=free_row,
        free_page=free_page,
        k=k,
    )


def _keys(refs: Mapping[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the processes, sorted, and the key of each reference's page."""
    pids, process = number_keys(refs["pid"])
    key = copied(process, np.int64)
    key <<= VPN_BITS
    key |= refs["vpn"].view(np.int64)
    return pids, key


def _changes(
    maps: dict[str, npt.NDArray[np.generic]] | None,
    pids: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return mapping changes as (row, first page id, last page id + 1, flags), in order of row."""
    if maps is None:
        empty = np.empty(0, np.int64)
        return empty, empty, empty, empty
    known = np.isin(maps["pid"], pids) & (maps["row"] != NO_ROW)
    maps = {name: column[known] for name, column in maps.items()}
    order = np.argsort(maps["row"], kind="stable")
    process = np.searchsorted(pids, maps["pid"][order].astype(np.int64)) << VPN_BITS
    first = np.searchsorted(keys, process | maps["start_vpn"][order].astype(np.int64))
    last = np.searchsorted(keys, process | maps["end_vpn"][order].astype(np.int64))
    rows = maps["row"][order].astype(np.int64)
    return rows, first.astype(np.int64), last.astype(np.int64), maps["flags"][order].astype(np.int64)


_ANONYMOUS, _FILE, _PRIVATE_FILE = 0, 1, 2
_FILE_FLAG, _SHARED_FLAG = int(VmaFlag.FILE), int(VmaFlag.SHARED)
_UNMAPPED_FLAG, _WRITE_FLAG = int(VmaFlag.UNMAPPED), int(VmaFlag.WRITE)


@jit(allocates=True)
def _follow_mappings(page, store, row, first, last, flags, n_pages, keep):  # type: ignore[no-untyped-def]
    """Set `keep` where references are to anonymous pages.

    Return how many there are, and the (row, page) pairs that were unmapped.

    A row here is one of those that are kept.
    """
    kind = np.zeros(n_pages, np.uint8)
    live = np.zeros(n_pages, np.uint8)
    free_row = [np.int64(0) for _ in range(0)]
    free_page = [np.int64(0) for _ in range(0)]
    at, n_kept = 0, 0
    for i in range(len(page) + 1):
        while at < len(row) and row[at] <= i:
            new = _ANONYMOUS
            if flags[at] & _FILE_FLAG:
                writable = flags[at] & _WRITE_FLAG and not flags[at] & _SHARED_FLAG
                new = _PRIVATE_FILE if writable else _FILE
            for p in range(first[at], last[at]):
                # A new mapping replaces what was there, as MAP_FIXED does.
                if live[p]:
                    live[p] = 0
                    free_row.append(np.int64(n_kept))
                    free_page.append(np.int64(p))
                kind[p] = new
            at += 1
        if i == len(page):
            break
        p = page[i]
        if kind[p] == _PRIVATE_FILE and store[i]:
            kind[p] = _ANONYMOUS  # copied on write
        if kind[p] == _ANONYMOUS:
            keep[i] = True
            n_kept += 1
            live[p] = 1
    return n_kept, np.array(free_row, dtype=np.int64), np.array(free_page, dtype=np.int64)


def _merged_clock(insns: npt.NDArray[np.int64], tid: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return the instructions of all threads so far, written over `insns`, which counts each thread's own."""
    tids, thread = number_keys(tid)
    _merge_clocks(insns, thread, len(tids))
    return insns


@jit(allocates=True)
def _merge_clocks(insns, thread, n_threads):  # type: ignore[no-untyped-def]
    """Add up what each thread advanced; a clock that went back belongs to a new program (exec)."""
    last = np.zeros(n_threads, np.int64)
    total = np.int64(0)
    for i in range(len(insns)):
        own = insns[i]
        advanced = own - last[thread[i]]
        total += advanced if advanced >= 0 else own
        last[thread[i]] = own
        insns[i] = total


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
