"""The guards: when the program may act, how many pages it may ask for, when it steps back.

    ASLEEP ──majors──► TRYING ──gains──► ACTIVE ──bad windows──► BACK ─0.5 s, 1 s ...─► ASLEEP
       ▲                │  ▲                │                     ▲
       └──few faults────┤  └─slow, or in time                     │
       └──nothing to do─┼───────────────────┘                     │
                        └──loses, or bad windows──────────────────┘

Asleep, nothing is sampled: majors are counted and timed (kernel/stall.py). Back, nothing is looked at but
/proc, and only the kernel's readahead acts. TRYING is the live comparison, see trial.py. A window is bad when
too few of its prefetched pages are used (accuracy) or too few of its swap-ins were prefetched (coverage).
Windows in which faults stall longer than in the last trial lead to another. Pages that are evicted before
they are used halve the degree. Those that are never used do not: fewer pages ahead are later ones, and what
would come too late is not asked for at all (docs/deploy.md).
"""

from dataclasses import astuple, dataclass

from kdtool.deploy.trial import GAINS, LOSES, Trial

__all__ = ["ACTIVE", "ASLEEP", "BACK", "TRYING", "Floors", "Governor", "Progress"]

ASLEEP, TRYING, ACTIVE, BACK = "asleep", "trying", "active", "back"
WINDOW_EVENTS = 128
"""Swap-ins by which a window is judged, and ..."""
WINDOW_S = 0.1
"""... the least time it takes: fates come after their decisions."""
TRIAL_EVENTS = 256
"""Swap-ins by which the program's windows of a trial are judged together."""
IDLE_S, IDLE_EVENTS = 0.5, 16
"""Fewer swap-ins in so long, and it sleeps."""
WAKE_MAJORS = 4
"""Major faults between two ticks that wake it, once anything is in swap: 80 a second, 1 % of the time at
0.1 ms each."""
TICK_S = 0.05
BAD_WINDOWS = 2
STALL_LOSS = 1.25
"""So many times the stall a fault in the last trial, for another trial."""
FIRST_BACK_S, LAST_BACK_S = 0.5, 32.0
NO_USE_BACK_S = 8.0
"""The least where windows were bad: what it does not know it will not know in a second."""
FIRST_TRUST_S, LAST_TRUST_S = 2.0, 32.0
"""How long a trial that was won counts; twice as long after each further one."""
THRASH_SHARE, CALM_SHARE = 0.1, 0.05
"""Of the pages asked for, those evicted before their use: more, or less, changes the degree."""


