"""The guards: when the program may act, how many pages it may ask for, when it steps back.

    ASLEEP ──majors──► LOOKING ──0.2 s──► ACTIVE ──no gain, or bad windows──► BACK ──0.5 s, 1 s ...──► ASLEEP
       ▲                  ▲                  │
       │                  └───────5 s────────┤
       └──nothing to do──────────────────────┘

Except when active, nothing is sampled: faults cost the workload nothing and only the kernel's readahead acts.
The live comparison: the CPU time that the workload spends in user mode in a second, while it looks and with
the program; no gain is less than GAIN times as much. A window is bad when too few of its prefetched pages are
used (accuracy) or too few of its swap-ins were prefetched (coverage). Pages that are evicted before they are
used halve the degree.
"""

from dataclasses import dataclass

__all__ = ["ACTIVE", "ASLEEP", "BACK", "LOOKING", "Floors", "Governor", "Progress"]

ASLEEP, LOOKING, ACTIVE, BACK = "asleep", "looking", "active", "back"
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
LOOK_S, SETTLE_S, COMPARE_AGAIN_S = 0.2, 0.05, 5.0
GAIN = 1.15
"""The kernel tells user from system time by its ticks: 50 of them in LOOK_S, so that less could be chance."""


@dataclass(frozen=True)
class Progress:
    """What was counted so far: major faults (all, by the kernel), the fates of pages, and the workload's CPU
    time in user mode (us; None where the kernel does not say)."""

    majors: int
    issued: int
    used: int
    wasted: int
    evicted: int
    user_us: int | None = None

    def since(self, before: "Progress") -> "Progress":
        """Return what came after `before`, without the CPU time."""
        names = ("majors", "issued", "used", "wasted", "evicted")
        return Progress(*(vars(self)[name] - vars(before)[name] for name in names))

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
        self._kernel_rate: float | None = None
        self._compare_from: tuple[float, Progress] | None = None
        self._look_at_s = 0.0

    @property
    def active(self) -> bool:
        """Return whether the program may act."""
        return self.state == ACTIVE

    def tick(self, now_s: float, progress: Progress) -> None:
        """Take in what was counted up to `now_s`; called every 0.05 s or so."""
        if self.state == ACTIVE:
            self.active_s += now_s - self._last_s
            self._compare(now_s, progress)
            if self.active:
                self._judge(now_s, progress)
        elif self.state == LOOKING and now_s - self._since_s >= LOOK_S:
            self._kernel_rate = _rate(self._since_s, self._since, now_s, progress)
            self._act(now_s, progress)
        elif self.state == BACK and now_s >= self._until_s:
            self.state = ASLEEP
        elif self.state == ASLEEP and progress.majors - self._last.majors >= WAKE_MAJORS:
            self._look(now_s, progress)
        self._last, self._last_s = progress, now_s

    def _look(self, now_s: float, progress: Progress) -> None:
        """See what the kernel does alone, where that can be compared."""
        self._since, self._since_s = progress, now_s
        if self._floors is None or progress.user_us is None:
            self._act(now_s, progress)
        else:
            self.state = LOOKING

    def _act(self, now_s: float, progress: Progress) -> None:
        """Let the program act, and compare once it has settled."""
        self.state, self._since, self._since_s = ACTIVE, progress, now_s
        self._compare_from, self._look_at_s = None, now_s + COMPARE_AGAIN_S

    def _compare(self, now_s: float, progress: Progress) -> None:
        """Step back where the workload gets on no faster than with the kernel alone; look again in time."""
        if progress.user_us is None or self._floors is None:
            return
        if self._kernel_rate is None:
            if now_s >= self._look_at_s:
                self._look(now_s, progress)
        elif self._compare_from is None:
            if now_s >= self._look_at_s - COMPARE_AGAIN_S + SETTLE_S:
                self._compare_from = now_s, progress
        elif now_s - self._compare_from[0] >= LOOK_S:
            gained = _rate(*self._compare_from, now_s, progress) >= GAIN * self._kernel_rate
            self._kernel_rate = None
            if gained:
                self._back_s = FIRST_BACK_S
            else:
                self._step_back(now_s)

    def _step_back(self, now_s: float) -> None:
        """Leave it to the kernel, twice as long as the last time."""
        self.state, self._until_s = BACK, now_s + self._back_s
        self.steps_back += 1
        self._back_s = min(2 * self._back_s, LAST_BACK_S)
        self._bad, self._on_trial = 0, True

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
            self._bad, self._on_trial = 0, False
            if progress.user_us is None:
                self._back_s = FIRST_BACK_S
            return
        self._bad += 1
        if self._bad >= BAD_WINDOWS or self._on_trial:
            self._step_back(now_s)

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


def _rate(from_s: float, before: Progress, now_s: float, progress: Progress) -> float:
    """Return seconds in user mode a second since `before`."""
    assert before.user_us is not None and progress.user_us is not None, "compared only where it is known"
    return (progress.user_us - before.user_us) / 1e6 / (now_s - from_s)
