"""The manifest of a trace: what was recorded, where, how completely, and the hash of every byte of it.

`manifest.json` is canonical JSON (sorted keys) with a `sha256` over itself without that key, to the byte, so
that a changed one anywhere in the trace, the manifest included, is found when it is opened.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from kdtool.errors import TraceError
from kdtool.traces.document import canonical_json, parse_document, read_bounded
from kdtool.traces.schema import SCHEMA_VERSION, TABLES

__all__ = ["Manifest", "Reduction", "Segment", "TableInfo", "canonical_json"]

STATES = ("complete", "interrupted")


@dataclass(frozen=True)
class Segment:
    """One Parquet file of a table: its name in the table's folder, rows, bytes and sha256."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TableInfo:
    """Rows written, events counted by the source, events lost, and the files. counted = rows + lost."""

    rows: int
    counted: int
    lost: int
    segments: list[Segment]

    @property
    def bytes(self) -> int:
        """Return the size of the table on disk."""
        return sum(segment.bytes for segment in self.segments)


@dataclass(frozen=True)
class Reduction:
    """How `refs` was reduced. `k` is in pages; 0 means unreduced."""

    method: str = "sad"
    k: int = 0


@dataclass(frozen=True)
class Manifest:
    """Everything about a trace that is not in its tables.

    `host` are facts of the machine (kernel release, page size, THP, swap devices, page-cluster ...);
    `cgroup` the limits under which the command ran; `collector` what recorded it, with its measured
    overhead; `workload` what the kernel itself said of the run (exit code, wall_ns, major faults).
    """

    state: str
    clock: str
    command: list[str]
    collector: dict[str, Any]
    cgroup: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)
    reduction: Reduction | None = None
    tables: dict[str, TableInfo] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document, `sha256` included."""
        document = asdict(self)
        document["sha256"] = hashlib.sha256(canonical_json(document)).hexdigest()
        return document

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check `manifest.json`.

        Raises
        ------
        TraceError
            Not a trace, truncated, altered, unbalanced, or of another major version.
        """
        document, found = _load(path)
        _check_version(path, document)
        if found != canonical_json(document):
            raise TraceError(f"{path}: has other bytes than were written: it was altered; record it again")
        return cls.of(path, document)

    @classmethod
    def of(cls, path: Path, document: dict[str, Any]) -> Self:
        """Check the document that was read from `path` and return the manifest; TraceError as `read`."""
        _check_version(path, document)
        stated = document.pop("sha256", None)
        if hashlib.sha256(canonical_json(document)).hexdigest() != stated:
            raise TraceError(
                f"{path}: the manifest does not match its own sha256: it was altered or cut; record it again"
            )
        try:
            manifest = cls(**{**document, "tables": _tables(document), "reduction": _reduction(document)})
        except (TypeError, KeyError, AttributeError) as error:
            raise TraceError(f"{path}: the manifest lacks a key or has one too many: {error}") from None
        _check_types(path, manifest)
        _check_balance(path, manifest)
        return manifest


def _load(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the document and the bytes of the file."""
    try:
        found = read_bounded(path)
        document = parse_document(found)
    except (FileNotFoundError, NotADirectoryError):
        raise TraceError(
            f"{path.parent}: not a trace (no manifest.json): give a folder that `kdtool collect` or "
            f"`kdtool import` made"
        ) from None
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: cannot be read as JSON ({error}): record the trace again") from None
    if not isinstance(document, dict):
        raise TraceError(f"{path}: not a manifest: expected a JSON object")
    return document, found


def _check_version(path: Path, document: dict[str, Any]) -> None:
    version = str(document.get("schema_version"))[:20]
    major = version.split(".", maxsplit=1)[0]
    if major != SCHEMA_VERSION.split(".", maxsplit=1)[0]:
        raise TraceError(
            f"{path}: schema version {version}, this kdtool reads {SCHEMA_VERSION.split('.')[0]}.x: "
            f"use the kdtool that wrote it"
        )


def _tables(document: dict[str, Any]) -> dict[str, TableInfo]:
    return {
        name: TableInfo(**{**info, "segments": [Segment(**segment) for segment in info["segments"]]})
        for name, info in document["tables"].items()
    }


def _reduction(document: dict[str, Any]) -> Reduction | None:
    reduction = document["reduction"]
    return None if reduction is None else Reduction(**reduction)


def _check_types(path: Path, manifest: Manifest) -> None:
    """Raise for a part of another kind than ours, so that no reader need look again."""
    for name in ("collector", "cgroup", "host", "workload"):
        if not isinstance(getattr(manifest, name), dict):
            raise TraceError(f"{path}: {name} is no JSON object: record it again")
    words = manifest.command if isinstance(manifest.command, list) else [None]
    if not all(isinstance(word, str) for word in [manifest.clock, *words]):
        raise TraceError(f"{path}: clock is a text and command a list of texts: record it again")
    for name, info in manifest.tables.items():
        if not all(isinstance(text, str) for s in info.segments for text in (s.file, s.sha256)):
            raise TraceError(f"{path}: table {name} has a segment without a name or hash: record it again")
        numbers = [info.rows, info.counted, info.lost, *(n for s in info.segments for n in (s.rows, s.bytes))]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TraceError(f"{path}: table {name} has a count that is none: record it again")
    reduction = manifest.reduction or Reduction()
    if not isinstance(reduction.method, str) or type(reduction.k) is not int or reduction.k < 0:
        raise TraceError(
            f"{path}: a reduction has a method, and a window k of 0 pages or more: record it again"
        )


def _check_balance(path: Path, manifest: Manifest) -> None:
    if manifest.state not in STATES:
        raise TraceError(f"{path}: state {manifest.state!r}, allowed: {', '.join(STATES)}")
    for name, info in manifest.tables.items():
        if name not in TABLES:
            raise TraceError(f"{path}: unknown table {name!r}; this kdtool knows: {', '.join(TABLES)}")
        outside = [s.file for s in info.segments if Path(s.file).name != s.file or not s.file.isascii()]
        if outside:
            raise TraceError(f"{path}: segment {outside[0]!r} is not a file of the trace: record it again")
        if info.counted != info.rows + info.lost or info.rows != sum(s.rows for s in info.segments):
            raise TraceError(
                f"{path}: table {name} does not balance: {info.counted} events counted, {info.rows} rows, "
                f"{info.lost} lost: events vanished unseen; record it again"
            )
