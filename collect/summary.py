"""What `kdtool collect` says while and after it records."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdtool.traces import Trace

__all__ = ["describe_recording", "live_line", "print_recording"]

QUIET_S = 2.0
"""Recordings shorter than this show no live line."""
REFRESH_S = 1.0


def describe_recording(trace: Trace) -> dict[str, Any]:
    """Return the document of `kdtool collect --json`."""
    manifest = trace.manifest
    return {
        "trace": str(trace.path),
        "state": manifest.state,
        "tables": {
            name: {"rows": info.rows, "counted": info.counted, "lost": info.lost, "bytes": info.bytes}
            for name, info in manifest.tables.items()
        },
        "workload": manifest.workload,
        "cgroup": manifest.cgroup,
        "collector": manifest.collector,
    }


def print_recording(trace: Trace) -> None:
    """Print one line: rows and losses of the main table, majors, exit code."""
    manifest = trace.manifest
    table = next(name for name in ("faults", "refs") if name in manifest.tables)
    info = manifest.tables[table]
    parts = [f"{trace.path}: {info.rows:,} {table}", f"{info.lost:,} lost"]
    if table == "faults":
        major = trace.columns("faults", ["major"])["major"]
        parts.append(f"{int(major.sum()):,} major")
    if manifest.workload.get("exit_code") is not None:
        parts.append(f"exit code {manifest.workload['exit_code']}")
    print(", ".join(parts))


@contextmanager
def live_line() -> Iterator[None]:
    """Show on a terminal's standard error for how long the block has lasted."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(ended: threading.Event) -> None:
    start = time.monotonic()
    if ended.wait(QUIET_S):
        return
    while not ended.wait(REFRESH_S):
        seconds = int(time.monotonic() - start)
        print(f"\r\033[Kkdtool: recording, {seconds} s; Ctrl-C ends it", end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr, flush=True)
