"""A JSON file from a stranger, read in bounded memory and time: manifests, drafts, device profiles.

Whoever works on what it holds meets no surprise: numbers are finite and of 64 bits, nothing is nested deeper
than MAX_DEPTH, and no key comes twice, of which the second would hide the first.
"""

import json
import stat
from math import isfinite
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENT_BYTES", "canonical_json", "parse_document", "read_bounded", "read_document"]

DOCUMENT_BYTES = 64 << 20
"""A manifest of a trillion references has 64 MB: 130 bytes for each of its segments."""
MAX_DEPTH = 100
"""Ours have 6; Python's own limit is met in what walks a document, and depends on who calls."""
MIN_INTEGER, MAX_INTEGER, DIGITS = -(1 << 63), (1 << 64) - 1, 20


def canonical_json(document: dict[str, Any]) -> bytes:
    """Return the bytes that are written and hashed: sorted keys, no spaces, ASCII, no NaN.

    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_document(path: Path) -> Any:
    """Return what a JSON file holds; raises as `read_bounded` and `parse_document`."""
    return parse_document(read_bounded(path))


def read_bounded(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises OSError when it cannot be read; ValueError for a too large one, and for what is no regular file:
    a device has no end, a pipe waits.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # of a folder, reading says it
        raise ValueError("it is not a regular file")
    if status.st_size > DOCUMENT_BYTES:
        raise ValueError(f"{status.st_size} bytes, at most {DOCUMENT_BYTES} are read")
    return path.read_bytes()


def parse_document(text: bytes) -> Any:
    """Return the value of a JSON text; ValueError for what is not JSON, or no document as said above.

    >>> parse_document(b'{"a": [1, 0.5]}')
    {'a': [1, 0.5]}
    >>> parse_document(b'{"a": 1e999}')
    Traceback (most recent call last):
    ValueError: 1e999 is no finite number
    """
    try:
        document = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_float
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [document]
    for _ in range(MAX_DEPTH):
        containers = [value for value in level if isinstance(value, dict | list)]
        level = [
            each for value in containers for each in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice[:40]!r} appears twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text) > DIGITS or not MIN_INTEGER <= (number := int(text)) <= MAX_INTEGER:
        raise ValueError(f"{text[:40]} is beyond 64 bits")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:40]} is no finite number")
    return number
