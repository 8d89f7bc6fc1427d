"""A trace's training part: what a learner may see of it, and what it would have swapped in.

The same references swap differently in another memory, and two lists make even a few pages matter. So a
part is replayed at several memories around the one that was asked for, and all their swap-ins teach:
what is learned then holds for the pattern, not for one memory's accidents.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from kdtool.errors import ParameterError, TraceError
from kdtool.features import Dataset, Events, FeatureSet, build_dataset
from kdtool.replay import SWAP_MISSED, Device, Shadow, Workload, least_memory, miss_events, run_shadow
from kdtool.traces import memory_pages

__all__ = ["TrainingPart", "part_dataset", "training_part"]

SHARES = (Fraction(1), Fraction(3, 4), Fraction(5, 4), Fraction(1, 2), Fraction(3, 2))
"""Memories to learn at, as shares of the one that was asked for."""
N_JUDGED = 3
"""Candidates are judged at the first three of them."""
FIT_SHARE = Fraction(3, 4)
MIN_EVENTS = 64
"""Fewer swap-ins than this teach nothing that a later part could confirm."""


@dataclass(frozen=True)
class TrainingPart:
    """One trace's training part: its references, where `choose` begins, its runs without prefetching.

    shadows : at the memory that was asked for, then at the other SHARES of it that fit
    """

    workload: Workload
    choose_row: int
    shadows: tuple[Shadow, ...]

    @property
    def shadow(self) -> Shadow:
        """Return the run at the memory that was asked for."""
        return self.shadows[0]

    @property
    def judged(self) -> tuple[Shadow, ...]:
        """Return the runs at the memories at which candidates are judged."""
        return self.shadows[:N_JUDGED]


def training_part(
    workload: Workload, memory: str, device: Device, train_fraction: Fraction, degree_pages: int
) -> TrainingPart:
    """Cut the training part off: the rows in which `train_fraction` of the swap-ins happen.

    Cut by swap-ins and not by rows, because a program that fills its memory first has none in its
    first half. Raises ParameterError for a fraction or memory out of range, and TraceError when there are
    too few swap-ins to learn from.
    """
    if not 0 < train_fraction < 1:
        raise ParameterError(f"--train {float(train_fraction):.0%}: give a percentage between 0 and 100")
    pages = memory_pages(memory, workload.footprint_pages)
    shadow = run_shadow(workload, pages, device)
    rows = np.flatnonzero(shadow.missed == SWAP_MISSED)
    n_train = int(len(rows) * train_fraction)
    if n_train < MIN_EVENTS:
        raise TraceError(
            f"{workload.name}: {len(rows)} swap-ins at {pages} pages of memory, {MIN_EVENTS} are needed "
            f"in the training part: train with less --memory or on a longer trace"
        )
    stop = int(rows[n_train - 1]) + 1
    choose = int(rows[int(n_train * FIT_SHARE) - 1]) + 1
    least = least_memory(workload, degree_pages)
    others = [int(pages * share) for share in SHARES[1:]]
    fitting = [other for other in others if least <= other <= workload.footprint_pages]
    part = workload.prefix(stop)
    shadows = [replace(shadow, missed=shadow.missed[:stop])]
    shadows += [run_shadow(part, other, device) for other in fitting]
    return TrainingPart(part, choose, tuple(shadows))


def part_dataset(parts: Sequence[TrainingPart], features: FeatureSet, *, whole: bool) -> Dataset:
    """Build one dataset from every swap-in of all parts and memories, up to `choose` unless `whole`.

    The streams of different traces and memories stay apart.
    """
    built = [
        build_dataset(
            Events(miss_events(part.workload, shadow, None if whole else part.choose_row)), features
        )
        for part in parts
        for shadow in part.shadows
    ]
    X, y = np.concatenate([d.X for d in built]), np.concatenate([d.y for d in built])
    return Dataset(built[0].feature_names, X, y)
