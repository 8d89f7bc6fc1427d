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
    """One replay, in the words of KernelRun; `state`: which of its setting's policies it is of."""

    wall_ns: int
    major_faults: int
    swap_ins: int
    state: int = 0

    @classmethod
    def of(cls, result: Result, state: int = 0) -> "Prediction":
        """Return the prediction that a replay of the whole program is."""
        swap_ins = result.major_faults - result.file_major_faults + result.prefetch_issued
        return cls(result.runtime_ns, result.major_faults, swap_ins, state)

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
) -> list[list[Result]]:
    """Replay the whole program once for each moment; return for each policy one result a moment.

    Raises ParameterError for a memory that is too small for the trace's reduction.
    """
    predicted: list[list[Result]] = [[] for _ in policies]
    for moment in moments:
        shadow = run_shadow(workload, memory_pages, device, "linux", moment)
        for results, policy in zip(predicted, policies, strict=True):
            results.append(replay(workload, policy, shadow, device))
    return predicted