@dataclass(frozen=True)
class Progress:
    """What was counted so far: major faults (by the kernel), the fates of pages, faults of both kinds.

    stall_ns : what the major faults took, 0 where that is not measured
    """

    majors: int
    issued: int
    used: int
    wasted: int
    evicted: int
    faults: int = 0
    stall_ns: int = 0

    def since(self, before: "Progress") -> "Progress":
        """Return what came after `before`."""
        return Progress(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def __add__(self, other: "Progress") -> "Progress":
        return Progress(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    @property
    def swap_ins(self) -> int:
        """Return the pages that came from swap and were touched: first touches and major faults."""
        return self.used + self.majors

    @property
    def pace(self) -> int:
        """Return how far the workload has come, see trial.py."""
        return self.faults - self.wasted

    @property
    def stall_a_fault(self) -> float | None:
        """Return the ns that a fault of either kind stalled; None where there was none."""
        return self.stall_ns / self.pace if self.pace > 0 else None

    @property
    def accuracy(self) -> float | None:
        """Return used / known fates; None before any is known."""
        known = self.used + self.wasted
        return self.used / known if known else None

    @property
    def coverage(self) -> float | None:
        """Return used / swap-ins; None without any."""
        return self.used / self.swap_ins if self.swap_ins else None


@dataclass(frozen=True)
class Floors:
    """What a window must reach: shares from 0 to 1."""

    accuracy: float
    coverage: float = 0.1


class Governor:
    """Tells at every tick whether the program may act (`active`) and with which `degree`.

    degree_pages : the program's own degree, never exceeded
    floors : None lets the program act whatever it reaches; it still sleeps when there is nothing to do
    gain : faults a second with the program over those without it, in the last trial that came to a verdict
    """

    def __init__(self, degree_pages: int, floors: Floors | None) -> None:
        self._most, self._floors = degree_pages, floors
        self.degree = degree_pages
        self.state = ASLEEP
        self.steps_back = self.trials = 0
        self.active_s = 0.0
        self.gain: float | None = None
        self._since = self._last = Progress(0, 0, 0, 0, 0)
        self._since_s = self._last_s = self._until_s = 0.0
        self._looked, self._looked_s = self._since, 0.0
        self._back_s, self._trust_s = FIRST_BACK_S, FIRST_TRUST_S
        self._bad = 0
        self._trial: Trial | None = None
        self._tried = Progress(0, 0, 0, 0, 0)
        self._stall_tried: float | None = None

    @property
    def active(self) -> bool:
        """Return whether the program may act."""
        return self.state == ACTIVE or (self._trial is not None and self._trial.on)

    @property
    def watching(self) -> bool:
        """Return whether faults are to be looked at; in a trial they are all the time."""
        return self.state in (TRYING, ACTIVE)

    @property
    def tick_s(self) -> float:
        """Return how long to wait before the next tick, in seconds."""
        return TICK_S if self._trial is None else self._trial.window_s

    def tick(self, now_s: float, progress: Progress, swapped: bool = True) -> None:
        """Take in what was counted up to `now_s`; called every `tick_s` or so.

        swapped : whether anything is in swap; where nothing is, major faults are of files and wake nobody
        """
        if self.active:
            self.active_s += now_s - self._last_s
        if self._trial is not None:
            self._try(self._trial, now_s, progress)
        elif self.state == ACTIVE:
            if self._floors is not None and now_s >= self._until_s:
                self._begin_trial(now_s, progress)
            else:
                self._judge(now_s, progress)
        elif self.state == BACK and now_s >= self._until_s:
            self.state = ASLEEP
        elif self.state == ASLEEP and swapped and progress.majors - self._last.majors >= WAKE_MAJORS:
            if self._floors is None:
                self._act(now_s, progress)
            else:
                self._begin_trial(now_s, progress)
        self._last, self._last_s = progress, now_s

    def _begin_trial(self, now_s: float, progress: Progress) -> None:
        self._stall_tried = None  # of the last trial; now it is measured again
        self._trial = Trial(now_s, progress.pace, progress.stall_ns, acted=self.state == ACTIVE)
        self.state, self._since, self._bad = TRYING, progress, 0
        self._tried = Progress(0, 0, 0, 0, 0)
        self.trials += 1

    def _try(self, trial: Trial, now_s: float, progress: Progress) -> None:
        """Go on comparing; step back at once where what it brings in is of no use."""
        was_on = trial.on
        verdict = trial.tick(now_s, progress.pace, progress.stall_ns)
        if was_on and self._floors is not None:
            self._tried += progress.since(self._last)
            if self._tried.swap_ins >= TRIAL_EVENTS:
                self._bad = self._bad + 1 if _is_below(self._tried, self._floors) else 0
                self._tried = Progress(0, 0, 0, 0, 0)
            if self._bad >= BAD_WINDOWS:
                self._back_s = max(self._back_s, NO_USE_BACK_S)
                verdict = LOSES
        if verdict is None:
            return
        self._trial, self.gain, self._stall_tried = None, trial.gain, trial.stall_a_fault
        if verdict == GAINS:
            self._back_s, self._until_s = FIRST_BACK_S, now_s + self._trust_s
            self._trust_s = min(2 * self._trust_s, LAST_TRUST_S)
            self._act(now_s, progress)
        elif verdict == LOSES:
            self._step_back(now_s)
        else:
            self.state = ASLEEP

    def _act(self, now_s: float, progress: Progress) -> None:
        self.state, self._bad = ACTIVE, 0
        self._begin_window(now_s, progress)

    def _begin_window(self, now_s: float, progress: Progress) -> None:
        self._since, self._since_s = progress, now_s
        self._looked, self._looked_s = progress, now_s

    def _step_back(self, now_s: float) -> None:
        """Leave it to the kernel, twice as long as the last time."""
        self.state, self._until_s = BACK, now_s + self._back_s
        self.steps_back += 1
        self._back_s, self._trust_s = min(2 * self._back_s, LAST_BACK_S), FIRST_TRUST_S

    def _judge(self, now_s: float, progress: Progress) -> None:
        """Judge the window once it is long enough, or else sleep if there is little to do."""
        window = progress.since(self._since)
        if window.swap_ins < WINDOW_EVENTS:
            if now_s - self._looked_s >= IDLE_S:
                if progress.since(self._looked).swap_ins < IDLE_EVENTS:
                    self.state = ASLEEP
                self._looked, self._looked_s = progress, now_s
            return
        if now_s - self._since_s < WINDOW_S:
            return
        self._begin_window(now_s, progress)
        self._tune(window)
        if self._floors is None:
            return
        below, slow = _is_below(window, self._floors), self._is_slow(window)
        self._bad = self._bad + 1 if below or slow else 0
        if self._bad < BAD_WINDOWS:
            return
        if below:
            self._back_s = max(self._back_s, NO_USE_BACK_S)
            self._step_back(now_s)
        else:  # the workload may have come to another part of its work: only a trial can tell
            self._begin_trial(now_s, progress)

    def _tune(self, window: Progress) -> None:
        """Halve the degree while memory is too small for what it brings in; it grows again after that."""
        if window.evicted > THRASH_SHARE * window.issued:
            self.degree = max(self.degree // 2, 1)
        elif window.evicted <= CALM_SHARE * window.issued:
            self.degree = min(2 * self.degree, self._most)

    def _is_slow(self, window: Progress) -> bool:
        """Tell whether faults stall longer than in the last trial, with and without the program."""
        stall = window.stall_a_fault
        return stall is not None and bool(self._stall_tried) and stall > STALL_LOSS * (self._stall_tried or 0)


def _is_below(window: Progress, floors: Floors) -> bool:
    """Tell whether too few of the window's prefetched pages were used, or of its swap-ins prefetched."""
    accuracy, coverage = window.accuracy, window.coverage
    if accuracy is not None and accuracy < floors.accuracy:
        return True
    return coverage is not None and coverage < floors.coverage
