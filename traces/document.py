"""A JSON file from a stranger, read in bounded memory and time: manifests, drafts, device profiles."""

import json
import stat
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENT_BYTES", "read_document"]

DOCUMENT_BYTES = 64 << 20
"""A manifest of a trillion references has 64 MB: 130 bytes for each of its segments."""


def read_document(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises OSError when it cannot be read; ValueError for what is not JSON, for NaN and infinities, for too
    deep or too large a document, and for what is no regular file: a device has no end, a pipe waits.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # of a folder, reading says it
        raise ValueError("it is not a regular file")
    if status.st_size > DOCUMENT_BYTES:
        raise ValueError(f"{status.st_size} bytes, at most {DOCUMENT_BYTES} are read")
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
