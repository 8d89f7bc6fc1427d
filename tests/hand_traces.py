"""Small traces of every table, written out by hand: what is in them can be counted on fingers."""

import numpy as np

from kdtool.traces import (
    NO_ROW,
    NO_TIME,
    PREEMPTED,
    AccelKind,
    BlockOp,
    Manifest,
    RefKind,
    SchedEvent,
    TraceWriter,
    VmaFlag,
    schema_of,
)
from kdtool.traces.schema import ADDED_SINCE_1_0

__all__ = ["HOST", "accel_trace", "blockio_trace", "faults_trace", "refs_trace", "sched_trace", "write_trace"]

MS = 1_000_000
RW = VmaFlag.READ | VmaFlag.WRITE
CODE = VmaFlag.READ | VmaFlag.EXEC | VmaFlag.FILE
DATA = VmaFlag.READ | VmaFlag.FILE
GONE = VmaFlag.UNMAPPED

HOST = {
    "kernel_release": "6.18.0",
    "machine": "x86_64",
    "cpu_model": "Some CPU",
    "cpus": 2,
    "memory_bytes": 8 << 30,
    "thp": "madvise",
    "swap": [{"path": "/dev/loop7", "kind": "loop", "rotational": False, "size_bytes": 1 << 30}],
    "page_cluster": 3,
}


def write_trace(path, tables, *, names=(), lost=None, clock="monotonic", state="complete", **about):
    """Write tables of rows, tuples in the order of the schema with names as texts, as a sealed trace.

    A mapping may leave out what was not in schema 1.0.
    """
    with TraceWriter(path) as writer:
        for name in names:
            writer.name_id(name)
        for table, rows in tables.items():
            fields = schema_of(table)
            columns = {}
            for i, field in enumerate(fields):
                left_out = ADDED_SINCE_1_0.get((table, field.name))
                values = [row[i] if i < len(row) else left_out for row in rows]
                if field.name == "name_id":
                    values = [writer.name_id(value) if isinstance(value, str) else value for value in values]
                columns[field.name] = np.array(values, field.type.to_pandas_dtype())
            if rows:
                writer.append(table, columns)
        for table, n in (lost or {}).items():
            writer.lose(table, n)
        collector = about.pop("collector", {"name": "test"})
        return writer.seal(Manifest(state, clock, about.pop("command", ["app"]), collector, **about))


VMAS = [
    (0, 100, 0x10, 0x20, CODE, "/bin/app", NO_ROW),
    (0, 100, 0x100, 0x140, RW, "", NO_ROW),
    (0, 100, 0x200, 0x210, RW, "[heap]", NO_ROW),
    (0, 100, 0x7F0, 0x800, RW, "[stack]", NO_ROW),
    (0, 200, 0x10, 0x20, CODE, "/bin/app", NO_ROW),
    (500 * MS, 100, 0x100, 0x110, DATA, "/usr/lib/libx.so", NO_ROW),
    (600 * MS, 100, 0x120, 0x140, GONE, "", NO_ROW),
]

# ts, pid, tid, cpu, vpn, ip, major                  in which mapping
FAULTS = [
    (100 * MS, 100, 100, 0, 0x10, 0, False),  # file
    (200 * MS, 100, 100, 0, 0x100, 0, False),  # anonymous
    (300 * MS, 100, 100, 0, 0x101, 0, False),  # anonymous
    (400 * MS, 100, 100, 0, 0x102, 0, True),  # anonymous
    (500 * MS, 100, 100, 0, 0x100, 0, True),  # file, since libx.so was just mapped over it
    (600 * MS, 100, 101, 1, 0x103, 0, False),  # file
    (700 * MS, 100, 101, 1, 0x200, 0, False),  # heap
    (800 * MS, 100, 101, 1, 0x7FF, 0, False),  # stack
    (900 * MS, 200, 200, 1, 0x10, 0, False),  # file
    (1000 * MS, 200, 200, 1, 0x11, 0, True),  # file
    (1100 * MS, 200, 200, 1, 0x500, 0, False),  # unknown
]

TASKS = [(0, 100, 100, "sh"), (MS, 100, 100, "app"), (MS, 100, 101, "worker"), (2 * MS, 200, 200, "app")]


def faults_trace(path, **about):
    tables = {"faults": FAULTS, "vmas": VMAS, "tasks": TASKS}
    facts = {"path": "bpf", "lost_in_ring": 4, "late": 1}
    about = {
        "lost": {"faults": 5},
        "command": ["app", "--size", "7"],
        "collector": {
            "name": "faults",
            "sources": {"faults": facts},
            "overhead": {
                "cpu_ns": 23_000,
                "after_cpu_ns": 4_000,
                "added_per_fault_ns": 310,
                "added_per_switch": "not measured: no tracefs",
            },
        },
        "host": HOST,
        "cgroup": {"limit_bytes": 64 << 20},
        "workload": {"ended_by": "command", "exit_code": 0, "wall_ns": 1_234_567_890},
    } | about
    return write_trace(path, tables, **about)


# pid, tid, vpn, ip, kind, insns
REFS = [
    (1, 1, 0x10, 0, RefKind.CODE, 10),
    (1, 1, 0x100, 0, RefKind.LOAD, 20),
    (1, 1, 0x101, 0, RefKind.STORE, 30),
    (1, 2, 0x100, 0, RefKind.LOAD, 5),  # row 3: from here on a file
    (1, 1, 0x102, 0, RefKind.STORE, 40),
    (1, 2, 0x100, 0, RefKind.KERNEL, 6),
]


