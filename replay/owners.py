"""Which page of memory each process's page is while processes share pages: see sharing.py.

    current[key]     the id it is, or was when it was unmapped; GONE: noted as none
    users[id]        how many keys and held pages are it; an id that nobody is may be given again
    spare            ids of copies to be given again
    copies           (kept row, id): a store of this row copies the page `id`
    notes            (key, row, id): from this row on the key is `id`
    counts           how far the walk over the references has come

In a trace without forks and moves all of them are empty.
"""

import numpy as np

from kdtool.replay.filemaps import NOT_MAPPED
from kdtool.replay.keys import ANONYMOUS, SHARED, VPN_MASK
from kdtool.rmt.jit import inner, jit

__all__ = [
    "CHANGE",
    "GONE",
    "N_COPIES",
    "N_COUNTS",
    "N_FREED",
    "N_IDS",
    "N_KEPT",
    "N_NOTES",
    "N_SPARE",
    "ROW",
    "begin_shared",
    "inherit",
    "leave_keys",
    "leave_page",
    "page_of_key",
]

# Indexes into `counts`.
ROW, CHANGE, N_KEPT, N_FREED, N_COPIES, N_IDS, N_SPARE, N_NOTES, N_COUNTS = range(9)
GONE = -1
"""A key that is no page now, though the one that it was may live on."""


@inner
def _note(key, page, row, owners):  # type: ignore[no-untyped-def]
    """Note that from this row on, of those kept, the key is another page."""
    current, _, _, _, _, note_key, note_row, note_page, counts = owners
    if current[key] != page:
        current[key] = page
        at = counts[N_NOTES]
        note_key[at], note_row[at], note_page[at] = key, row + counts[N_COPIES], page
        counts[N_NOTES] = at + 1


@inner
def _new_page(key, row, owners):  # type: ignore[no-untyped-def]
    """Give the key a page that nobody has: its own if nobody else is left there."""
    _, users, spare, _, _, _, _, _, counts = owners
    page = np.int64(key)
    if users[page]:
        if counts[N_SPARE]:
            counts[N_SPARE] -= 1
            page = np.int64(spare[counts[N_SPARE]])
        else:
            page = counts[N_IDS]
            counts[N_IDS] += 1
    users[page] = 1
    _note(key, page, row, owners)
    return page


@inner
def page_of_key(key, writes, row, kind, live, owners):  # type: ignore[no-untyped-def]
    """Return the page that a touched key is: a new one if it was none, or is written while others have it."""
    current, users, _, copy_row, copy_page, _, _, _, counts = owners
    page = np.int64(current[key])
    if live[key]:
        if not writes or kind[key] != ANONYMOUS or users[page] == 1:
            return page
        users[page] -= 1
        at = counts[N_COPIES]
        copy_row[at], copy_page[at] = row, page
        counts[N_COPIES] = at + 1
    return _new_page(key, row, owners)


@inner
def leave_page(key, row, owners):  # type: ignore[no-untyped-def]
    """Take the key's page away; return it if nobody has it any more, else -1."""
    current, users, spare, _, _, _, _, _, counts = owners
    page = np.int64(current[key])
    users[page] -= 1
    if users[page] or page != key:
        _note(key, GONE, row, owners)
    if users[page]:
        return np.int64(-1)
    if page >= len(current):
        spare[counts[N_SPARE]] = page
        counts[N_SPARE] += 1
    return page


@jit()
def begin_shared(first, last, kind, live, mapping, owners):  # type: ignore[no-untyped-def]
    """Give untouched keys of [first, last) in shared mappings their pages, before a child has them."""
    for key in range(first, last):
        if kind[key] == SHARED and not live[key] and mapping[key] == NOT_MAPPED:
            live[key] = 1
            _new_page(key, owners[8][N_KEPT], owners)


@jit()
def leave_keys(keys, live, owners):  # type: ignore[no-untyped-def]
    """Have keys be no page, though those that they were live on."""
    users, counts = owners[1], owners[8]
    for i in range(len(keys)):
        key = np.int64(keys[i])
        live[key] = 0
        users[owners[0][key]] -= 1
        _note(key, GONE, counts[N_KEPT], owners)


@jit()
def inherit(vpn, page, kinds, first, last, keys, kind, live, mapping, touched, owners):  # type: ignore[no-untyped-def]
    """Have a child, with keys [first, last), share pages by rising vpn; set `touched` where it has a key."""
    users, at = owners[1], first
    for i in range(len(vpn)):
        while at < last and keys[at] & VPN_MASK < vpn[i]:
            at += 1
        touched[i] = at < last and keys[at] & VPN_MASK == vpn[i]
        if touched[i] and live[at]:  # of a process of this pid that nobody saw end
            continue
        users[page[i]] += 1
        if touched[i]:
            kind[at], live[at], mapping[at] = kinds[i], 1, NOT_MAPPED
            _note(at, page[i], owners[8][N_KEPT], owners)
