"""The columns of every trace table: names, dtypes, units. The one place where they are defined.

Fixed-width columns only; anything with a name goes to the side table `names` and is referred to by
`name_id`. Units end the name: `_ns` is nanoseconds of the clock in the manifest, `vpn` a virtual
page number (virtual address >> 12).
"""

from enum import IntEnum, IntFlag

import pyarrow as pa

__all__ = [
    "ADDED_SINCE_1_0",
    "NO_OFFSET",
    "NO_ROW",
    "NO_TID",
    "NO_TIME",
    "PREEMPTED",
    "SCHEMA_VERSION",
    "TABLES",
    "UNTOLD",
    "AccelKind",
    "BlockOp",
    "RefKind",
    "SchedEvent",
    "VmaFlag",
    "schema_of",
]

SCHEMA_VERSION = "1.6"

NO_ROW = -1
"""`vmas.row` of a mapping in a trace without references."""


NO_OFFSET = -1
"""`vmas.offset_pages` where the recorder does not know, as in traces before schema 1.2."""


NO_TIME = -1
"""A time that the source does not know, such as the completion of a request still in flight."""


NO_TID = -1
"""`blockio.tid` of a request whose arrival the source did not see; `waits.by_tid` where it is not known."""


PREEMPTED = 255
"""`sched.state` of a thread that was switched from inside the kernel while it could have run on."""

UNTOLD = 254
"""`sched.state` of a switch that was not told by the tracepoint, which alone knows it."""


class RefKind(IntEnum):
    """`refs.kind`: who touched the page, and how."""

    LOAD = 0
    STORE = 1
    CODE = 2
    KERNEL = 3


class VmaFlag(IntFlag):
    """`vmas.flags`: protection and kind of a mapping; UNMAPPED rows say that a range went away.

    RANDOM and SEQUENTIAL: it was advised that its pages are read so (madvise).
    """

    READ = 1
    WRITE = 2
    EXEC = 4
    SHARED = 8
    FILE = 16
    UNMAPPED = 32
    RANDOM = 64
    SEQUENTIAL = 128


class VmaAdvice(IntFlag):
    """`vmas.advice` of a mapping: what, beside its flags, neighbours have in common where they are one VMA.

    Its pages are to be huge (MADV_HUGEPAGE) or not (MADV_NOHUGEPAGE, MAP_STACK); no swap is reserved for it.
    """

    HUGEPAGE = 1
    NOHUGEPAGE = 2
    NORESERVE = 4


class SchedEvent(IntEnum):
    """`sched.event`. `tid` is the task on the CPU; `next_tid` the one it is done to, -1 where there is none.

    SWITCH from tid (in `state`) to next_tid, WAKING and WAKEUP of next_tid by tid, MIGRATE of next_tid to
    target_cpu, FORK of next_tid, EXIT of tid. `prio` is the kernel's (120: nice 0) of next_tid (EXIT: of tid;
    FORK: -1). A WAKEUP happens on the CPU that takes next_tid in: tid is often its idle task, 0; who woke it
    is in the WAKING before. `state`: SWITCH: what tid became: 1 S, 2 D, 4 T, 8 t, 16 X, 32 Z, 64 P, 128 I;
    or it could have run on: 255 preempted in the kernel, 0 on its way to user mode or by yielding; 254: not
    told.
    WAKING, WAKEUP and MIGRATE: 1 when an interrupt did it, to which tid only lent its CPU.
    """

    SWITCH = 0
    WAKING = 1
    WAKEUP = 2
    MIGRATE = 3
    FORK = 4
    EXIT = 5


class BlockOp(IntFlag):
    """`blockio.op`: the operation in the low four bits, how it was asked for above them.

    FLUSH is a flush alone; a write that flushes before is a WRITE. OTHER: zeroes, zones, passed through.
    """

    READ = 0
    WRITE = 1
    FLUSH = 2
    DISCARD = 3
    OTHER = 4
    READAHEAD = 16
    SYNC = 32
    META = 64
    FUA = 128


class AccelKind(IntEnum):
    """`accel.kind`: what the device did."""

    KERNEL = 0
    H2D = 1
    D2H = 2
    D2D = 3
    MEMSET = 4
    CPU_FAULT = 5
    GPU_FAULT = 6
    MIGRATE = 7


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in columns.items()])


