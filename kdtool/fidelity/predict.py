"""What replay says of a program under the kernel, for each moment and place at which the program may start.

Two things are chance, and decide how much is swapped:

    moment   the kernel brings a cgroup's statistics up to date every 2 s, whatever the program does, and
             reclaims by them; and it has a worker note the ends of writes at ticks, see replay/writeends.py
    place    mappings begin at any page (arch_pick_mmap_layout(), mmap_base()), and readahead by VMA never
             reaches beyond a page table, PMD_PAGES (swap_vma_ra_win())
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdtool.kernel.host import base_slice_ns
from kdtool.replay import (
    Device,
    Flush,
    Policy,
    Result,
    Workload,
    load_policy,
    replay,
    run_shadow,
)

__all__ = [
    "CURRENT",
    "MOMENTS",
    "Prediction",
    "at_own_speed",
    "current_moments",
    "on_swap",
    "placed_at",
    "replay_moments",
    "starting_moments",
]

MOMENTS = 9
PMD_PAGES = 512
PLACE_STEP = 317
"""Pages from one replay's place to the next, modulo PMD_PAGES: its golden section spreads any few."""
CURRENT = (Flush(0, 0),)
"""A moment at which statistics are always up to date."""
AFTER_WRITES = 1 << 3
"""How many times as many write requests, less one, may be on their way when something was written for some
tenths of a second just before: step 3 of throttle.py, of 4. By the tracepoint wbt_timer, nine runs of the
bench had steps 0, 1, 2, 3 (five) and 4 at their first reclaim."""
LOOP_REQUEST_PAGES = 32
"""max_sectors_kb of a loop device with direct I/O, 128, Linux 6.18."""
LONG_TICK_NS = 10_000_000
"""CONFIG_HZ=100, and whole ticks of 250 and 1000."""


@dataclass(frozen=True)
class Prediction:
    """One replay, in the words of KernelRun; `state`: which of its setting's policies it is of."""

    wall_ns: int
    major_faults: int
    swap_ins: int
    state: int = 0
    oom_kills: int = 0

    @classmethod
    def of(cls, result: Result, state: int = 0) -> "Prediction":
        """Return the prediction that a replay of the whole program is."""
        swap_ins = result.major_faults - result.file_major_faults + result.prefetch_issued
        return cls(result.runtime_ns, result.major_faults, swap_ins, state, result.oom_kills)

    def to_row(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def at_own_speed(workload: Workload, device: Device, wall_ns: int) -> Device:
    """Return `device` with the time of an instruction such that replay without a limit takes `wall_ns`.

    wall_ns : what the program took without a limit. How fast its instructions are is its own, and its system
        calls and page faults of files, which replay does not know, are there under a limit as well
    """
    insn_ps = device.number("insn_ps")
    times_ns = []
    for tried_ps in (0, insn_ps):
        tried = device.having({"insn_ps": tried_ps})
        [[unlimited]] = replay_moments(workload, [load_policy("none")], workload.n_pages, tried, CURRENT)
        times_ns.append(unlimited.runtime_ns)
    rest_ns, whole_ns = times_ns
    own_ps = max(wall_ns - rest_ns, 0) * insn_ps // max(whole_ns - rest_ns, 1)
    return device.having({"insn_ps": own_ps})


def on_swap(device: Device, *, loop: bool) -> Device:
    """Return `device` as it is under the bench's swap, a profile that was measured on a file or a partition.

    loop : behind a loop device with direct I/O, where a worker notes the ends of writes; else the interrupt

    The looks at the disk, or the run before, have written by then, see throttle.py.
    """
    at_first = device.number("write_requests")
    device = device.having({"write_requests": 1 + (at_first - 1) * AFTER_WRITES if at_first else 0})
    if not loop:
        return device.having({"slice_ns": 0})
    slice_ns = base_slice_ns(device.number("n_cpus") or 1)
    return device.having({"slice_ns": slice_ns, "request_pages": LOOP_REQUEST_PAGES})


def starting_moments(n: int = MOMENTS) -> tuple[Flush, ...]:
    """Return `n` moments spread evenly over the 2 s."""
    return tuple(Flush(phase_ns=Flush.period_ns * (2 * i + 1) // (2 * n)) for i in range(n))


def current_moments(n: int = MOMENTS) -> tuple[Flush, ...]:
    """Return `n` moments spread evenly over a tick, for statistics that are always up to date."""
    return tuple(Flush(0, LONG_TICK_NS * i // n) for i in range(n))


def placed_at(workload: Workload, moments: Iterable[Flush]) -> Iterator[tuple[Workload, Flush]]:
    """Yield for each moment the workload at another place, as each run of a program has its own."""
    for i, moment in enumerate(moments):
        yield workload.moved(i * PLACE_STEP % PMD_PAGES), moment


def replay_moments(
    workload: Workload,
    policies: Sequence[Policy],
    memory_pages: int,
    device: Device,
    moments: Iterable[Flush],
    reclaim: str = "linux",
) -> list[list[Result]]:
    """Replay the whole program once for each moment, each time at another place.

    reclaim : how memory gives pages up, see run_shadow()

    Returns for each policy one result a moment.

    Raises ParameterError for a memory that is too small for the trace's reduction.
    """
    predicted: list[list[Result]] = [[] for _ in policies]
    for placed, moment in placed_at(workload, moments):
        shadow = run_shadow(placed, memory_pages, device, reclaim, moment)
        for results, policy in zip(predicted, policies, strict=True):
            results.append(replay(placed, policy, shadow, device))
    return predicted
