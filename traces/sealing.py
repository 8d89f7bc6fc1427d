"""From a folder being recorded to a sealed trace: by its writer or, if that was killed, by the first reader.

    recording.json + spool/ + segments --seal--> segments + manifest.json (fsync, rename: the trace exists)

The writer holds a lock (flock) on the folder, so that a reader can tell a recording that goes on from one
whose writer was killed. Sealing may itself be killed anywhere and begun again.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdtool.errors import TraceError
from kdtool.traces.manifest import Manifest, TableInfo, canonical_json
from kdtool.traces.spool import SPOOL, DiskError, TableSpool, spooled_tables, sync

__all__ = ["MANIFEST", "lock_folder", "recover", "seal", "write_draft"]

DRAFT = "recording.json"
MANIFEST = "manifest.json"


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


def recover(path: Path) -> None:
    """Seal as `interrupted` what a dead writer left; nothing to do for a sealed trace.

    Raises TraceError when it is still being recorded, cannot be written, or is damaged.
    """
    if (path / MANIFEST).exists() or not (path / DRAFT).exists():
        return
    try:
        fd = lock_folder(path)
    except BlockingIOError:
        raise TraceError(f"{path}: is being recorded now: wait for the recording to end") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}: give a folder that you may read") from None
    try:
        manifest, lost = _read_draft(path / DRAFT)
        tables = {name: TableSpool(path, name) for name in spooled_tables(path)}
        for table in tables.values():
            table.recover()
        seal(path, manifest, tables, lost)
    except (OSError, pa.ArrowException) as error:
        raise TraceError(f"{path}: was interrupted and cannot be sealed ({error}): see its rights") from None
    finally:
        os.close(fd)


def _read_draft(path: Path) -> tuple[Manifest, dict[str, int]]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        lost = {str(name): int(n) for name, n in document["lost"].items()}
        return Manifest.of(path, document["manifest"]), lost
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: cannot be read ({error}): record the trace again") from None


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
