"""From the clock of a device to CLOCK_MONOTONIC, in ns.

Idea: a command is queued during the call that enqueues it and ends before its completion is seen, and both
are known in CLOCK_MONOTONIC. So every command bounds the offset (monotonic - device) on both sides:

    before - queued <= offset <= min(after - queued, done - end)

A device whose times are those of a clock of the system (PoCL: CLOCK_MONOTONIC_RAW) satisfies the bounds of
all commands with the offset of that clock, which is measured: then that is used. Otherwise the bounds of
all commands of a second are intersected; the offset is their middle, half their width the uncertainty.
clGetDeviceAndHostTimer, where the driver has it, gives one more bound a second.
Does not happen: an assumption about a driver.
"""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CLOCKS", "DeviceClock", "SystemClocks", "offset_bounds"]

Times = npt.NDArray[np.int64]

CLOCKS = {
    "CLOCK_MONOTONIC": time.CLOCK_MONOTONIC,
    "CLOCK_MONOTONIC_RAW": time.CLOCK_MONOTONIC_RAW,
    "CLOCK_BOOTTIME": time.CLOCK_BOOTTIME,
    "CLOCK_REALTIME": time.CLOCK_REALTIME,
}
WINDOW_NS = 1_000_000_000
"""Over so long two clocks of a machine drift apart by 0.5 ms at most (NTP slews by 500 ppm)."""
TOLERANCE_NS = 1_000
"""By how much a system clock may miss a bound, besides the error of measuring it: it is interpolated."""
TRIES = 5


class SystemClocks:
    """The offsets of the system's clocks from CLOCK_MONOTONIC, sampled now and then.

    error_ns : by how much a measured offset may be wrong
    """

    def __init__(self) -> None:
        self.error_ns = 0
        self._at_ns: list[int] = []
        self._offsets: dict[str, list[int]] = {name: [] for name in CLOCKS}

    def sample(self) -> None:
        """Measure all offsets once."""
        self._at_ns.append(time.monotonic_ns())
        for name, clock in CLOCKS.items():
            offset, took_ns = min((_measure(clock) for _ in range(TRIES)), key=lambda measured: measured[1])
            self._offsets[name].append(offset)
            self.error_ns = max(self.error_ns, took_ns)

    def offset(self, name: str, at_ns: Times) -> Times:
        """Return the offset of clock `name` at times of CLOCK_MONOTONIC, interpolated between samples."""
        first = self._offsets[name][0]  # a float holds 53 bits: differences only
        offsets = np.array(self._offsets[name], np.int64) - first
        begin = self._at_ns[0]
        moved = np.interp(at_ns - begin, np.array(self._at_ns, np.int64) - begin, offsets)
        return first + np.rint(moved).astype(np.int64)


class DeviceClock:
    """Converts the times of one device in one process; what it learns of the clock, it keeps.

    method : how the last times were converted: the name of a system clock, or `bounds`
    uncertainty_ns : the largest so far
    """

    def __init__(self, system: SystemClocks) -> None:
        self._system = system
        self._candidates = list(CLOCKS)
        self.method = ""
        self.uncertainty_ns = 0

    def offsets(self, slots: "np.ndarray[Any, Any]") -> Times:
        """Return what to add to the device's times of each slot (clspool.h)."""
        low, high = offset_bounds(slots)
        system = self._of_system(slots["before_ns"], low, high)
        if system is not None:
            return system
        self.method = "bounds"
        offsets = np.empty(len(slots), np.int64)
        window = (slots["before_ns"] - slots["before_ns"].min()) // WINDOW_NS
        for each in np.unique(window):
            inside = window == each
            lowest, highest = int(low[inside].max()), int(high[inside].min())
            offsets[inside] = (lowest + highest) // 2
            self.uncertainty_ns = max(self.uncertainty_ns, abs(highest - lowest) // 2 + 1)
        return offsets

    def _of_system(self, at_ns: Times, low: Times, high: Times) -> Times | None:
        """Return the offsets of the system clock that has satisfied all bounds so far, None if none has."""
        found = {name: self._system.offset(name, at_ns) for name in self._candidates}
        near = TOLERANCE_NS + self._system.error_ns
        found = {
            name: offset
            for name, offset in found.items()
            if np.all(offset >= low - near) and np.all(offset <= high + near)
        }
        self._candidates = list(found)
        if not found:
            return None
        self.method = self._candidates[0]
        chosen = found[self.method]
        apart = max(int(np.abs(offset - chosen).max()) for offset in found.values())
        self.uncertainty_ns = max(self.uncertainty_ns, apart + near)
        return chosen


def offset_bounds(slots: "np.ndarray[Any, Any]") -> tuple[Times, Times]:
    """Return the least and the largest offset that each slot allows.

    >>> slot = {"before_ns": 100, "after_ns": 130, "done_ns": 190, "queued": 10, "end": 95}
    >>> offset_bounds({name: np.array([value]) for name, value in slot.items()})
    (array([90]), array([95]))
    """
    queued, end = slots["queued"].astype(np.int64), slots["end"].astype(np.int64)
    return slots["before_ns"] - queued, np.minimum(slots["after_ns"] - queued, slots["done_ns"] - end)


def _measure(clock: int) -> tuple[int, int]:
    """Return the offset of `clock` and how long measuring it took."""
    before = time.monotonic_ns()
    there = time.clock_gettime_ns(clock)
    after = time.monotonic_ns()
    return (before + after) // 2 - there, after - before
