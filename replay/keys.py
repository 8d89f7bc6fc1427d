"""The key of a page, its process and its address in it; and the kinds of pages that a mapping may have."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.longarrays import COPY_ROWS, writable
from kdtool.replay.numbering import number_own

__all__ = ["ANONYMOUS", "FILE", "SHARED", "UNWRITTEN", "VPN_BITS", "VPN_MASK", "page_keys"]

VPN_BITS = 52
"""A page's key is its process's index << VPN_BITS | vpn: 2**52 pages cover any 64-bit address."""
VPN_MASK = (1 << VPN_BITS) - 1
MOST_PROCESSES = 1 << (63 - VPN_BITS)
"""A key has a sign."""

ANONYMOUS, SHARED, FILE, UNWRITTEN = range(4)
"""Anonymous pages, private or of a shared mapping; a file's; a private page until the first store to it: a
file's, or the one zero page of the kernel. See mapped.py."""


def page_keys(
    name: str, refs: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the processes, sorted, and the key of each reference's page, which is written over its vpn.

    Raises TraceError where a key has no room for them.
    """
    pids, process = number_own(writable(refs["pid"]))
    if len(pids) > MOST_PROCESSES:
        raise TraceError(
            f"{name}: has {len(pids)} processes, at most {MOST_PROCESSES} can be replayed: record fewer"
        )
    key = writable(refs["vpn"].view(np.int64))
    if len(key) and (most := int(key.view(np.uint64).max())) >> VPN_BITS:
        raise TraceError(
            f"{name}: page {most} is beyond any 64-bit address, below {1 << VPN_BITS}: record it again"
        )
    for start in range(0, len(key) if len(pids) > 1 else 0, COPY_ROWS):
        part = slice(start, start + COPY_ROWS)
        key[part] |= process[part].astype(np.int64) << VPN_BITS
    return pids, key
