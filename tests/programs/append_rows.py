"""Append batches of numbered rows to a trace until killed; print a batch's last row once it is appended."""

import sys

import numpy as np

from kdtool.traces import Manifest, TraceWriter, spool

path, batch_rows, segment_rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spool.SEGMENT_ROWS = segment_rows
with TraceWriter(path) as writer:
    writer.draft(Manifest("complete", "monotonic", ["append"], {"name": "append"}), {"sched": 7})
    first = 0
    while True:
        rows = np.arange(first, first + batch_rows)
        columns = {"ts_ns": rows, "cpu": rows % 3, "event": rows % 6, "tid": rows, "next_tid": rows}
        writer.name_id(f"name {first}")
        writer.append("sched", columns | {"prio": rows, "state": rows % 7, "target_cpu": rows % 2})
        first += batch_rows
        print(first, flush=True)
