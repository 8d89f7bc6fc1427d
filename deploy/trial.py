"""The live comparison: windows without the program and with it in turn, until it is known which is faster.

    off │ on │ off │ on ...   50 ms each at first, then 100 ms     gain = faults a second on / off

How fast the workload gets on is how many page faults it has a second: a page that was swapped out costs one
fault when it is touched, a minor one if it is there by then and a major one if not. They are counted exactly,
at no cost; CPU time in user mode is sampled by the tick, and was off by a third in windows as short as these.
Taken off are new pages, of which a program that grows has many, and pages that were prefetched in vain: each
may have pushed out one that is faulted on instead.

Where major faults are timed (kernel/stall.py), how long a fault of either kind stalled on the average has a
say, too: a program by which faults stall longer is taken off, unless the workload gets on clearly faster. One
by which they stall for much less time, and the workload gets on no slower, acts at once.
"""

from dataclasses import dataclass

__all__ = ["GAINS", "LOSES", "NOTHING", "STALL_LOSS", "Trial"]

GAINS, LOSES, NOTHING = "gains", "loses", "nothing"
"""Verdicts; NOTHING: there are too few faults to tell."""
FIRST_WINDOW_S, WINDOW_S, LAST_WINDOW_S = 0.045, 0.09, 0.4
"""A tick is 50 ms: one, and then two. A window with too few faults goes on."""
WINDOW_FAULTS, FEW_FAULTS = 64, 16
MOST_PAIRS = 4
CLEAR_GAIN, GAIN = 1.25, 1.05
"""What was read ahead in one window is used in the next: gains look smaller than they are."""
CLEAR_LOSS = 0.8
"""Of two pairs in a row, since another process may take a CPU for a while, and in the first the program has
yet to get ahead."""
STALL_LOSS = 1.25
"""So many times the stall a fault without it, in two pairs in a row."""
STALL_GAIN = 0.7
"""So little of the stall a fault without it, over all pairs."""


@dataclass
class _Sum:
    """What windows of one kind had together."""

    s: float = 0.0
    faults: int = 0
    stall_ns: int = 0

    def add(self, other: "_Sum") -> None:
        """Take in a window."""
        self.s += other.s
        self.faults += other.faults
        self.stall_ns += other.stall_ns

    @property
    def stall_a_fault(self) -> float:
        """Return the ns that a fault stalled, 0 without any."""
        return self.stall_ns / self.faults if self.faults else 0.0


class Trial:
    """Compares from `begin_s` on, when there were so many faults and stalls; `on`: the program acts now."""

    def __init__(self, begin_s: float, faults: int, stall_ns: int = 0) -> None:
        self.on = False
        self._from_s, self._from, self._from_stall_ns = begin_s, faults, stall_ns
        self._off, self._with, self._pair_off = _Sum(), _Sum(), _Sum()
        self._gains: list[float] = []
        self._stalls: list[float] = []

    def tick(self, now_s: float, faults: int, stall_ns: int = 0) -> str | None:
        """Take in the faults up to now, those off that were made in vain; return a verdict or None."""
        window = _Sum(now_s - self._from_s, max(faults - self._from, 0), stall_ns - self._from_stall_ns)
        if window.s < (WINDOW_S if self._gains else FIRST_WINDOW_S):
            return None
        if window.faults < WINDOW_FAULTS and window.s < LAST_WINDOW_S:
            return None
        if window.faults < FEW_FAULTS and not self.on:
            return NOTHING
        self._from_s, self._from, self._from_stall_ns, self.on = now_s, faults, stall_ns, not self.on
        if self.on:
            self._pair_off = window
            self._off.add(window)
            return None
        self._gains.append(_gain(window, self._pair_off))
        without = self._pair_off.stall_a_fault
        self._stalls.append(window.stall_a_fault / without if without else 0.0)
        self._with.add(window)
        return self._judge(_gain(self._with, self._off))

    @property
    def gain(self) -> float | None:
        """Return faults a second with the program over those without it; None before there is a pair."""
        return _gain(self._with, self._off) if self._gains else None

    @property
    def stall_a_fault(self) -> float:
        """Return the ns that a fault stalled, with the program or without, whichever took longer."""
        return max(self._off.stall_a_fault, self._with.stall_a_fault)

    def _judge(self, gain: float) -> str | None:
        """Return what the pairs so far say."""
        stall = self._with.stall_a_fault / off if (off := self._off.stall_a_fault) else None
        if stall is not None and stall < STALL_GAIN and gain >= 1:
            return GAINS
        if len(self._gains) == 1:
            return None
        last = len(self._gains) == MOST_PAIRS
        if min(self._stalls[-2:]) > STALL_LOSS and gain < CLEAR_GAIN:
            return LOSES
        if (gain < CLEAR_LOSS and max(self._gains[-2:]) < 1) or (last and gain < GAIN):
            return LOSES
        return GAINS if gain >= CLEAR_GAIN or last else None


def _gain(with_it: _Sum, off: _Sum) -> float:
    return with_it.faults / with_it.s * off.s / off.faults
