"""The guards: when the program may act, how many pages it may ask for, when it steps back.

    ASLEEP ──majors──► ACTIVE ──two bad windows, or one on trial──► BACK ──0.5 s, 1 s, 2 s ...──► ASLEEP
       ▲                 │
       └──nothing to do──┘

Asleep and back, nothing is sampled: faults cost the workload nothing and only the kernel's readahead acts. A
window is bad when too few of its prefetched pages were used (accuracy) or too few of its swap-ins were
prefetched (coverage: there is nothing to give). Pages that are evicted before they are used halve the degree.
"""

from dataclasses import dataclass

__all__ = ["ACTIVE", "ASLEEP", "BACK", "Floors", "Governor", "Progress"]

ASLEEP, ACTIVE, BACK = "asleep", "active", "back"
WINDOW_EVENTS = 128
"""Swap-ins (major faults and first touches) by which a window is judged, and ..."""
WINDOW_S = 0.1
"""... the least time it takes: fates come after their decisions."""
IDLE_S = 0.5
WAKE_MAJORS = 4
"""Major faults between two ticks (0.05 s) that wake it: 80 a second, 1 % of the time at 0.1 ms each."""
BAD_WINDOWS = 2
FIRST_BACK_S, LAST_BACK_S = 0.5, 32.0
THRASH_SHARE = 0.1


@dataclass(frozen=True)
class Progress:
    """What was counted so far: major faults (all, by the kernel), and the fates of pages."""

    majors: int
    issued: int
    used: int
    wasted: int
    evicted: int

    def since(self, before: "Progress") -> "Progress":
        """Return what came after `before`."""
        return Progress(*(vars(self)[name] - vars(before)[name] for name in vars(self)))

    @property
    def accuracy(self) -> float | None:
        """Return used / known fates; None before any is known."""
        known = self.used + self.wasted
        return self.used / known if known else None

    @property
    def coverage(self) -> float | None:
        """Return used / swap-ins; None without any."""
        swap_ins = self.used + self.majors
        return self.used / swap_ins if swap_ins else None


@dataclass(frozen=True)
class Floors:
    """What a window must reach: shares from 0 to 1."""

    accuracy: float = 0.5
    coverage: float = 0.1


class Governor:
    """Tells at every tick whether the program may act (`active`) and with which `degree`.

    degree_pages : the program's own degree, never exceeded
    floors : None lets the program act whatever it reaches; it still sleeps when there is nothing to do
    """

    def __init__(self, degree_pages: int, floors: Floors | None) -> None:
        self._most, self._floors = degree_pages, floors
        self.degree = degree_pages
        self.state = ASLEEP
        self.steps_back = 0
        self.active_s = 0.0
        self._since = self._last = Progress(0, 0, 0, 0, 0)
        self._since_s = self._last_s = self._until_s = 0.0
        self._back_s = FIRST_BACK_S
        self._bad = 0
        self._on_trial = True

    @property
    def active(self) -> bool:
        """Return whether the program may act."""
        return self.state == ACTIVE

    def tick(self, now_s: float, progress: Progress) -> None:
        """Take in what was counted up to `now_s`; called every 0.05 s or so."""
        if self.state == ACTIVE:
            self.active_s += now_s - self._last_s
            self._judge(now_s, progress)
        elif self.state == BACK and now_s >= self._until_s:
            self.state = ASLEEP
        elif self.state == ASLEEP and progress.majors - self._last.majors >= WAKE_MAJORS:
            self.state, self._since, self._since_s = ACTIVE, progress, now_s
        self._last, self._last_s = progress, now_s

    def _judge(self, now_s: float, progress: Progress) -> None:
        """Judge the window once it is long enough."""
        window, length_s = progress.since(self._since), now_s - self._since_s
        if window.used + window.majors < WINDOW_EVENTS:
            if length_s >= IDLE_S:
                self.state = ASLEEP if window.used + window.majors < WINDOW_EVENTS // 8 else ACTIVE
                self._since, self._since_s = progress, now_s
            return
        if length_s < WINDOW_S:
            return
        self._since, self._since_s = progress, now_s
        self._tune(window)
        if self._floors is None:
            return
        if not self._is_bad(window, self._floors):
            self._bad, self._back_s, self._on_trial = 0, FIRST_BACK_S, False
            return
        self._bad += 1
        if self._bad >= BAD_WINDOWS or self._on_trial:
            self.state, self._until_s = BACK, now_s + self._back_s
            self.steps_back += 1
            self._back_s = min(2 * self._back_s, LAST_BACK_S)
            self._bad, self._on_trial = 0, True

    def _tune(self, window: Progress) -> None:
        """Halve the degree while memory is too small for what it brings in; else let it grow again."""
        if window.evicted > THRASH_SHARE * window.issued:
            self.degree = max(self.degree // 2, 1)
        else:
            self.degree = min(2 * self.degree, self._most)

    @staticmethod
    def _is_bad(window: Progress, floors: Floors) -> bool:
        accuracy, coverage = window.accuracy, window.coverage
        if accuracy is not None and accuracy < floors.accuracy:
            return True
        return coverage is not None and coverage < floors.coverage
