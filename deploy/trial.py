"""The live comparison: short windows without the program and with it, until it is known which is faster.

    off on │ on off │ on off │ off on │ ...   10 ms each          gain = faults a second on / off

How fast the workload gets on is how many page faults it has a second: a page that was swapped out costs one
fault when it is touched, a minor one if it is there by then and a major one if not. They are counted exactly,
at no cost. Taken off are new pages, of which a program that grows has many, and pages that were prefetched in
vain: each may have pushed out one that is faulted on instead.

Windows are short since programs have phases: what a sort merges in one tenth of a second swaps ten times as
much as what it compares in the next. Pairs of 50 ms were off by a factor of 1.5 to 10 there, and 0.2 s of
windows of 10 ms by 1.8 at most (docs/deploy-notes.md). CPU time in user mode, sampled, tells the same, with
more noise. Their order is that of Thue and Morse: neither a rate that rises nor one that comes and goes
favours a side.
"""

from dataclasses import dataclass

__all__ = ["GAINS", "LOSES", "NOTHING", "Trial"]

GAINS, LOSES, NOTHING = "gains", "loses", "nothing"
"""Verdicts; NOTHING: there are too few faults to tell."""
WINDOW_S, LAST_WINDOW_S = 0.01, 0.1
WINDOW_FAULTS = 64
"""A window is so long that about so many faults fall into it, at the rate so far."""
EARLY = 0.9
"""Of a window's length, at which it ends: ticks come a bit early or late."""
SLOWER = 1.5
"""By how much a window may be longer than the one before: a workload may be about to begin to swap."""
MOST_PAIRS = 16
FEW_FAULTS, ENOUGH_FAULTS = 128, 512
"""In all windows: fewer tell nothing, and it takes so many to act before the last pair."""
GAIN_AFTER = {4: 1.5, 8: 1.2}
"""The gain from which it acts after so many pairs already; that it loses is known at the end only."""
CLEAR_PAIRS, CLEAR_STALL = 2, 0.5
"""It acts after so many pairs already where faults stall less than such a part, and it gets on no slower."""
GAIN, GAIN_TO_STAY = 1.05, 0.9
"""At the end: for a program that is new, and for one that has acted until now."""


@dataclass
class _Sum:
    """What windows of one kind had together."""

    s: float = 0.0
    faults: int = 0
    stall_ns: int = 0
    windows: int = 0

    def add(self, s: float, faults: int, stall_ns: int) -> None:
        """Take in a window."""
        self.s += s
        self.faults += faults
        self.stall_ns += stall_ns
        self.windows += 1

    @property
    def stall_a_fault(self) -> float:
        """Return the ns that a fault stalled, 0 without any."""
        return self.stall_ns / self.faults if self.faults else 0.0


def window_for(faults_a_s: float) -> float:
    """Return how long windows are to be at a rate of faults, in seconds.

    >>> window_for(20_000), window_for(800), window_for(80)
    (0.01, 0.08, 0.1)
    """
    return min(max(WINDOW_FAULTS / max(faults_a_s, 1.0), WINDOW_S), LAST_WINDOW_S)


class Trial:
    """Compares from `begin_s` on, when there were so many faults and stalls; `on`: the program acts now.

    acted : it has acted until now
    """

    def __init__(self, begin_s: float, faults: int, stall_ns: int = 0, *, acted: bool = False) -> None:
        self._least_gain = GAIN_TO_STAY if acted else GAIN
        self.on, self.window_s = False, WINDOW_S
        self._from_s, self._from, self._from_stall_ns = begin_s, faults, stall_ns
        self._off, self._with = _Sum(), _Sum()

    def tick(self, now_s: float, faults: int, stall_ns: int = 0) -> str | None:
        """Take in the faults up to now, those off that were made in vain; return a verdict or None."""
        length_s = now_s - self._from_s
        if length_s < EARLY * self.window_s:
            return None
        window = length_s, max(faults - self._from, 0), stall_ns - self._from_stall_ns
        (self._with if self.on else self._off).add(*window)
        self._from_s, self._from, self._from_stall_ns = now_s, faults, stall_ns
        seen = self._off.faults + self._with.faults
        self.window_s = min(window_for(seen / (self._off.s + self._with.s)), SLOWER * self.window_s)
        self.on = bool((self._off.windows + self._with.windows).bit_count() % 2)
        return self._judge() if self._off.windows == self._with.windows else None

    @property
    def gain(self) -> float | None:
        """Return faults a second with the program over those without it; None before there is a pair."""
        if not self._with.windows:
            return None
        return self._with.faults / self._with.s * self._off.s / max(self._off.faults, 1)

    @property
    def stall_a_fault(self) -> float:
        """Return the ns that a fault stalled, with the program or without, whichever took longer."""
        return max(self._off.stall_a_fault, self._with.stall_a_fault)

    @property
    def _stalls_are_clear(self) -> bool:
        """Tell whether faults stall much less with the program; False where stalls are not measured."""
        enough = self._off.windows >= CLEAR_PAIRS and min(self._off.faults, self._with.faults) >= FEW_FAULTS
        return enough and self._with.stall_a_fault < CLEAR_STALL * self._off.stall_a_fault

    def _judge(self) -> str | None:
        """Return what the pairs so far say."""
        pairs, faults, gain = self._off.windows, self._off.faults + self._with.faults, self.gain
        assert gain is not None, "there is a pair"
        if pairs < MOST_PAIRS:
            early = [least for after, least in GAIN_AFTER.items() if after <= pairs]
            if self._stalls_are_clear:
                early.append(1.0)
            return GAINS if early and faults >= ENOUGH_FAULTS and gain >= early[-1] else None
        if faults < FEW_FAULTS:
            return NOTHING
        return GAINS if gain >= self._least_gain else LOSES
