"""Faults on mapped pages of files: what is read around them, what is mapped beside them.

Follows mm/filemap.c (filemap_fault(), do_sync_mmap_readahead(), do_async_mmap_readahead(),
filemap_map_pages()), mm/memory.c (do_read_fault(), do_fault_around()) and mm/readahead.c of v6.18:

    not in memory   a major fault. Read around: `ra_pages` centred on it, the last quarter behind the marker;
                    of executable code from it on, to the end of the mapping, without a marker. By
                    MADV_SEQUENTIAL the window of a read of `ra_pages` (policies/linux_file.py). Alone by
                    MADV_RANDOM, or when the file has had MMAP_LOTSAMISS more misses than it was forgiven
    in memory       a minor fault, and a wait if it is still being read. A page with the marker asks for the
                    next window, which nobody waits for
    mapped beside   FAULT_AROUND pages, aligned as addresses are, of those that are in memory, read and
                    without the marker; their accessed bits are set (x86). Each that did not come back as
                    one of the working set forgives a miss
    unmapped        an accessed page is marked as zap_pte_range() does: folio_mark_accessed()

Differs from the kernel: single pages, where ext4 and XFS read windows behind a marker in larger folios; a
page that several processes map has one accessed bit, and who touches it first maps it for all; read(2) is not
there; a private page's first store copies it without reading it. Files lie on a device like that of swap, and
share it.
"""

import numpy as np

from kdtool.replay.blockqueue import submit_io
from kdtool.replay.filemaps import (
    ADVICE,
    END,
    FILE_OF,
    FIRST,
    FIRST_ID,
    HIGH,
    LOW,
    MMAP_MISS,
    RA_STATE,
    RA_WORDS,
    VPN_SHIFT,
)
from kdtool.replay.memory import (
    ACCESSED,
    ACTIVE,
    CACHE_HITS,
    EXECUTABLE,
    FILE_IN,
    FILE_MAJOR,
    FILE_OUT,
    FILE_READ,
    FIRST_FILE,
    HAS_BITS,
    LATE,
    LINUX,
    MAJOR,
    MAJOR_NS,
    MINOR,
    MINOR_NS,
    NOW_NS,
    PREFETCH_NS,
    READAHEAD,
    RECLAIM_KIND,
    REFERENCED,
    RESIDENT,
    WAITED_NS,
    WORKED_NS,
    WORKINGSET,
)
from kdtool.replay.policies.linux_file import NO_MARKER, async_window, sync_window
from kdtool.replay.reclaim import add_page, make_room, touch, try_room
from kdtool.replay.shrink import activate
from kdtool.replay.writeends import sleep
from kdtool.rmt.jit import inner
from kdtool.traces import VmaFlag

__all__ = ["file_fault", "unmap_file_page"]

MMAP_LOTSAMISS, MOST_MISSES = 100, 1000
FAULT_AROUND = 16
"""fault_around_bytes as Linux ships it, 64 KiB."""
PTRS_PER_PTE = 512
MAX_ORDER = 0
BEING_READ = 1 << 62
_EXEC, _RANDOM, _SEQUENTIAL = int(VmaFlag.EXEC), int(VmaFlag.RANDOM), int(VmaFlag.SEQUENTIAL)


@inner
def _now(compute_ns, scalars):  # type: ignore[no-untyped-def]
    return compute_ns + scalars[WAITED_NS] + scalars[WORKED_NS]


@inner
def _wait(page, compute_ns, memory):  # type: ignore[no-untyped-def]
    """Wait for the page's read; return whether it took any time."""
    ready_ns, scalars = memory[5], memory[6]
    now_ns = _now(compute_ns, scalars)
    late = ready_ns[page] > now_ns
    sleep(now_ns, ready_ns[page], memory)
    scalars[NOW_NS] = _now(compute_ns, scalars)
    return late


@inner
def _begin_read(page, is_marked, memory):  # type: ignore[no-untyped-def]
    """Put a page that room was taken for into memory, not read yet."""
    memory[0][page] = FILE_IN
    memory[5][page] = BEING_READ
    add_page(page, np.uint8(0), np.uint8(0), memory)
    if is_marked:
        memory[8][page] |= READAHEAD


