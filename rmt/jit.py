"""Numba's njit with a cache on disk that knows when any of our sources changed.

Numba keys its cache by the file of the function alone. Ours inline functions of other files, so that a
change there would go on running the old machine code; the cache is therefore kept under a hash of them all.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numba

__all__ = ["jit"]


def _cache_folder() -> Path:
    package = Path(__file__).parent.parent  # its links are the rooms; ** would not follow them
    digest = hashlib.sha256(numba.__version__.encode())
    for pattern in ("*/*.py", "*/*/*.py"):
        for source in sorted(package.glob(pattern)):
            digest.update(source.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "kdtool" / f"numba-{digest.hexdigest()[:16]}"


_FOLDER = str(_cache_folder())


_njit: Any = numba.njit  # its own type knows nothing of signatures
_config: Any = numba.config


def jit(*signature: Any, inline: Literal["never", "always"] = "never", nogil: bool = False) -> Any:
    """Return `numba.njit` of these arguments, with its cache in our folder."""

    def compile_function(function: Callable[..., Any]) -> Any:
        before = _config.CACHE_DIR
        _config.CACHE_DIR = _FOLDER
        try:
            return _njit(*signature, inline=inline, nogil=nogil, cache=True)(function)
        finally:
            _config.CACHE_DIR = before

    return compile_function
