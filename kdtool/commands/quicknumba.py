"""Importing modules with compiled code, in less time."""

import gc
import sys
from importlib import import_module
from typing import Any

__all__ = ["import_compiled"]

BLAS = "scipy.linalg.cython_blas"


def import_compiled(module: str) -> None:
    """Import a module of ours that has compiled code, and no linear algebra in it.

    Numba looks for SciPy's, to be able to compile np.dot(): a sixth of the start of `kdtool replay`. Whoever
    imports it later gets it as ever. Nor is garbage looked for among what modules define, which is all kept:
    another sixth.
    """
    modules: Any = sys.modules
    known = BLAS in modules
    if not known:
        modules[BLAS] = None  # an import of it fails at once
    gc.disable()
    try:
        import_module("numba.np.arraymath")
        import_module(module)
    finally:
        gc.enable()
        gc.freeze()
        if not known:
            del modules[BLAS]
