"""What replay says of a program under the kernel, for each moment at which the program may start.

The kernel brings a cgroup's statistics up to date every 2 s, whatever the program does meanwhile, and
reclaims by them: where in the 2 s it starts is chance, and decides how much is swapped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdtool.replay import Device, Flush, Policy, Result, Workload, replay, run_shadow

__all__ = ["CURRENT", "MOMENTS", "Prediction", "replay_moments", "starting_moments"]

MOMENTS = 9
CURRENT = (Flush(0, 0),)
"""The one moment there is when statistics are always up to date."""


@dataclass(frozen=True)
class Prediction:
    """One replay, in the words of KernelRun."""

    wall_ns: int
    major_faults: int
    swap_ins: int

    @classmethod
    def of(cls, result: Result) -> "Prediction":
        """Return the prediction that a replay of the whole program is."""
        return cls(result.runtime_ns, result.major_faults, result.major_faults + result.prefetch_issued)

    def to_row(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def starting_moments(n: int = MOMENTS) -> tuple[Flush, ...]:
    """Return `n` moments spread evenly over the 2 s."""
    return tuple(Flush(phase_ns=Flush.period_ns * (2 * i + 1) // (2 * n)) for i in range(n))


def replay_moments(
    workload: Workload,
    policies: Sequence[Policy],
    memory_pages: int,
    device: Device,
    moments: Iterable[Flush],
) -> dict[str, list[Result]]:
    """Replay the whole program once for each moment; return by policy one result a moment.

    Raises ParameterError for a memory that is too small for the trace's reduction.
    """
    predicted: dict[str, list[Result]] = {policy.name: [] for policy in policies}
    for moment in moments:
        shadow = run_shadow(workload, memory_pages, device, "linux", moment)
        for policy in policies:
            predicted[policy.name].append(replay(workload, policy, shadow, device))
    return predicted
