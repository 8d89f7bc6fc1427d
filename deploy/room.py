"""Room in the workload's memory: made by the agent ahead of its calls, so that no charge has to reclaim.

    usage > limit - LOW_PAGES? ──► v2: memory.reclaim ◄─ FREE_PAGES
                                   v1: memory.limit_in_bytes ◄─ limit - FREE_PAGES, and at once ◄─ limit

At the limit a page is charged by reclaiming first, 0.2 to 0.8 ms, while its place in the swap cache is
reserved and empty: who touches it then sleeps for one or two ticks (__read_swap_cache_async,
mm/swap_state.c, v6.18). That goes for the pages of a call as for those of a fault. Which pages go is the
kernel's choice as before. v1 has no other file by which it reclaims: a limit is changed so only if it is
ours, and guard.py puts it back, too.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kdtool.deploy.layout import (
    FREE_FD,
    FREE_LENGTH,
    FREE_TEXT,
    FULL_BYTES,
    KEEP_LENGTH,
    KEEP_TEXT,
    ROOM_NS,
    ROOMS,
    USAGE_FD,
    USAGE_TEXT,
    USAGE_WORDS,
    Arrays,
)
from kdtool.deploy.machine import call_pread, call_pwrite, now
from kdtool.kernel.memcg import MemoryCgroup
from kdtool.rmt.agentrules import FREE_PAGES, LEAST_SHARE, LOW_PAGES
from kdtool.rmt.jit import jit
from kdtool.traces import PAGE_BYTES

__all__ = ["make_room", "room_in"]


@contextmanager
def room_in(memory: MemoryCgroup | None, arrays: Arrays) -> Iterator[None]:
    """Have the loop keep room in `memory` while the program acts, for the block; None: in none."""
    limit = None if memory is None else memory.limit_bytes
    if memory is None or limit is None or limit < LEAST_SHARE * FREE_PAGES * PAGE_BYTES:
        yield
        return
    settings = arrays.settings
    free_text, keep_text = memory.reclaim_texts(FREE_PAGES * PAGE_BYTES)
    texts = ctypes.create_string_buffer(free_text + keep_text)
    with ExitStack() as stack:
        usage, free = (os.open(file, flags) for file, flags in memory.reclaim_files())
        stack.callback(os.close, usage)
        stack.callback(os.close, free)
        if keep_text:  # the loop's own write may have met a signal
            stack.callback(os.pwrite, free, keep_text, 0)
        settings[[FREE_FD, FREE_TEXT, FREE_LENGTH]] = free, ctypes.addressof(texts), len(free_text)
        settings[[KEEP_TEXT, KEEP_LENGTH]] = settings[FREE_TEXT] + len(free_text), len(keep_text)
        settings[FULL_BYTES] = limit - LOW_PAGES * PAGE_BYTES
        settings[USAGE_FD] = usage
        yield
        settings[USAGE_FD] = -1


@jit(nogil=True)
def make_room(settings, counters, scratch):  # type: ignore[no-untyped-def]
    """Have the kernel reclaim if there is too little room; return whether there was."""
    if settings[USAGE_FD] < 0 or _usage(settings, scratch) <= settings[FULL_BYTES]:
        return False
    began_ns = now(scratch)
    call_pwrite(settings[FREE_FD], settings[FREE_TEXT], settings[FREE_LENGTH], 0)
    if settings[KEEP_LENGTH]:
        call_pwrite(settings[FREE_FD], settings[KEEP_TEXT], settings[KEEP_LENGTH], 0)
    counters[ROOMS] += 1
    counters[ROOM_NS] += now(scratch) - began_ns
    return True


@jit(nogil=True)
def _usage(settings, scratch):  # type: ignore[no-untyped-def]
    """Return the bytes charged: a number in ASCII, at most 20 digits and a newline."""
    n = call_pread(settings[USAGE_FD], scratch.ctypes.data + 8 * USAGE_TEXT, 8 * USAGE_WORDS, 0)
    value = 0
    for i in range(n - 1):
        digit = (scratch[USAGE_TEXT + i // 8] >> (8 * (i % 8))) & 0xFF
        value = 10 * value + digit - 48
    return value