@inner
def _submit(first, last, compute_ns, memory, device):  # type: ignore[no-untyped-def]
    """Read those of the pages [first, last) that wait to be: all are ready when the last one is."""
    ready_ns, scalars = memory[5], memory[6]
    now_ns = _now(compute_ns, scalars)
    done = now_ns
    for page in range(first, last):
        if ready_ns[page] == BEING_READ:
            # Behind the swap area: neighbours in a file are neighbours on the device.
            done = submit_io(len(memory[4]) + page, now_ns, scalars, device)
            scalars[WORKED_NS] += device[PREFETCH_NS]
            memory[7][FILE_READ] += 1
    for page in range(first, last):
        if ready_ns[page] == BEING_READ:
            ready_ns[page] = done


@inner
def _read_window(file, start, size, marker, compute_ns, capacity, memory, device):  # type: ignore[no-untyped-def]
    """Read what is not in memory of the file's pages [start, start + size): page_cache_ra_unbounded()."""
    low = max(start, file[LOW])
    first = memory[6][FIRST_FILE] + file[FIRST_ID] + low - file[LOW]
    last = first + max(min(start + size, file[HIGH]) - low, 0)
    marked = first + marker - low if marker != NO_MARKER else NO_MARKER
    for page in range(first, last):
        if memory[0][page] != FILE_OUT:
            continue
        if not try_room(capacity, memory, device):
            break
        _begin_read(page, page == marked, memory)
    _submit(first, last, compute_ns, memory, device)


@inner
def _cached_before(page, most, memory):  # type: ignore[no-untyped-def]
    """Return how many pages right before the page are in memory, `most` at most."""
    n = 0
    while n < most and memory[0][page - 1 - n] != FILE_OUT:
        n += 1
    return n


