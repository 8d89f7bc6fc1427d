"""What the running kernel does: a program's real run time and major faults under a memory limit.

No model in between: the command runs in a cgroup with the limit, with readahead off (vm.page-cluster 0) and
as Linux ships it (3), a few times each.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from kdtool.errors import CommandError
from kdtool.fidelity.runs import MAX_OOM_KILLS, run_once
from kdtool.kernel.host import page_cluster
from kdtool.kernel.swap import swap_devices
from kdtool.traces import PAGE_BYTES

__all__ = ["SETTINGS", "KernelRuns", "measure", "readahead_policy"]

SETTINGS = ((0, True), (0, False), (3, False))
"""vm.page-cluster, and whether the kernel's statistics are kept current while the program runs."""


@dataclass(frozen=True)
class KernelRuns:
    """The runs of one program at one setting; the lists have one element a run, in order.

    `policy` is the baseline of `kdtool replay` that models the setting; `current` tells whether the cgroup's
    statistics were kept up to date, so that the moment at which the program starts makes no difference.
    """

    program: str
    page_cluster: int
    current: bool
    policy: str
    memory_pages: int
    major_faults: list[int]
    pswpin: list[int]
    wall_ns: list[int]
    oom_kills: int

    def to_row(self) -> dict[str, Any]:
        """Return the runs as a JSON object."""
        return asdict(self)


def readahead_policy(cluster: int) -> str:
    """Return the baseline that models this machine's swap readahead: mm/swap_state.c, swapin_readahead().

    VMA readahead serves devices that do not rotate; one that does, or is slow to seek, gets clusters.
    """
    if cluster == 0:
        return "none"
    return "linux-cluster" if any(device.rotational for device in swap_devices()) else "linux-vma"


def measure(
    name: str,
    command: tuple[str, ...],
    memory_pages: int,
    cluster: int,
    current: bool,
    runs: int,
    report: Callable[[str], None],
) -> KernelRuns:
    """Run `command` under `memory_pages` of memory `runs` times at vm.page-cluster `cluster`.

    Raises CapabilityError without root or swap, and CommandError when the command fails or is killed
    again and again.
    """
    major: list[int] = []
    swapped_in: list[int] = []
    wall: list[int] = []
    kills = 0
    with page_cluster(cluster):
        while len(wall) < runs:
            report(f"{name}: run {len(wall) + 1} of {runs} under the kernel, vm.page-cluster {cluster}")
            facts, _ = run_once(command, memory_pages * PAGE_BYTES, current=current)
            if facts.oom_killed and kills < MAX_OOM_KILLS:
                kills += 1
                report(f"{name}: killed by the kernel for its memory limit; again")
                continue
            if facts.exit_code:
                raise CommandError(
                    f"{name}: ended with {facts.exit_code} under {memory_pages} pages of memory: run it alone"
                )
            major.append(facts.major_faults)
            swapped_in.append(facts.pswpin)
            wall.append(facts.wall_ns)
    policy = readahead_policy(cluster)
    return KernelRuns(name, cluster, current, policy, memory_pages, major, swapped_in, wall, kills)
