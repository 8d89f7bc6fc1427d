"""The key of a page, its process and its address in it; and the kinds of pages that a mapping may have."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError
from kdtool.replay.longarrays import copied
from kdtool.replay.numbering import number_keys

__all__ = ["ANONYMOUS", "FILE", "PRIVATE_FILE", "SHARED", "VPN_BITS", "VPN_MASK", "page_keys"]

VPN_BITS = 52
"""A page's key is its process's index << VPN_BITS | vpn: 2**52 pages cover any 64-bit address."""
VPN_MASK = (1 << VPN_BITS) - 1
MOST_PROCESSES = 1 << (63 - VPN_BITS)
"""A key has a sign."""

ANONYMOUS, SHARED, FILE, PRIVATE_FILE = range(4)
"""Anonymous pages, private or of a shared mapping; a file's; a file's that a store copies. See mapped.py."""


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
