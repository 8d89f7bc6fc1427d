"""Miss-ratio curves: the faults of an LRU in every memory size at once, exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError
from kdtool.replay.display import Display
from kdtool.replay.distances import COLD, measure_range, new_stack
from kdtool.replay.drive import CHUNK_ROWS, Progress
from kdtool.replay.run import check_from_row, first_row
from kdtool.replay.workload import Workload, load_workload
from kdtool.traces import Trace

__all__ = ["MissCurve", "measure_curves", "miss_curve"]


@dataclass(frozen=True)
class MissCurve:
    """How many references from `from_row` on an LRU without prefetching misses, by its size.

    major_by_pages : int64 of shape (n + 1,): major faults in 0, 1, ... n pages; a larger memory has none
    cold_faults : first touches, missed in every memory
    """

    trace: str
    k: int
    from_row: int
    footprint_pages: int
    accesses: int
    cold_faults: int
    major_by_pages: npt.NDArray[np.int64]

    @property
    def exact_from_pages(self) -> int:
        """Return the memory from which on the trace's reduction changes nothing.

        A reference that reduction dropped lies between two others to its page with fewer than k other pages
        around it, so that a memory of k pages hits it, and all else in between, with it or without.
        """
        return max(self.k, 1)

    def major_faults(self, memory_pages: int) -> int:
        """Return the major faults in a memory of `memory_pages`; ParameterError for less than one page."""
        if memory_pages < 1:
            raise ParameterError(f"memory is {memory_pages} pages: give one page at least")
        return int(self.major_by_pages[memory_pages]) if memory_pages < len(self.major_by_pages) else 0

    def miss_ratio(self, memory_pages: int) -> float:
        """Return the share of the counted references that are missed, first touches included."""
        return (self.cold_faults + self.major_faults(memory_pages)) / self.accesses

    def to_document(self) -> dict[str, Any]:
        """Return the whole curve as a JSON object: the sizes, from 1 page on, at which the faults change.

        Between two of them the number stays that of the smaller.
        """
        major = self.major_by_pages[1:]
        at = np.flatnonzero(np.diff(major, prepend=-1))
        return {
            "trace": self.trace,
            "k": self.k,
            "exact_from_pages": self.exact_from_pages,
            "from_row": self.from_row,
            "footprint_pages": self.footprint_pages,
            "accesses": self.accesses,
            "cold_faults": self.cold_faults,
            "memory_pages": (at + 1).tolist(),
            "major_faults": major[at].tolist(),
        }


def miss_curve(workload: Workload, *, from_row: int = 0, progress: Progress | None = None) -> MissCurve:
    """Measure the depth of every reference in the LRU stack and return the curve.

    Pages that are unmapped are forgotten, as replay's `lru` memory does. What comes before `from_row` fills
    the stack and is not counted. Raises ParameterError for a `from_row` beyond the trace.
    """
    check_from_row(workload, from_row)
    w, s = workload, new_stack(workload)
    arrays = (s.bits, s.before, s.level, s.slot, s.holes, s.scalars, s.histogram)
    for start in range(0, w.n_refs, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, w.n_refs)
        measure_range(start, stop, from_row, w.page, w.free_row, w.free_page, arrays)
        if progress is not None:
            progress(stop - start)
    cold = int(s.scalars[COLD])
    reused = w.n_refs - from_row - cold
    return MissCurve(
        trace=w.name,
        k=w.k,
        from_row=from_row,
        footprint_pages=w.footprint_pages,
        accesses=w.n_refs - from_row,
        cold_faults=cold,
        major_by_pages=reused - np.cumsum(s.histogram, dtype=np.int64),
    )


def measure_curves(paths: list[Path], start: str = "0", *, allow_loss: bool = False) -> list[MissCurve]:
    """Return the curve of every trace, counted from `start` (a row or a percentage) on.

    Of anonymous pages alone: the kernel reads those of files ahead, in any memory. Shows on stderr how far it
    is. Raises a KdtoolError as load_workload() and first_row() do.
    """
    curves = []
    with Display() as display:
        for path in paths:
            line = display.line(f"reading {path.name}")
            workload = load_workload(Trace(path), allow_loss=allow_loss, files="none")
            line.end()
            display.expect(workload.n_refs)
            line = display.line(f"{path.name} · every memory", workload.n_refs)
            from_row = first_row(start, workload.n_refs)
            curves.append(miss_curve(workload, from_row=from_row, progress=line.advance))
            line.end()
    return curves
