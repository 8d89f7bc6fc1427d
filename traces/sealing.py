"""From a folder being recorded to a sealed trace: by its writer or, if that was killed, by the first reader.

    recording.json + spool/ + segments --seal--> segments + manifest.json (fsync, rename: the trace exists)

The writer holds a lock (flock) on the folder, so that a reader can tell a recording that goes on from one
whose writer was killed. Sealing may itself be killed anywhere and begun again.
"""

import fcntl
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdtool.errors import TraceError
from kdtool.traces.document import read_document
from kdtool.traces.manifest import Manifest, TableInfo, canonical_json
from kdtool.traces.schema import TABLES
from kdtool.traces.spool import SPOOL, DiskError, TableSpool, sync

__all__ = ["MANIFEST", "MAX_LOST", "is_unsealed", "lock_folder", "read_draft", "seal", "write_draft"]

DRAFT = "recording.json"
MANIFEST = "manifest.json"
MAX_LOST = 1 << 62
"""With the rows it stays inside 64 bits."""


def lock_folder(path: Path) -> int:
    """Return an open file descriptor of the folder, locked for us; BlockingIOError if another has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_draft(path: Path, manifest: Manifest, lost: Mapping[str, int]) -> None:
    """Note what the manifest will say if the writer dies, and the losses known so far."""
    document = replace(manifest, state="interrupted").to_document()
    _write_whole(path / DRAFT, canonical_json({"manifest": document, "lost": dict(lost)}), durable=False)


def seal(path: Path, manifest: Manifest, tables: Mapping[str, TableSpool], lost: Mapping[str, int]) -> None:
    """Seal every table and put the manifest in place; TraceError when the disk is full."""
    infos = {}
    for name in sorted({*tables, *lost}):
        segments = tables[name].seal() if name in tables else []
        rows, missing = sum(segment.rows for segment in segments), lost.get(name, 0)
        infos[name] = TableInfo(rows=rows, counted=rows + missing, lost=missing, segments=segments)
    _write_whole(path / MANIFEST, canonical_json(replace(manifest, tables=infos).to_document()))
    sync(path.parent)
    shutil.rmtree(path / SPOOL, ignore_errors=True)
    (path / DRAFT).unlink(missing_ok=True)


def read_draft(path: Path) -> tuple[Manifest, dict[str, int]]:
    """Return what a dead writer noted last; TraceError when that cannot be read."""
    try:
        document: dict[str, Any] = read_document(path / DRAFT)
        return Manifest.of(path / DRAFT, document["manifest"]), _lost(document["lost"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path / DRAFT}: cannot be read ({error}): record the trace again") from None


def _lost(counts: dict[str, Any]) -> dict[str, int]:
    """Return the losses of a draft; ValueError for what no manifest may say: sealed, it could not be read."""
    for table, n in counts.items():
        if table not in TABLES or type(n) is not int or not 0 <= n <= MAX_LOST:
            raise ValueError(f"it says that {str(n)[:40]} of {table[:40]!r} were lost")
    return counts


def is_unsealed(path: Path) -> bool:
    """Return whether `path` is a trace that is being recorded, or was when its recorder was killed."""
    return os.path.exists(path / DRAFT) and not os.path.exists(path / MANIFEST)


def _write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there whole or not at all; durable: also after a power failure."""
    beside = path.with_suffix(".tmp")
    try:
        beside.write_bytes(data)
        if durable:
            sync(beside)
        beside.rename(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written ({error.strerror}): free some space") from None
