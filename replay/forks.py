"""The forks of a trace: who began with whose address space, and between which mapping changes.

In a shared mapping (MAP_SHARED, anonymous) a page may be touched for the first time after the fork, by
anyone, and is one page for all: the parent has a key there, too, though it never touches it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdtool.replay.keys import VPN_BITS, VPN_MASK
from kdtool.traces import NO_ROW, VmaFlag

__all__ = ["Forks", "changes_of_processes", "find_forks", "keys_of_parents"]

_KIND_FLAGS = VmaFlag.SHARED | VmaFlag.FILE | VmaFlag.UNMAPPED


class Forks(NamedTuple):
    """The mapping changes that replay follows, and forks between them: arrays of int64.

    order : the rows of `vmas` that are followed, in the order in which they are
    row, change : of each fork, how many references and how many of the changes in `order` came before
    parent, child : indexes of processes
    """

    order: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    change: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int64]
    child: npt.NDArray[np.int64]


def find_forks(
    table: Mapping[str, npt.NDArray[Any]] | None,
    maps: Mapping[str, npt.NDArray[Any]] | None,
    pids: npt.NDArray[np.int64],
) -> Forks:
    """Return the changes and forks of processes that make references, in order of row.

    table, maps : the columns of `forks` and `vmas`, None where a trace has none
    """
    order = nobody = np.empty(0, np.int64)
    if maps is not None:
        known = np.isin(maps["pid"], pids) & (maps["row"] != NO_ROW)
        order = np.flatnonzero(known)[np.argsort(maps["row"][known], kind="stable")]
    if table is None:
        return Forks(order, nobody, nobody, nobody, nobody)
    known = np.isin(table["pid"], pids) & np.isin(table["parent"], pids)
    row, vma_row = (table[name][known].astype(np.int64) for name in ("row", "vma_row"))
    parent, child = (np.searchsorted(pids, table[name][known]).astype(np.int64) for name in ("parent", "pid"))
    change = np.searchsorted(np.sort(order), vma_row).astype(np.int64)
    turn = np.lexsort((change, row))
    return Forks(order, *(each[turn] for each in (row, change, parent, child)))


def changes_of_processes(
    maps: Mapping[str, npt.NDArray[Any]] | None, order: npt.NDArray[np.int64], pids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return row, process, first vpn, vpn after the last, and flags of the changes in `order`.

    And to which vpn mremap() has moved the first page of those that are unmapped, 0 for none.
    """
    if maps is None:
        return order, order, order, order, order, order
    names = ("row", "pid", "start_vpn", "end_vpn", "flags")
    row, pid, start, end, flags = (maps[name][order].astype(np.int64) for name in names)
    offset = maps["offset_pages"][order].astype(np.int64) if "offset_pages" in maps else np.zeros_like(row)
    moved_to = np.where(flags & VmaFlag.UNMAPPED, np.maximum(offset, 0), 0)
    return row, np.searchsorted(pids, pid).astype(np.int64), start, end, flags, moved_to


def keys_of_parents(
    forks: Forks,
    keys: npt.NDArray[np.int64],
    maps: Mapping[str, npt.NDArray[Any]] | None,
    pids: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return keys of the pages in shared mappings that only descendants of their process touch."""
    found = np.empty(0, np.int64)
    if maps is None:
        return found
    shared = (maps["flags"] & int(_KIND_FLAGS)) == VmaFlag.SHARED
    for parent, child in zip(forks.parent[::-1].tolist(), forks.child[::-1].tolist(), strict=True):
        for at in np.flatnonzero(shared & (maps["pid"] == pids[child])):
            start, end = (child << VPN_BITS | int(maps[name][at]) for name in ("start_vpn", "end_vpn"))
            first, last = np.searchsorted(keys, (start, end))
            more = found[(found >= start) & (found < end)]
            inside = np.concatenate((keys[first:last], more)) & VPN_MASK
            found = np.union1d(found, inside | parent << VPN_BITS)
    return np.setdiff1d(found, keys)
