"""What the kernel tells of block devices, in one form, whoever recorded it.

    a bio       QUEUE - REMAP, SPLIT - GETRQ: a request is made of it, or BACKMERGE, FRONTMERGE: one takes it
    a request   MERGE into the one before it - ISSUE - REQUEUE - COMPLETE, of a part or of all

Unit of work: an event. Kernel counterpart: include/trace/events/block.h; the letters (`rwbs`) are those of
blk_fill_rwbs() in kernel/trace/blktrace.c, v6.18, and of fill_rwbs() in blkparse. Not done here: which events
belong together.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from kdtool.traces.schema import BlockOp

__all__ = [
    "DEVICE_FLUSH",
    "EVENT",
    "OPERATION",
    "PREFLUSH",
    "ROW_OP",
    "BlockEvent",
    "Events",
    "op_of",
]

OPERATION = 0x0F
"""The bits of an `op` that say what is done; all events of a request agree in them."""
ROW_OP = 0xFF
"""The bits of an event's `op` that a row keeps."""
PREFLUSH = 0x100
"""Of an event's `op` alone: the device is flushed before the data is written."""
DEVICE_FLUSH = 0x0F
"""The operation of the flush that the kernel itself sends to a device, one for all who asked."""

EVENT = np.dtype(
    [
        ("ts_ns", "i8"),
        ("event", "u1"),
        ("dev", "u4"),
        ("sector", "u8"),
        ("nr_sectors", "u4"),
        ("op", "u2"),
        ("tid", "i4"),
        ("other", "i8"),
        ("old_dev", "u4"),
    ]
)
"""One event. `other`: of SPLIT where the rest begins, of REMAP the sector on `old_dev`, of COMPLETE the error
(0, or a negative errno). `tid` counts in events of bios only."""

Events = npt.NDArray[np.void]
"""A structured array with the fields of EVENT, and maybe more."""

LETTERS = {"R": BlockOp.READ, "W": BlockOp.WRITE, "D": BlockOp.DISCARD, "F": BlockOp.FLUSH}
FLAGS = {"F": BlockOp.FUA, "A": BlockOp.READAHEAD, "S": BlockOp.SYNC, "M": BlockOp.META}
TWO_LETTERS = ("DE", "WZ", "ZA", "ZR", "ZF", "ZO", "ZC")
"""Secure erase, write zeroes, and operations on zones: their second letter is no flag."""


class BlockEvent(IntEnum):
    """What happened. Events of bios happen in the task that submits them, others wherever it is.

    ANY_MERGE : BACKMERGE or MERGE, of a source that does not tell which (blktrace)
    """

    QUEUE = 0
    REMAP = 1
    SPLIT = 2
    GETRQ = 3
    BACKMERGE = 4
    FRONTMERGE = 5
    MERGE = 6
    ISSUE = 7
    REQUEUE = 8
    COMPLETE = 9
    ANY_MERGE = 10


def op_of(rwbs: str, *, empty: bool) -> int:
    """Return the `op` of an event: BlockOp and PREFLUSH, or DEVICE_FLUSH.

    empty : the event has no sectors. A write of nothing is a flush that a task asked for, or its end; another
        operation without sectors passes through to the device (OTHER), the kernel's own flush apart.

    >>> op_of("WFS", empty=False) == BlockOp.WRITE | BlockOp.FUA | BlockOp.SYNC
    True
    >>> op_of("FWS", empty=True) == BlockOp.FLUSH | BlockOp.SYNC
    True
    >>> op_of("FF", empty=True) == op_of("FN", empty=True) == DEVICE_FLUSH
    True
    """
    flush_first = len(rwbs) > 1 and rwbs[0] == "F" and rwbs[1] in "RWDFNZ"
    body = rwbs[1:] if flush_first else rwbs
    letter, flags = body[:1], body[1:]
    operation = int(LETTERS.get(letter, BlockOp.OTHER))
    if body[:2] in TWO_LETTERS:
        flags = body[2:]
        operation = int(BlockOp.DISCARD if letter == "D" else BlockOp.OTHER)
    if empty:
        if letter == "F" or (flush_first and letter == "N"):
            return DEVICE_FLUSH
        operation = int(BlockOp.FLUSH if operation == BlockOp.WRITE else BlockOp.OTHER)
    elif flush_first:
        operation |= PREFLUSH
    for flag in flags:
        operation |= FLAGS.get(flag, 0)
    return operation
