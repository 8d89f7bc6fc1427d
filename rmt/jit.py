"""Numba's njit with a cache on disk that knows when a source that it was compiled from changed.

Numba keys its cache by the file of the function alone. Ours call and inline functions of other files and take
constants from them, so that a change there would go on running the old machine code: the cache of a module is
kept under a hash of its source and of those that it imports, theirs included.
"""

import hashlib
import os
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
from numba.core.types import unliteral

from kdtool.rmt.jitcompiler import AsideCompiler, Compiler, Part, PartCompiler

__all__ = ["addressed", "aside", "inline", "inner", "jit", "on_disk", "sources"]

_PACKAGE = Path(__file__).parent.parent
_IMPORTED = re.compile(r"^\s*(?:from|import) (kdtool(?:\.\w+)*)", re.MULTILINE)

_njit: Any = numba.njit  # its own type knows nothing of signatures
_cfunc: Any = numba.cfunc
_config: Any = numba.config


def jit(*signature: Any, allocates: bool = False, nogil: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Return Numba's `njit` for a function of ours, with the cache in our folder.

    allocates : that the function makes arrays. Of all others Numba need not count the references to their
        arguments, which takes more than half of the time of a short function.
    nogil : that Python threads go on while the function runs, when Python calls it
    """
    return partial(_compile, signature, {"_nrt": allocates, "nogil": nogil})


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that compiled ones call, and Python never, as a part of those.

    It is kept on disk with them, and nowhere else, and compiled once for all integers that it is given as
    constants. Called by Python, it runs as Python.
    """
    return _part(function, forceinline=False)


def inline(function: Callable[..., Any]) -> Any:
    """Compile a function as `inner` does, and have those that call it take in its machine code."""
    return _part(function, forceinline=True)


def aside(function: Callable[..., Any]) -> Any:
    """Compile a function as `inner` does, of which its callers know that it is seldom called."""
    return _part(function, forceinline=False, compiler=AsideCompiler)


def _part(function: Callable[..., Any], *, forceinline: bool, compiler: Any = PartCompiler) -> Any:
    options = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    part = _njit(pipeline_class=compiler, forceinline=forceinline, **options)(function)
    part.__class__ = Part
    fold = part._compiler.fold_argument_types
    part._compiler.fold_argument_types = lambda args, kws: fold(tuple(map(unliteral, args)), kws)
    return part


def addressed(signature: Any, function: Callable[..., Any]) -> int:
    """Compile `function` as a C function now, and return its address."""
    return int(
        _cached(function, lambda: _cfunc(signature, cache=True, pipeline_class=Compiler)(function)).address
    )


def _compile(signature: tuple[Any, ...], options: dict[str, Any], function: Callable[..., Any]) -> Any:
    return _cached(
        function, lambda: _njit(*signature, cache=True, pipeline_class=Compiler, **options)(function)
    )


def _cached(function: Callable[..., Any], compile_it: Callable[[], Any]) -> Any:
    """Have Numba keep the machine code of `function` in the folder of its module."""
    before = _config.CACHE_DIR
    _config.CACHE_DIR = _cache_folder(function.__module__)
    try:
        return compile_it()
    finally:
        _config.CACHE_DIR = before


def on_disk(function: Any) -> bool:
    """Tell whether a function of jit() was compiled before, by any process, from the sources as they are."""
    return Path(function._cache._cache_file._index_path).exists()


def sources(module: str) -> list[Path]:
    """Return the files of a module of ours and of all that it imports from us, sorted."""
    found: set[Path] = set()
    todo = [module]
    while todo:
        path = _file(todo.pop())
        if path is not None and path not in found:
            found.add(path)
            todo += _imports(path)
    return sorted(found)


@cache
def _imports(path: Path) -> list[str]:
    return _IMPORTED.findall(path.read_text())


@cache
def _file(module: str) -> Path | None:
    """Return the file of a module of ours; None for others and for what is no file."""
    if module.split(".", maxsplit=1)[0] != "kdtool":
        return None
    folder = _PACKAGE.joinpath(*module.split(".")[1:])
    plain, package = folder.with_suffix(".py"), folder / "__init__.py"
    return next((path for path in (plain, package) if path.is_file()), None)


@cache
def _cache_folder(module: str) -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sources(module):
        digest.update(path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(base / "kdtool" / f"numba-{digest.hexdigest()[:16]}")
