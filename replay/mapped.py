"""Which references replay keeps, page by page as mappings come and go, and when pages are unmapped.

A page that a process touches is one of:

    anonymous     its own, or shared with other processes since a fork (sharing.py); unmapped, it is gone
    a file's      of a file whose pages are in memory (filemaps.py): the reference is to the file's page,
                  which is unmapped when nobody is left who touched it by a mapping that is still there
    left out      of another file, or of none: what was never stored to in a private mapping is the one page
                  of zeros that the kernel has for all (do_anonymous_page() in mm/memory.c, v6.18)

A private page that is stored to is anonymous from then on, also when its mapping is made read-only, as the
dynamic linker does once it has relocated. Where a trace does not say how a page is mapped, it is anonymous.
Differs from the kernel: the page faults of loads from the zero page cost nothing; the arguments and the
environment that the kernel wrote to the stack count as never stored to.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.cacheline import prefetch_line
from kdtool.replay.filemaps import NOT_MAPPED, VPN_SHIFT, FileMaps
from kdtool.replay.keys import ANONYMOUS, FILE, SHARED, UNWRITTEN, VPN_BITS, VPN_MASK
from kdtool.replay.owners import (
    CHANGE,
    N_COPIES,
    N_FREED,
    N_IDS,
    N_KEPT,
    ROW,
    leave_page,
    page_of_key,
)
from kdtool.replay.sharing import Sharing
from kdtool.rmt.jit import inner, jit
from kdtool.traces import NO_OFFSET, RefKind, VmaFlag

__all__ = [
    "check_kept",
    "check_mappings",
    "follow_mappings",
    "holds_code",
    "in_order",
    "note_kinds",
    "spans",
]

AHEAD_ROWS = 32
"""How many rows ahead the mapping of a page is asked for."""
_STORE, _CODE = int(RefKind.STORE), int(RefKind.CODE)
_FILE_FLAG, _UNMAPPED_FLAG = int(VmaFlag.FILE), int(VmaFlag.UNMAPPED)
_SHARED_FLAG, _WRITE_FLAG = int(VmaFlag.SHARED), int(VmaFlag.WRITE)


@inner
def _kind(flags):  # type: ignore[no-untyped-def]
    """Return what the pages of a mapping are until they are written; of none that is known, anonymous."""
    if flags & _UNMAPPED_FLAG:
        return ANONYMOUS
    if not flags & _FILE_FLAG:
        return SHARED if flags & _SHARED_FLAG else UNWRITTEN
    return UNWRITTEN if flags & _WRITE_FLAG and not flags & _SHARED_FLAG else FILE


@inner
def _file_page(p, mapping, keys, mappings):  # type: ignore[no-untyped-def]
    """Return which page of the files page p is, by its mapping: counted from the first of all files."""
    return (keys[p] & VPN_MASK) + mappings[mapping, VPN_SHIFT]


@inner
def _leave(p, row, live, mapping, files, keys, freed, owners):  # type: ignore[no-untyped-def]
    """Take page p out of a mapping; unless others still have it, it is unmapped by that."""
    mappings, _, users, first_file = files
    free_row, free_page = freed
    counts, gone = owners[8], np.int64(p)
    live[p] = 0
    if mapping[p] != NOT_MAPPED:
        frame = _file_page(p, mapping[p], keys, mappings)
        users[frame] -= 1
        gone = np.int64(-1) if users[frame] else first_file + frame
    elif len(owners[0]):
        gone = leave_page(p, row, owners)
    if gone >= 0:
        at = counts[N_FREED]
        free_row[at], free_page[at] = row + counts[N_COPIES], gone
        counts[N_FREED] = at + 1


def follow_mappings(
    page: npt.NDArray[np.int32],
    store: npt.NDArray[np.uint8],
    changes: tuple[npt.NDArray[np.int64], ...],
    keys: npt.NDArray[np.int64],
    files: FileMaps,
    keep: npt.NDArray[np.bool_],
    sharing: Sharing,
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Set `keep` where references are replayed, and `page` to the page that it is: a file's, or a shared one.

    changes : row, first, last, flags, map_of: mapping changes of the pages [first, last), in order of row
    files : mapping_of is set where a page of a file is touched for the first time

    Return how many are kept, and the (row, page) pairs that were unmapped. A row here is one of those kept,
    with one more for each copy of a shared page.
    """
    _, first, last, *_ = changes
    # Unmapped is what was referenced: by a mapping change, or when it is first written after one.
    most = min(len(page), 2 * int(np.sum(last - first))) + sharing.most_pages
    freed = np.empty(most, np.int64), np.empty(most, np.int64)
    n_pages, counts = len(keys), sharing.counts
    key_state = (
        np.zeros(n_pages, np.uint8), np.zeros(n_pages, np.uint8), np.full(n_pages, NOT_MAPPED, np.int64)
    )  # fmt: skip
    users = np.zeros(files.n_pages, np.int32)
    first_file = n_pages + sharing.most_ids
    of_files = files.mappings, files.mapping_of, users, first_file
    for row, change, event in sharing.stops():
        _follow(
            row, change, page, store, changes, keys, of_files, keep, key_state, freed, sharing.key_of_row,
            sharing.arrays(),
        )  # fmt: skip
        sharing.do(event, key_state, freed)
    free_row, free_page = (each[: counts[N_FREED]].copy() for each in freed)
    if sharing.most_ids and files.n_pages:  # files come behind the copies that there are
        for pages in (page, free_page):
            pages[pages >= first_file] -= first_file - int(counts[N_IDS])
    return int(counts[N_KEPT]), free_row, free_page


