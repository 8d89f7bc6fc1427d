"""Has an instance of tracefs record a scope's threads: those that live in it, and those that come in later.

The kernel follows forks by itself (`event-fork`). Threads that come in otherwise (moved into the cgroup,
io_uring's workers) are looked for, every 0.25 s.
"""

import time
from collections.abc import Callable, Sequence

from kdtool.collect.base import Scope
from kdtool.collect.threads import identify, living_threads
from kdtool.kernel.tracefs import Instance

__all__ = ["Follower", "Join"]

LOOK_S = 0.25

Join = Callable[[int, int, int, str], None]
"""Told of each thread that is found living: since when it is followed (ns), thread, process, name."""


class Follower:
    """Follows a scope's threads in an instance with the option `event-fork`; nobody's before `begin`.

    joined_later : threads found after the start, which did not come by a fork
    """

    def __init__(self, instance: Instance, scope: Scope, join: Join) -> None:
        self._instance, self._scope, self._join = instance, scope, join
        self._pids = list[int]()
        self._known: set[int] = set()
        self._looked_s = 0.0
        self.joined_later = 0
        instance.follow(set())  # nobody yet, and never everybody

    def begin(self, pids: Sequence[int]) -> None:
        """Follow the threads of `pids`, or of the cgroup; call it before tracing is on."""
        self._pids = list(pids)
        self._follow_new()

    def settle(self) -> None:
        """Follow what was started while we looked; call it once tracing is on, when forks are followed."""
        while self._follow_new():
            continue

    def look(self) -> None:
        """Look for threads that came in otherwise than by a fork, when it is time to."""
        if time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self.joined_later += self._follow_new()

    def _follow_new(self) -> int:
        """Follow threads of the scope that are not followed yet; return how many there were."""
        living = living_threads(self._scope, self._pids)
        unknown = living - self._known
        self._known = living
        if not unknown:
            return 0
        new = unknown - self._instance.followed()
        if not new:
            return 0
        t_ns = time.monotonic_ns()
        self._instance.follow(new)
        for tid in sorted(new):
            said = identify(tid)
            if said is not None:
                self._join(t_ns, tid, *said)
        return len(new)
