"""Which references replay keeps, page by page as mappings come and go, and when pages are unmapped.

A page that a process touches is one of:

    anonymous     its own; unmapped, it is gone
    a file's      of a file whose pages are in memory (filemaps.py): the reference is to the file's page,
                  which is unmapped when nobody is left who touched it by a mapping that is still there
    left out      of another file, until a private page is written: it is copied, and anonymous from then on,
                  also when the mapping is made read-only, as the dynamic linker does once it has relocated
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.filemaps import NOT_MAPPED, VPN_SHIFT
from kdtool.replay.longarrays import copied
from kdtool.replay.numbering import number_keys
from kdtool.rmt.jit import inner, jit
from kdtool.traces import NO_OFFSET, RefKind, VmaFlag

__all__ = [
    "VPN_BITS",
    "check_mappings",
    "follow_mappings",
    "holds_code",
    "note_kinds",
    "page_keys",
    "spans",
]

VPN_BITS = 52
"""A page's key is its process's index << VPN_BITS | vpn: 2**52 pages cover any 64-bit address."""
MOST_PROCESSES = 1 << (63 - VPN_BITS)
"""A key has a sign."""
_VPN_MASK = (1 << VPN_BITS) - 1

_ANONYMOUS, _FILE, _PRIVATE_FILE = 0, 1, 2
_STORE, _CODE = int(RefKind.STORE), int(RefKind.CODE)
_FILE_FLAG, _SHARED_FLAG = int(VmaFlag.FILE), int(VmaFlag.SHARED)
_UNMAPPED_FLAG, _WRITE_FLAG = int(VmaFlag.UNMAPPED), int(VmaFlag.WRITE)


@inner
def _kind(flags):  # type: ignore[no-untyped-def]
    """Return what the pages of a mapping are until they are written."""
    if not flags & _FILE_FLAG:
        return _ANONYMOUS
    return _PRIVATE_FILE if flags & _WRITE_FLAG and not flags & _SHARED_FLAG else _FILE


@inner
def _file_page(p, mapping, keys, mappings):  # type: ignore[no-untyped-def]
    """Return which page of the files page p is, by its mapping: counted from the first of all files."""
    return (keys[p] & _VPN_MASK) + mappings[mapping, VPN_SHIFT]


@inner
def _leave(p, live, mapping, users, keys, mappings):  # type: ignore[no-untyped-def]
    """Take page p out of a mapping; return the page that is unmapped by that, -1 if others still have it."""
    live[p] = 0
    if mapping[p] == NOT_MAPPED:
        return np.int64(p)
    frame = _file_page(p, mapping[p], keys, mappings)
    users[frame] -= 1
    return len(keys) + frame if users[frame] == 0 else np.int64(-1)


def follow_mappings(
    page: npt.NDArray[np.int32],
    store: npt.NDArray[np.uint8],
    changes: tuple[npt.NDArray[np.int64], ...],
    keys: npt.NDArray[np.int64],
    mappings: npt.NDArray[np.int64],
    mapping_of: npt.NDArray[np.int32],
    keep: npt.NDArray[np.bool_],
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Set `keep` where references are replayed, and `page` to the file's page where they are to one.

    changes : row, first, last, flags, map_of: mapping changes of the pages [first, last), in order of row
    mapping_of : set where a page of a file is touched for the first time

    Return how many are kept, and the (row, page) pairs that were unmapped. A row here is one of those kept.
    """
    _, first, last, *_ = changes
    # Unmapped is what was referenced: by a mapping change, or when it is first written after one.
    most = min(len(page), 2 * int(np.sum(last - first)))
    freed = np.empty(most, np.int64), np.empty(most, np.int64)
    n_pages = len(keys)
    state = (
        np.zeros(n_pages, np.uint8),
        np.zeros(n_pages, np.uint8),
        np.full(n_pages, NOT_MAPPED, np.int64),
        np.zeros(len(mapping_of), np.int32),
    )
    n_kept, n_freed = _follow(page, store, changes, keys, (mappings, mapping_of), keep, state, freed)
    free_row, free_page = (each[:n_freed].copy() for each in freed)
    return n_kept, free_row, free_page


@jit()
def _follow(page, store, changes, keys, files, keep, state, freed):  # type: ignore[no-untyped-def]
    """Do so, and put what was unmapped into `freed`; return how many references are kept, and pages unmapped.

    state : kind, liveness and mapping of each page, users of each of the files' pages
    """
    row, first, last, flags, map_of = changes
    mappings, mapping_of = files
    kind, live, mapping, users = state
    free_row, free_page = freed
    n_pages, n_freed = len(keys), 0
    at, n_kept = 0, 0
    for i in range(len(page) + 1):
        while at < len(row) and row[at] <= i:
            for p in range(first[at], last[at]):
                # What a new mapping replaces is unmapped first: all else is mprotect() or madvise(), which
                # leave a file's pages, and what is the process's own, a private copy of a file's page too.
                if live[p] and mapping[p] == NOT_MAPPED and not flags[at] & _UNMAPPED_FLAG:
                    continue
                stays = live[p] and mapping[p] != NOT_MAPPED and map_of[at] != NOT_MAPPED
                stays = stays and mappings[mapping[p], VPN_SHIFT] == mappings[map_of[at], VPN_SHIFT]
                gone = np.int64(-1)
                if live[p] and not stays:
                    gone = _leave(p, live, mapping, users, keys, mappings)
                if gone >= 0:
                    free_row[n_freed], free_page[n_freed] = n_kept, gone
                    n_freed += 1
                kind[p], mapping[p] = _kind(flags[at]), map_of[at]
            at += 1
        if i == len(page):
            break
        touched = np.int64(page[i])
        if kind[touched] == _PRIVATE_FILE and store[i]:
            gone = _leave(touched, live, mapping, users, keys, mappings) if live[touched] else np.int64(-1)
            if gone >= 0:
                free_row[n_freed], free_page[n_freed] = n_kept, gone
                n_freed += 1
            kind[touched], mapping[touched] = _ANONYMOUS, NOT_MAPPED  # copied on write
        if mapping[touched] != NOT_MAPPED:
            frame = _file_page(touched, mapping[touched], keys, mappings)
            users[frame] += 1 - live[touched]
            if mapping_of[frame] == NOT_MAPPED:
                mapping_of[frame] = mapping[touched]
            page[i] = n_pages + frame
        if kind[touched] == _ANONYMOUS or mapping[touched] != NOT_MAPPED:
            keep[i] = True
            n_kept += 1
            live[touched] = 1
    return n_kept, n_freed


def page_keys(
    name: str, refs: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the processes, sorted, and the key of each reference's page; TraceError where it has no room."""
    pids, process = number_keys(refs["pid"])
    if len(pids) > MOST_PROCESSES:
        raise TraceError(
            f"{name}: has {len(pids)} processes, at most {MOST_PROCESSES} can be replayed: record fewer"
        )
    key = copied(process, np.int64)
    key <<= VPN_BITS
    vpn = refs["vpn"]
    if len(vpn) and (most := int(vpn.max())) >> VPN_BITS:
        raise TraceError(
            f"{name}: page {most} is beyond any 64-bit address, below {1 << VPN_BITS}: record it again"
        )
    key |= vpn.view(np.int64)
    return pids, key


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


@jit()
def note_kinds(kind, page, store, code):  # type: ignore[no-untyped-def]
    """Set `store` of the references that write, and `code` of the pages that were run."""
    for i in range(len(page)):
        store[i] = kind[i] == _STORE
        if kind[i] == _CODE:
            code[page[i]] = 1
