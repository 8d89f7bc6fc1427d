"""One round of measuring: each number of the cost model once, in the units of replay/devices.py.

Rounds are repeated and their medians taken, so that noise of the machine hits all numbers alike.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from kdtool.calibrate.numbers import MIN_REPEATS
from kdtool.calibrate.plan import LAYOUT
from kdtool.calibrate.reads import SEED, ReadBench, ReadRound
from kdtool.collect.pageprobe import Pages, run_instructions
from kdtool.kernel.swap import Disk
from kdtool.rmt.packed import pack
from kdtool.rmt.steptime import step_program, time_steps

__all__ = ["Bench", "Round", "measure_fresh"]

MATRIX_ROWS, MATRIX_COLUMNS, BLOCK_COLUMNS, TAPS = 1600, 5000, 500, 5
CACHED_ROWS = 24
CACHED_TIMES = 80
"""So often is the cached block filtered for each time that the large one is: as many instructions."""
DECISIONS = 1000
FRESH_EVERY = 8
"""Rounds from one that writes new pages to the next, once there were MIN_REPEATS: a virtual disk was busy
with what was written for long after, and the faults of the round behind took 90 µs where others took 69."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round found; `cold_ns` and `reclaim_ns` are None in most rounds."""

    reads: ReadRound
    cold_ns: int | None
    reclaim_ns: int | None
    step_ps: int
    insn_ps: int


def measure_fresh(seed: int) -> tuple[int, int]:
    """Return the CPU time of a first store to a new page, and of reclaiming one that was written before."""
    with Pages(LAYOUT.fresh) as pages:
        cold = pages.first_touch()
        pages.fill(seed)
        pages.swap_out()  # all written
        pages.touch(np.arange(LAYOUT.fresh))
        reclaim = pages.page_out_all()
        pages.swap_out()  # so that nothing is in flight when the next part begins
    return cold.cpu_ns // LAYOUT.fresh, reclaim.cpu_ns // LAYOUT.fresh


class Bench:
    """All that is measured with, set up: pages in swap, the disk's tracepoints, a matrix, a program.

    Raises CapabilityError when something is missing.
    """

    def __init__(self, disk: Disk) -> None:
        self._reads = ReadBench(disk)
        self._program = pack(step_program(SEED))
        self._matrix = np.ones((MATRIX_ROWS, MATRIX_COLUMNS))
        self._sums = np.zeros((MATRIX_ROWS - TAPS + 1, BLOCK_COLUMNS))
        self._rounds = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reads.close()

    def prepare(self) -> None:
        """Bring the pages into swap."""
        self._reads.prepare()
        time_steps(self._program, 1, SEED)  # compiles, or reads what was compiled

    def run(self) -> Round:
        """Measure everything once."""
        self._rounds += 1
        reads = self._reads.run()
        cold, reclaim = self._fresh()
        return Round(
            reads=reads, cold_ns=cold, reclaim_ns=reclaim, step_ps=self._step(), insn_ps=self._instruction()
        )

    def _fresh(self) -> tuple[int | None, int | None]:
        """Return the time of the first touch of a new page, and that of reclaiming one that is written.

        They are written first, and the disk is busy with that for a while: most rounds do without.
        """
        if self._rounds > MIN_REPEATS and self._rounds % FRESH_EVERY:
            return None, None
        return measure_fresh(self._rounds)

    def _step(self) -> int:
        steps, cpu_ns = time_steps(self._program, DECISIONS, self._rounds)
        return cpu_ns * 1000 // steps

    def _instruction(self) -> int:
        """Return the time of an instruction, half of them on more memory than caches hold, half on little."""
        block = self._rounds % (MATRIX_COLUMNS // BLOCK_COLUMNS) * BLOCK_COLUMNS
        columns = self._matrix[:, block : block + BLOCK_COLUMNS]
        large, took = run_instructions(columns, self._sums, TAPS, 1)
        small, took_small = run_instructions(columns[:CACHED_ROWS], self._sums, TAPS, CACHED_TIMES)
        return (took.cpu_ns + took_small.cpu_ns) * 1000 // (large + small)