@inner
def _remap(p, flags, map_of, n_kept, keys, files, key_state, freed, owners):  # type: ignore[no-untyped-def]
    """Have page `p` mapped otherwise.

    What a new mapping replaces is unmapped first: all else is mprotect() or madvise(), which leave a file's
    pages, and what is the process's own, a private copy of a file's page too.
    """
    kind, live, mapping = key_state
    mappings, before = files[0], mapping[p]
    if live[p] and before == NOT_MAPPED and not flags & _UNMAPPED_FLAG:
        return
    stays = NOT_MAPPED not in (before, map_of) and mappings[before, VPN_SHIFT] == mappings[map_of, VPN_SHIFT]
    if live[p] and not stays:
        _leave(p, n_kept, live, mapping, files, keys, freed, owners)
    kind[p], mapping[p] = _kind(flags), map_of


@jit(nogil=True)
def _follow(  # type: ignore[no-untyped-def]
    stop_row, stop_change, page, store, changes, keys, files, keep, key_state, freed, key_of_row, owners
):
    """Go on to the mapping change `stop_change`, which comes before row `stop_row`, or to that row.

    key_state : kind, liveness and mapping of each key; freed : what was unmapped, and when
    """
    row, first, last, flags, map_of = changes
    mappings, mapping_of, users, first_file = files
    kind, live, mapping = key_state
    counts, shares = owners[8], len(key_of_row) > 0
    n_kept, at = counts[N_KEPT], counts[CHANGE]
    for i in range(counts[ROW], stop_row + 1):
        while at < stop_change and row[at] <= i:
            for p in range(first[at], last[at]):
                _remap(p, flags[at], map_of[at], n_kept, keys, files, key_state, freed, owners)
            at += 1
        if i == stop_row:
            break
        touched = np.int64(page[i])
        if i + AHEAD_ROWS < stop_row:
            prefetch_line(mapping, np.int64(page[i + AHEAD_ROWS]))
        if shares:
            key_of_row[i] = touched
        if kind[touched] == UNWRITTEN and store[i]:
            if live[touched]:
                _leave(touched, n_kept, live, mapping, files, keys, freed, owners)
            kind[touched], mapping[touched] = ANONYMOUS, NOT_MAPPED  # copied on write
        if mapping[touched] != NOT_MAPPED:
            frame = _file_page(touched, mapping[touched], keys, mappings)
            users[frame] += 1 - live[touched]
            if mapping_of[frame] == NOT_MAPPED:
                mapping_of[frame] = mapping[touched]
            page[i] = first_file + frame
        elif shares and kind[touched] <= SHARED:
            page[i] = page_of_key(touched, store[i], n_kept, kind, live, owners)
        if kind[touched] <= SHARED or mapping[touched] != NOT_MAPPED:
            keep[i] = True
            n_kept += 1
            live[touched] = 1
    counts[ROW], counts[CHANGE], counts[N_KEPT] = stop_row, at, n_kept


def check_mappings(name: str, maps: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse mapping changes that no address space has; what follows them looks at no number again.

    Raises TraceError.
    """
    start, end = maps["start_vpn"], maps["end_vpn"]
    offset = maps.get("offset_pages", np.full(len(start), NO_OFFSET))
    bad = (start > end) | (end >= 1 << VPN_BITS) | (offset < NO_OFFSET) | (offset >= 1 << VPN_BITS)
    if bad.any():
        at = int(np.argmax(bad))
        raise TraceError(
            f"{name}: row {at} of vmas maps pages {start[at]} to {end[at]} at page {offset[at]} of a file: "
            f"no mapping is like that: record it again"
        )


def check_kept(name: str, n_kept: int, files: str) -> None:
    """Refuse a trace of which no reference is replayed with these `files`; raises TraceError."""
    if not n_kept:
        raise TraceError(
            f"{name}: has no reference to memory that is replayed: anonymous pages, and those of files by "
            f"--files {files}: record what uses more, or give --files all"
        )


def spans(
    maps: dict[str, npt.NDArray[np.generic]] | None,
    pids: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return of each mapping change the first page id, the last + 1; of a process without pages, anything."""
    if maps is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    process = np.searchsorted(pids, maps["pid"].astype(np.int64)) << VPN_BITS
    first = np.searchsorted(keys, process | maps["start_vpn"].astype(np.int64))
    last = np.searchsorted(keys, process | maps["end_vpn"].astype(np.int64))
    return first.astype(np.int64), last.astype(np.int64)


def holds_code(
    code: npt.NDArray[np.uint8], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Tell of each mapping change whether code was run in its pages: an emulator maps that as data."""
    before = np.concatenate(([0], np.cumsum(code, dtype=np.int64)))
    return np.asarray(before[last] > before[first])


@jit(nogil=True)
def note_kinds(kind, page, store, code):  # type: ignore[no-untyped-def]
    """Set `store` of the references that write, and `code` of the pages that were run."""
    for i in range(len(page)):
        store[i] = kind[i] == _STORE
        if kind[i] == _CODE:
            code[page[i]] = 1


def in_order(
    maps: dict[str, npt.NDArray[np.generic]] | None,
    order: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    map_of: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], ...]:
    """Return mapping changes as (row, first key, last key + 1, flags, mapping of a file), in this order."""
    if maps is None:
        return order, order, order, order, order
    rows, flags = (maps[name][order].astype(np.int64) for name in ("row", "flags"))
    return rows, first[order], last[order], flags, map_of[order]
