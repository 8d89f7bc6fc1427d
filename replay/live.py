"""What surrounds an agent's policy in a live run: the kernel's own readahead, and guards.

    clock at TICK_NS ──► engine comes back ──► Guards.look(now, counted so far) ──► Allowed ──► engine goes on

Guards say whether it may act. They are asked between two faults, at the moments that they name: nothing that
they look at changes meanwhile.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kdtool.replay.memory import (
    DEGREE,
    FLUSH_AT_NS,
    FLUSH_PERIOD_NS,
    NOW_NS,
    TICK_NS,
    WATCHES,
    Flush,
    Memory,
)
from kdtool.replay.policies.base import Policy
from kdtool.replay.policies.none import NoPrefetch

__all__ = ["Allowed", "Guards", "LiveSetting", "ask_guards"]


NONE = NoPrefetch()


class Allowed(NamedTuple):
    """What an agent may do until the guards look again.

    watches : the policy sees events
    degree_pages : at most so many pages of a decision are asked for
    flush : when the memory's statistics are brought up to date until then
    until_ns : when the guards look again
    """

    watches: bool
    degree_pages: int
    flush: Flush
    until_ns: int


class Guards(Protocol):
    """Says when the policy of an agent may act, as the guards of kdtool deploy do."""

    def look(self, now_ns: int, memory: Memory) -> Allowed:
        """Look at what was counted up to `now_ns`, 0 at first; called at each moment that it named."""


@dataclass(frozen=True)
class LiveSetting:
    """The kernel's own readahead beside the agent, which reads within the fault, and the guards, if any."""

    readahead: Policy = NONE
    guards: Guards | None = None


def ask_guards(guards: Guards, memory: Memory) -> None:
    """Have the guards look at all moments up to now, and do as they say."""
    scalars = memory.scalars
    now_ns, look_ns = int(scalars[NOW_NS]), int(scalars[TICK_NS])
    while look_ns <= now_ns:
        allowed = guards.look(look_ns, memory)
        period_ns, phase_ns = allowed.flush.period_ns, allowed.flush.phase_ns
        if period_ns != scalars[FLUSH_PERIOD_NS]:
            scalars[FLUSH_PERIOD_NS] = period_ns
            scalars[FLUSH_AT_NS] = look_ns + (phase_ns - look_ns) % max(period_ns, 1)
        scalars[[WATCHES, DEGREE]] = allowed.watches, allowed.degree_pages
        look_ns = allowed.until_ns
    scalars[TICK_NS] = look_ns
