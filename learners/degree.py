"""How far ahead: how many pages a program should predict at once for an agent, judged by replay.

An agent asks for pages some time after their fault, and a workload that hits runs on meanwhile: the pages
of the next few hundred microseconds are lost, whatever is predicted. More pages ahead cost the agent time,
and are wrong more often; fewer leave nothing behind those that are lost. How late an agent is changes with
what else the machine does, and a degree that is just enough for its usual lateness covers nothing at twice
that. So each degree is judged for an agent that is as late as was said, and for later ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from kdtool.learners.judging import FRESH, judged_ns
from kdtool.learners.parts import TrainingPart
from kdtool.replay import Device, ProgramPolicy
from kdtool.rmt import Program

__all__ = ["DEGREES_PAGES", "choose_degree", "fitting_degrees", "smallest_equal"]

DEGREES_PAGES = (8, 16, 24, 32, 48, 64)
"""The last is the most that a program may have."""
LATENESS = (1, 2, 4)
"""How late the agent may be, in units of what was said; the moments of its looks at statistics differ too."""
EQUAL_PERMILLE = 40
"""Degrees are equal whose run time is within this of the best. Wrong pages cost a program more than replay
says: a convolution took a fifth longer with 64 pages ahead than with 48, where replay had it 3 % faster."""


def choose_degree(
    parts: Sequence[TrainingPart],
    fit: Callable[[int], Program],
    device: Device,
    judged: Callable[[int], None] = lambda _: None,
) -> tuple[int, dict[int, int]]:
    """Return the smallest degree that is as good as the best, and each one's run time.

    fit : gives the program of a degree
    device : with the agent's lateness in `agent_ns`
    judged : gets each degree's run time
    Whole training parts are replayed, since a degree learns nothing by heart. Degrees that do not fit in the
    smallest memory are left out.
    """
    runtime_ns = {}
    for degree in fitting_degrees(parts):
        runtime_ns[degree] = _runtime_ns(parts, fit(degree), device)
        judged(runtime_ns[degree])
    return smallest_equal(runtime_ns), runtime_ns


def fitting_degrees(parts: Sequence[TrainingPart]) -> list[int]:
    """Return the degrees that fit in the smallest memory of `parts` that is judged."""
    least_pages = min(shadow.memory_pages for part in parts for shadow in part.judged)
    return [degree for degree in DEGREES_PAGES if degree + 2 <= least_pages]


def smallest_equal(runtime_ns: dict[int, int]) -> int:
    """Return the smallest degree whose run time is no longer than the shortest by EQUAL_PERMILLE.

    >>> smallest_equal({16: 848, 32: 736, 48: 674, 64: 663})
    48
    """
    most_ns = min(runtime_ns.values()) * (1000 + EQUAL_PERMILLE) // 1000
    return min(degree for degree, ns in runtime_ns.items() if ns <= most_ns)


def _runtime_ns(parts: Sequence[TrainingPart], program: Program, device: Device) -> int:
    policy, total_ns = ProgramPolicy(program), 0
    for at, times in enumerate(LATENESS):
        flush = replace(FRESH, phase_ns=FRESH.period_ns * (2 * at + 1) // (2 * len(LATENESS)))
        later = device.by_agent(device.agent_ns * times)
        total_ns += judged_ns(parts, policy, later, flush=flush, from_choose=False)
    return total_ns
