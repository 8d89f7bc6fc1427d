"""The guards of `kdtool deploy` in a replay: the very Governor, by the replay's clock and what it counts.

What differs: replay knows at once that a page was evicted unused; the agent, when it comes back.
"""

import numpy as np
import numpy.typing as npt

from kdtool.deploy.governor import ACTIVE, Floors, Governor, Progress
from kdtool.deploy.request import MIN_ACCURACY, MIN_COVERAGE
from kdtool.deploy.statistics import LINGER_S
from kdtool.replay import Allowed, Device, Flush, Policy, ProgramPolicy
from kdtool.replay import memory as layout
from kdtool.replay.memory import Memory
from kdtool.rmt.agentrules import FRESH_NS

__all__ = ["ReplayedGuards"]

NS_PER_S = 1_000_000_000


class ReplayedGuards:
    """Of `policy` run by an agent, with statistics that are flushed as `flush` says while it does not act."""

    def __init__(self, policy: Policy, device: Device, flush: Flush) -> None:
        accuracy = MIN_ACCURACY
        if isinstance(policy, ProgramPolicy):
            accuracy = policy.program.guards.min_accuracy_permille / 1000
        self.governor = Governor(policy.degree_pages, Floors(accuracy, MIN_COVERAGE))
        self._major_ns = int(device.values[layout.MAJOR_NS])
        self._flush, self._fresh_until_s = flush, 0.0

    def look(self, now_ns: int, memory: Memory) -> Allowed:
        """Let the governor tick, and return what it allows."""
        governor, now_s = self.governor, now_ns / NS_PER_S
        governor.tick(now_s, self._progress(memory.counters, memory.scalars))
        if governor.state == ACTIVE:
            self._fresh_until_s = now_s + LINGER_S
        fresh = Flush(FRESH_NS, 0)
        return Allowed(
            watches=governor.watching,
            degree_pages=governor.degree if governor.active else 0,
            flush=fresh if now_s < self._fresh_until_s else self._flush,
            until_ns=now_ns + int(governor.tick_s * NS_PER_S),
        )

    def _progress(self, counters: npt.NDArray[np.int64], scalars: npt.NDArray[np.int64]) -> Progress:
        majors, wasted = int(counters[layout.MAJOR]), int(counters[layout.WASTED])
        return Progress(
            majors=majors,
            issued=int(counters[layout.ISSUED]),
            used=int(counters[layout.USED]),
            wasted=wasted,
            evicted=wasted,
            faults=majors + int(counters[layout.MINOR]),
            stall_ns=int(scalars[layout.WAITED_NS]) + majors * self._major_ns,
        )
