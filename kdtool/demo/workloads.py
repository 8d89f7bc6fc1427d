"""The demo's programs: both are larger than the memory they get, and hard for Linux readahead."""

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRAMS", "DemoProgram"]

FOLDER = Path(__file__).resolve().parent / "programs"

# Huge pages would hide the pages, and threads would make the order of references the scheduler's.
SETTINGS = ("env", "NUMPY_MADVISE_HUGEPAGE=0", "OPENBLAS_NUM_THREADS=1")


@dataclass(frozen=True)
class DemoProgram:
    """A program of the demo: its name, what it does, and the command that runs it."""

    name: str
    title: str
    command: tuple[str, ...]


def _program(name: str, title: str) -> DemoProgram:
    return DemoProgram(name, title, (*SETTINGS, sys.executable, str(FOLDER / f"{name}.py")))


PROGRAMS = (
    _program("convolution", "matrix convolution (NumPy, 5000 × 5000 float64, blocks of 500 columns)"),
    _program("resize", "video resizing (OpenCV, 48 frames of 1080p, nearest neighbour to a quarter)"),
)
