"""Starting Numba for a command whose compiled code has no linear algebra."""

import sys
from importlib import import_module
from typing import Any

__all__ = ["import_numba"]

BLAS = "scipy.linalg.cython_blas"


def import_numba() -> None:
    """Import Numba without SciPy's linear algebra, which it looks for to be able to compile np.dot().

    That takes a sixth of the start of `kdtool replay`. Whoever imports it later gets it as ever.
    """
    modules: Any = sys.modules
    known = BLAS in modules
    if not known:
        modules[BLAS] = None  # an import of it fails at once
    try:
        import_module("numba.np.arraymath")
    finally:
        if not known:
            del modules[BLAS]
