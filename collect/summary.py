"""What `kdtool collect` says while and after it records."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdtool.collect.base import Progress
from kdtool.collect.session import Show, show_nothing
from kdtool.traces import Trace

__all__ = ["describe_recording", "live_line", "print_recording"]

QUIET_S = 2.0
"""Recordings shorter than this show no live line."""
REFRESH_S = 0.5


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
    """Print one line: rows and losses of each kind of events, majors, exit code."""
    manifest = trace.manifest
    side = ("vmas", "forks", "waits", "zeros", "tasks", "names")
    parts = [
        f"{info.rows:,} {table}" + (f" ({info.lost:,} lost)" if info.lost else "")
        for table, info in manifest.tables.items()
        if table not in side
    ]
    lost = sum(info.lost for info in manifest.tables.values())
    parts.append(f"{lost:,} lost")
    if trace.rows("faults"):
        parts.append(f"{int(trace.columns('faults', ['major'])['major'].sum()):,} major")
    if manifest.workload.get("exit_code") is not None:
        parts.append(f"exit code {manifest.workload['exit_code']}")
    print(f"{trace.path}: {', '.join(parts)}")


@contextmanager
def live_line() -> Iterator[Show]:
    """Give what shows the progress of a recording on one line of a terminal's standard error."""
    if not sys.stderr.isatty():
        yield show_nothing
        return
    line = _LiveLine()
    try:
        yield line.show
    finally:
        line.clear()


class _LiveLine:
    def __init__(self) -> None:
        self._start_s = self._shown_s = time.monotonic()
        self._rows = 0
        self._is_read = True

    def show(self, progress: Mapping[str, Progress], size_bytes: int) -> None:
        now_s = time.monotonic()
        since_s = now_s - self._shown_s
        if now_s - self._start_s < QUIET_S or since_s < REFRESH_S:
            return
        rows = sum(each.rows for each in progress.values())
        text = live_text(now_s - self._start_s, progress, (rows - self._rows) / since_s, size_bytes)
        self._print(text)
        self._shown_s, self._rows = now_s, rows

    def clear(self) -> None:
        if self._shown_s > self._start_s:
            self._print("")

    def _print(self, text: str) -> None:
        """Put a text on the line. A terminal that was closed is no reason to give up the recording."""
        if not self._is_read:
            return
        try:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        except OSError:
            self._is_read = False


def live_text(seconds: float, progress: Mapping[str, Progress], rate_per_s: float, size_bytes: int) -> str:
    """Return the live line.

    >>> live_text(12.3, {"faults": Progress(41_000, 0), "sched": Progress(900, 3)}, 3500.0, 1 << 20)
    'kdtool: 12 s, 41,000 faults, 900 sched, 3,500/s, 3 lost, 1.0 MiB; Ctrl-C ends it'
    """
    counts = ", ".join(f"{each.rows:,} {name}" for name, each in progress.items())
    lost = sum(each.lost for each in progress.values())
    size = f"{size_bytes / 2**20:.1f} MiB"
    return f"kdtool: {seconds:.0f} s, {counts}, {rate_per_s:,.0f}/s, {lost:,} lost, {size}; Ctrl-C ends it"