@inner
def _sync_readahead(page, index, ra_pages, mapping, file, compute_ns, capacity, memory, device):  # type: ignore[no-untyped-def]
    """Read around a page that is not in memory, or nothing: do_sync_mmap_readahead()."""
    state = file[RA_STATE : RA_STATE + RA_WORDS]
    advice = mapping[ADVICE]
    if advice & (_RANDOM | _EXEC) == _RANDOM or ra_pages == 0:
        return
    if advice & _SEQUENTIAL:
        before = _cached_before(page, min(index - file[LOW], ra_pages), memory)
        start, size, marker = sync_window(
            state, index, ra_pages, np.int64(-1), before, False, ra_pages, ra_pages, MAX_ORDER
        )
        _read_window(file, start, size, marker, compute_ns, capacity, memory, device)
        return
    file[MMAP_MISS] = min(file[MMAP_MISS] + 1, MOST_MISSES)
    if file[MMAP_MISS] > MMAP_LOTSAMISS:
        return
    state[0], state[1], state[2], state[3] = max(index - ra_pages // 2, 0), ra_pages, ra_pages // 4, 0
    marker = state[0] + state[1] - state[2]
    if advice & _EXEC:
        end = index + memory[6][FIRST_FILE] + mapping[END] - page
        state[0], state[1], state[2], marker = index, min(ra_pages, end - index), 0, NO_MARKER
    _read_window(file, state[0], state[1], marker, compute_ns, capacity, memory, device)


@inner
def _async_readahead(page, index, ra_pages, file, compute_ns, capacity, memory, device):  # type: ignore[no-untyped-def]
    """Ask for the next window as the marker is used: page_cache_async_ra()."""
    status, ready_ns, marks = memory[0], memory[5], memory[8]
    marks[page] &= ~READAHEAD
    hole = index + 1
    while hole < file[HIGH] and hole - index <= ra_pages and status[page + hole - index] != FILE_OUT:
        hole += 1
    state = file[RA_STATE : RA_STATE + RA_WORDS]
    start, size, marker = async_window(
        state, index, ra_pages, hole, np.int64(1), ra_pages, ra_pages, MAX_ORDER
    )
    ready = ready_ns[page]
    ready_ns[page] = BEING_READ - 1  # somebody holds it: reclaim leaves it alone
    _read_window(file, start, size, marker, compute_ns, capacity, memory, device)
    ready_ns[page] = ready


@inner
def _map_page(page, store, mapping, memory):  # type: ignore[no-untyped-def]
    """Map a page in memory, accessed."""
    memory[0][page] = RESIDENT
    memory[3][page] = EXECUTABLE if mapping[ADVICE] & _EXEC else -1
    touch(page, store, memory)


@inner
def _map_around(page, store, mapping, file, memory):  # type: ignore[no-untyped-def]
    """Map a page and those around it that are ready: do_fault_around(), filemap_map_pages()."""
    status, ready_ns, scalars, marks = memory[0], memory[5], memory[6], memory[8]
    files = scalars[FIRST_FILE]
    vpn = page - files - mapping[VPN_SHIFT]
    begin = max(vpn // FAULT_AROUND * FAULT_AROUND, mapping[FIRST] - mapping[VPN_SHIFT])
    end = min(
        begin + FAULT_AROUND, (vpn // PTRS_PER_PTE + 1) * PTRS_PER_PTE, mapping[END] - mapping[VPN_SHIFT]
    )
    forgiven = 0
    for near in range(begin + files + mapping[VPN_SHIFT], end + files + mapping[VPN_SHIFT]):
        ready = status[near] == RESIDENT or (status[near] == FILE_IN and ready_ns[near] <= scalars[NOW_NS])
        if not ready or marks[near] & READAHEAD:
            continue
        forgiven += marks[near] & WORKINGSET == 0
        if near != page and status[near] == FILE_IN:
            _map_page(near, np.uint8(0), mapping, memory)
    file[MMAP_MISS] = max(file[MMAP_MISS] - forgiven, 0)
    _map_page(page, store, mapping, memory)


@inner
def _minor_fault(page, index, ra_pages, store, file, compute_ns, capacity, memory, device):  # type: ignore[no-untyped-def]
    """A page in memory is touched that is not mapped: what filemap_fault() does before it maps it."""
    ready_ns, scalars, marks = memory[5], memory[6], memory[8]
    memory[7][MINOR] += 1
    memory[7][CACHE_HITS] += 1
    scalars[WORKED_NS] += device[MINOR_NS]
    scalars[NOW_NS] = _now(compute_ns, scalars)
    in_flight = ready_ns[page] > scalars[NOW_NS]
    if not in_flight and (store or marks[page] & READAHEAD) and file[MMAP_MISS]:
        file[MMAP_MISS] -= 1
    if marks[page] & READAHEAD:
        _async_readahead(page, index, ra_pages, file, compute_ns, capacity, memory, device)
    memory[7][LATE] += _wait(page, compute_ns, memory)


@inner
def file_fault(row, page, compute_ns, capacity, trace, memory, device, files):  # type: ignore[no-untyped-def]
    """Handle an access to a page of a file that is not mapped; return whether it had to be read."""
    file_rows, mappings, mapping_of, ra_pages = files[0], files[1], files[2], files[3]
    status, scalars = memory[0], memory[6]
    mapping = mappings[mapping_of[page - scalars[FIRST_FILE]]]
    file = file_rows[mapping[FILE_OF]]
    index = page - scalars[FIRST_FILE] - file[FIRST_ID] + file[LOW]
    store, major = trace[2][row], status[page] == FILE_OUT
    if major:
        memory[7][MAJOR] += 1
        memory[7][FILE_MAJOR] += 1
        scalars[WORKED_NS] += device[MAJOR_NS]
        scalars[NOW_NS] = _now(compute_ns, scalars)
        _sync_readahead(page, index, ra_pages, mapping, file, compute_ns, capacity, memory, device)
        if status[page] == FILE_OUT:
            make_room(capacity, memory, device)
            _begin_read(page, False, memory)
            _submit(page, page + 1, compute_ns, memory, device)
        _wait(page, compute_ns, memory)
    else:
        _minor_fault(page, index, ra_pages, store, file, compute_ns, capacity, memory, device)
    if store:
        _map_page(page, store, mapping, memory)
    else:
        _map_around(page, store, mapping, file, memory)
    return major


@inner
def unmap_file_page(page, memory):  # type: ignore[no-untyped-def]
    """Unmap a page of a file that stays in memory, after its last user."""
    status, scalars, marks = memory[0], memory[6], memory[8]
    if status[page] != RESIDENT:
        return
    status[page] = FILE_IN
    memory[5][page] = 0
    if not scalars[RECLAIM_KIND] & HAS_BITS or not marks[page] & ACCESSED:
        return
    marks[page] &= ~ACCESSED
    if not marks[page] & REFERENCED:
        marks[page] |= REFERENCED
    elif scalars[RECLAIM_KIND] == LINUX and not marks[page] & ACTIVE:
        activate(page, np.int64(1), memory)
        marks[page] &= ~REFERENCED