def refs_trace(path, **about):
    from kdtool.traces import Reduction

    vmas = [
        (0, 1, 0x10, 0x20, CODE, "/bin/app", 0),
        (0, 1, 0x100, 0x110, RW, "", 0),
        (0, 1, 0x100, 0x101, DATA, "/data", 3),
    ]
    about = {"clock": "insns", "reduction": Reduction("sad", 16)} | about
    about.setdefault("collector", {"name": "refs", "sources": {"refs": {"qemu": "7.2", "refs_counted": 600}}})
    return write_trace(path, {"refs": REFS, "vmas": vmas}, **about)


# ts, cpu, event, tid, next_tid, prio, state, target_cpu
SCHED = [
    (0, 0, SchedEvent.SWITCH, 0, 10, 120, 0, -1),
    (100, 0, SchedEvent.WAKING, 10, 11, 120, 0, 1),
    (150, 1, SchedEvent.WAKEUP, 0, 11, 120, 1, 1),
    (200, 1, SchedEvent.SWITCH, 0, 11, 120, 0, -1),  # 11 waited 100
    (300, 0, SchedEvent.SWITCH, 10, 0, 120, 1, -1),  # 10 ran 300
    (400, 1, SchedEvent.WAKING, 11, 10, 120, 0, 0),
    (450, 1, SchedEvent.MIGRATE, 11, 10, 120, 0, 1),
    (500, 1, SchedEvent.SWITCH, 11, 10, 120, PREEMPTED, -1),  # 11 ran 300, 10 waited 100
    (600, 1, SchedEvent.WAKING, 10, 10, 120, 1, 1),  # it runs: it does not wait
    (700, 1, SchedEvent.SWITCH, 10, 11, 120, 0, -1),  # 10 ran 200
    (900, 1, SchedEvent.SWITCH, 11, 10, 120, 1, -1),  # 11 ran 200
    (950, 1, SchedEvent.FORK, 10, 12, -1, 0, -1),
    (1000, 1, SchedEvent.EXIT, 10, -1, 120, 0, -1),
    (1000, 1, SchedEvent.SWITCH, 10, 0, 120, 16, -1),  # 10 ran 100
    (1000, 0, SchedEvent.SWITCH, 0, 99, 120, 0, -1),
    (1100, 0, SchedEvent.SWITCH, 99, 10, 120, 0, -1),  # not of the workload
]


def sched_trace(path, **about):
    tasks = [(0, 10, 10, "main"), (0, 10, 11, "helper")]
    facts = {"path": "tracefs", "unpaired": 3}
    about = {"collector": {"name": "sched", "sources": {"sched": facts}}} | about
    return write_trace(path, {"sched": SCHED, "tasks": tasks}, **about)


DISK, OTHER_DISK = 254 << 20, 7 << 20 | 1
US = 1000
# dev, sector, nr_sectors, op, tid, queue, issue, complete, error
BLOCKIO = [
    (DISK, 1000, 8, BlockOp.READ, 50, 0, 10 * US, 110 * US, 0),
    (DISK, 1008, 8, BlockOp.READ | BlockOp.READAHEAD, 50, 20 * US, 40 * US, 240 * US, 0),  # sequential
    (OTHER_DISK, 1016, 16, BlockOp.WRITE, 51, 30 * US, 31 * US, 1031 * US, 0),
    (DISK, 1016, 16, BlockOp.WRITE | BlockOp.SYNC, 51, 50 * US, 51 * US, 351 * US, -5),  # sequential
    (DISK, 90_000_000, 8, BlockOp.READ, 50, 60 * US, 70 * US, NO_TIME, 0),
    (DISK, 5, 0, BlockOp.FLUSH, 52, NO_TIME, NO_TIME, NO_TIME, 0),
]


def blockio_trace(path, **about):
    return write_trace(path, {"blockio": BLOCKIO, "tasks": [(0, 50, 50, "reader")]}, **about)


# queued, submit, start, end, pid, device, queue, kind, bytes, address, name
ACCEL = [
    (0, 1 * US, 10 * US, 30 * US, 70, 0, 0, AccelKind.H2D, 4096, 0, "write"),
    (5 * US, 6 * US, 20 * US, 60 * US, 70, 0, 0, AccelKind.KERNEL, 0, 0, "matmul"),
    (7 * US, 8 * US, 60 * US, 70 * US, 70, 0, 0, AccelKind.KERNEL, 0, 0, "relu"),
    (9 * US, 9 * US, 100 * US, 120 * US, 70, 0, 0, AccelKind.KERNEL, 0, 0, "matmul"),
    (10 * US, 11 * US, 110 * US, 115 * US, 71, 1, 0, AccelKind.D2H, 1 << 20, 0, "read"),
    (12 * US, 13 * US, 130 * US, NO_TIME, 71, 1, 0, AccelKind.D2H, 4096, 0, "read"),
    (NO_TIME, NO_TIME, 140 * US, 140 * US, 70, 0, 0, AccelKind.GPU_FAULT, 0, 64, 9999),
]


def accel_trace(path, **about):
    return write_trace(path, {"accel": ACCEL, "tasks": [(0, 70, 70, "train")]}, **about)