TABLES: dict[str, pa.Schema] = {
    "faults": _schema(
        ts_ns=pa.int64(),
        pid=pa.int32(),
        tid=pa.int32(),
        cpu=pa.int16(),
        vpn=pa.uint64(),
        ip=pa.uint64(),
        major=pa.bool_(),
    ),
    # In global order. `insns` is the thread's instructions so far: the virtual clock.
    "refs": _schema(
        pid=pa.int32(),
        tid=pa.int32(),
        vpn=pa.uint64(),
        ip=pa.uint64(),
        kind=pa.uint8(),
        insns=pa.uint64(),
    ),
    # `row`: the change came before this row of `refs` (NO_ROW in a trace without references).
    # `offset_pages`: where in its file the mapping starts (NO_OFFSET: unknown); of UNMAPPED rows the page
    # that mremap() moved the first one to (0 or NO_OFFSET: to none).
    "vmas": _schema(
        ts_ns=pa.int64(),
        pid=pa.int32(),
        start_vpn=pa.uint64(),
        end_vpn=pa.uint64(),
        flags=pa.uint8(),
        name_id=pa.uint32(),
        row=pa.int64(),
        offset_pages=pa.int64(),
        advice=pa.uint8(),
    ),
    # A process `pid` that begins with the address space of `parent`, after `row` rows of `refs` and `vma_row`
    # of `vmas`, its own among them. A child of vfork() is its parent until it execs.
    "forks": _schema(
        ts_ns=pa.int64(),
        pid=pa.int32(),
        parent=pa.int32(),
        row=pa.int64(),
        vma_row=pa.int64(),
    ),
    # A sleep of `tid` in a system call. It ended after `row` rows of `refs`, for what `by_tid` (NO_TID: not
    # known) did after `by_row` of them; or by the clock: `asked_ns` is how long it had asked to sleep.
    "waits": _schema(
        ts_ns=pa.int64(),
        pid=pa.int32(),
        tid=pa.int32(),
        row=pa.int64(),
        by_tid=pa.int32(),
        by_row=pa.int64(),
        asked_ns=pa.int64(),
    ),
    # After this row of `refs` its page left the reduction's window (without reduction: another page was
    # referenced), had been stored to in it, and was full of zeros. A trace that lacks the table does not say
    # what pages hold.
    "zeros": _schema(row=pa.int64()),
    "sched": _schema(
        ts_ns=pa.int64(),
        cpu=pa.int16(),
        event=pa.uint8(),
        tid=pa.int32(),
        next_tid=pa.int32(),
        prio=pa.int32(),
        state=pa.uint8(),
        target_cpu=pa.int16(),
    ),
    # `dev` is major << 20 | minor of the disk, also where a partition was meant. Sectors are 512 bytes.
    # `error` is 0 or a negative errno. What the times and `tid` are of: blockio/matcher.py.
    "blockio": _schema(
        dev=pa.uint32(),
        sector=pa.uint64(),
        nr_sectors=pa.uint32(),
        op=pa.uint8(),
        tid=pa.int32(),
        queue_ns=pa.int64(),
        issue_ns=pa.int64(),
        complete_ns=pa.int64(),
        error=pa.int16(),
    ),
    "accel": _schema(
        queued_ns=pa.int64(),
        submit_ns=pa.int64(),
        start_ns=pa.int64(),
        end_ns=pa.int64(),
        pid=pa.int32(),
        device=pa.int16(),
        queue=pa.uint32(),
        kind=pa.uint8(),
        bytes=pa.uint64(),
        address=pa.uint64(),
        name_id=pa.uint32(),
    ),
    # What a thread is called from `ts_ns` on.
    "tasks": _schema(ts_ns=pa.int64(), pid=pa.int32(), tid=pa.int32(), name_id=pa.uint32()),
    "names": pa.schema(
        [pa.field("name_id", pa.uint32(), nullable=False), pa.field("name", pa.string(), nullable=False)]
    ),
}


ADDED_SINCE_1_0: dict[tuple[str, str], int] = {
    ("vmas", "offset_pages"): NO_OFFSET,
    ("vmas", "advice"): 0,
}
"""Columns that older traces of this major version lack, and what is read instead."""


def schema_of(table: str) -> pa.Schema:
    """Return the Arrow schema of `table`; KeyError is a bug of the caller, not of the user."""
    return TABLES[table]
