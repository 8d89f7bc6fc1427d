"""How far replay is from the kernel: modes of the measured runs, errors, and the order of the settings.

A program's runs under one setting may differ much, for chance decides some of what the kernel does. Replay is
held to what they have in common: it is right anywhere between the runs of one mode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import median

from kdtool.fidelity.predict import Prediction
from kdtool.fidelity.runs import KernelRun

__all__ = [
    "MEASURES",
    "Cell",
    "Measure",
    "Pair",
    "Score",
    "Summary",
    "compare_settings",
    "error_of",
    "find_modes",
    "score_cell",
    "summarize",
]

MODE_GAP = 0.1
"""Two neighbouring runs are of one mode when they differ by less than this part of all runs' median."""
MODE_RUNS = 4
"""With fewer runs there is one mode, their range: two of two runs would be no more than the runs."""

Mode = tuple[float, ...]


@dataclass(frozen=True)
class Measure:
    """What is compared: `key` names it in KernelRun and in Prediction; shown in units of `unit`."""

    key: str
    label: str
    unit: int
    form: str


MEASURES = (
    Measure("major_faults", "major faults", 1, "{:,.0f}"),
    Measure("swap_ins", "swap-ins", 1, "{:,.0f}"),
    Measure("wall_ns", "run time, s", 10**9, "{:.2f}"),
)


WALL = MEASURES[2]


@dataclass(frozen=True)
class Cell:
    """One program in one memory under one setting.

    measured : the whole runs, in order; empty when there are none yet
    predicted : one for each moment at which the program may start, in each state that the machine may be in;
        empty without a recording
    oom_kills, disturbed : runs that were made again since the kernel killed them, or since others changed
        the machine's settings meanwhile
    trouble : why there are not as many runs as were asked for, or ""
    disk : numbers of the cost model as they were while it was measured, where that is known
    """

    program: str
    limit_percent: int
    limit_bytes: int
    memory_pages: int
    setting: str
    measured: tuple[KernelRun, ...]
    predicted: tuple[Prediction, ...]
    oom_kills: int = 0
    disturbed: int = 0
    trouble: str = ""
    disk: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One measure of one cell. `error` is None where it has no meaning, see error_of().

    predicted, predicted_low, predicted_high : median and range over the moments, in the state of the machine
        that major faults are nearest to; `state`, `other_states` : its number, and the others' medians
    """

    measured: float
    low: float
    high: float
    modes: tuple[Mode, ...]
    predicted: float
    predicted_low: float
    predicted_high: float
    error: float | None
    state: int = 0
    other_states: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two settings of one program and memory whose run times differ by more than the spread of their runs.

    `right`: replay has the same one faster.
    """

    program: str
    limit_percent: int
    faster: str
    slower: str
    right: bool


@dataclass(frozen=True)
class Summary:
    """Errors of one measure over many cells; None where no cell has an error."""

    n_cells: int
    n_within: int
    median_error: float | None
    worst_error: float | None


def find_modes(values: Sequence[float]) -> tuple[Mode, ...]:
    """Return the runs' values, sorted, as one tuple a mode.

    The widest gap between neighbours separates two modes when it is at least MODE_GAP of the median of all
    and wider than either side is by itself; each side may fall apart further. See MODE_RUNS.

    >>> find_modes([100, 102, 150, 101, 151])
    ((100, 101, 102), (150, 151))
    >>> find_modes([100, 110, 120, 130])
    ((100, 110, 120, 130),)
    """
    if len(values) < MODE_RUNS:
        return (tuple(sorted(values)),) if values else ()
    return _split(tuple(sorted(values)), MODE_GAP * median(values))


def _split(values: Mode, least: float) -> tuple[Mode, ...]:
    if len(values) < 2:
        return (values,)
    gap, at = max((b - a, i) for i, (a, b) in enumerate(pairwise(values), start=1))
    left, right = values[:at], values[at:]
    if gap <= 0 or gap < least or gap <= max(left[-1] - left[0], right[-1] - right[0]):
        return (values,)
    return _split(left, least) + _split(right, least)


def error_of(predicted: float, measured: Sequence[float]) -> float | None:
    """Return how far `predicted` is outside the nearest mode of the measured runs, over their median.

    Negative: predicted too little. None when the median is 0 and something else was predicted.

    >>> error_of(105, [100, 102]), error_of(101, [100, 102]), error_of(90, [100, 100])
    (0.0297029702970297, 0.0, -0.1)
    """
    distances = [_distance(predicted, mode[0], mode[-1]) for mode in find_modes(measured)]
    nearest = min(distances, key=abs)
    middle = median(measured)
    if middle == 0:
        return 0.0 if nearest == 0 else None
    return nearest / middle


def _distance(value: float, low: float, high: float) -> float:
    return value - low if value < low else max(value - high, 0.0)


def score_cell(cell: Cell, measure: Measure) -> Score:
    """Return the score of a cell that has both runs and predictions.

    How earlier programs left the machine's readahead is not known: the state is the one whose major faults
    are nearest to those of the runs, and all measures are then of that state.
    """
    measured = [getattr(run, measure.key) for run in cell.measured]
    state = _nearest_state(cell)
    by_state = _by_state(cell, measure)
    predicted = by_state.pop(state)
    return Score(
        measured=median(measured),
        low=min(measured),
        high=max(measured),
        modes=find_modes(measured),
        predicted=median(predicted),
        predicted_low=min(predicted),
        predicted_high=max(predicted),
        error=error_of(median(predicted), measured),
        state=state,
        other_states=tuple(median(values) for values in by_state.values()),
    )


def _nearest_state(cell: Cell) -> int:
    majors = [run.major_faults for run in cell.measured]
    by_state = _by_state(cell, MEASURES[0])

    def distance(state: int) -> float:
        error = error_of(median(by_state[state]), majors)
        return float("inf") if error is None else abs(error)

    return min(by_state, key=distance)


def _by_state(cell: Cell, measure: Measure) -> dict[int, list[float]]:
    values: dict[int, list[float]] = {}
    for prediction in cell.predicted:
        values.setdefault(prediction.state, []).append(getattr(prediction, measure.key))
    return values


def scored(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that have both runs and predictions."""
    return [cell for cell in cells if cell.measured and cell.predicted]


def compare_settings(cells: Sequence[Cell]) -> list[Pair]:
    """Return every pair of settings of one program and memory whose measured run times do not overlap."""
    pairs = []
    for one, other in combinations(scored(cells), 2):
        if (one.program, one.limit_percent) != (other.program, other.limit_percent):
            continue
        one_ns, other_ns = (sorted(run.wall_ns for run in cell.measured) for cell in (one, other))
        if one_ns[-1] < other_ns[0]:
            fast, slow = one, other
        elif other_ns[-1] < one_ns[0]:
            fast, slow = other, one
        else:
            continue
        right = _predicted_ns(fast) < _predicted_ns(slow)
        pairs.append(Pair(one.program, one.limit_percent, fast.setting, slow.setting, right))
    return pairs


def _predicted_ns(cell: Cell) -> float:
    return median(_by_state(cell, WALL)[_nearest_state(cell)])


def summarize(cells: Sequence[Cell], measure: Measure, tolerance: float) -> Summary:
    """Return median and worst absolute error, and how many cells are within `tolerance` (0.05 is 5 %)."""
    errors = [score_cell(cell, measure).error for cell in scored(cells)]
    sizes = [abs(error) for error in errors if error is not None]
    return Summary(
        n_cells=len(errors),
        n_within=sum(size <= tolerance for size in sizes),
        median_error=median(sizes) if sizes else None,
        worst_error=max(sizes) if sizes else None,
    )
