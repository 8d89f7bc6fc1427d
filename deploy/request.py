"""What `kdtool deploy` is asked for, whether it is allowed, and which bounds hold for a run."""

import math
from dataclasses import dataclass

from kdtool.collect.limited import check_memory
from kdtool.deploy.agent import Placement
from kdtool.deploy.bpfsource import check_source
from kdtool.deploy.governor import Floors
from kdtool.deploy.source import Decider
from kdtool.errors import CapabilityError, ParameterError
from kdtool.kernel.host import MAX_PAGE_CLUSTER
from kdtool.kernel.perf import online_cpus
from kdtool.kernel.swap import swap_devices
from kdtool.rmt.program import LIMITS

__all__ = ["Bounds", "DeployRequest", "bounds_of", "check_request"]


RATE_PAGES, MIN_ACCURACY, MIN_COVERAGE = 400_000, 0.5, 0.1
"""Of a baseline, which has no guards of its own; the last of programs, too."""


@dataclass(frozen=True)
class DeployRequest:
    """For whom, in which memory, for how long, and within which bounds.

    command : what to run; or empty, and then `cgroup` is the name of a living one
    page_cluster : set vm.page-cluster, which is the whole machine's, meanwhile; None leaves it alone
    rate_pages, degree_pages : pages a second and pages a decision, at most; None leaves it to the program
    min_accuracy, min_coverage : what a window must reach; None leaves it to the program
    step_back : False lets it act whatever it reaches
    placement : of the agent's thread
    source : who decides: auto, bpf (the kernel) or perf (the Numba VM), see bpfsource.py
    stall : time the major faults, where BPF is allowed
    log_events : for tests, see Agent
    """

    command: tuple[str, ...] = ()
    cgroup: str | None = None
    memory_bytes: int | None = None
    duration_s: float | None = None
    page_cluster: int | None = None
    rate_pages: int | None = None
    degree_pages: int | None = None
    min_accuracy: float | None = None
    min_coverage: float = MIN_COVERAGE
    step_back: bool = True
    placement: Placement = Placement()  # noqa: RUF009 - immutable
    source: str = "auto"
    stall: bool = True
    quiet_stdout: bool = False
    log_events: int = 0


@dataclass(frozen=True)
class Bounds:
    """What holds for a run: the program's guards, or stricter."""

    rate_pages: int
    degree_pages: int
    floors: Floors | None


def bounds_of(request: DeployRequest, decider: Decider) -> Bounds:
    """Return the bounds that hold; ParameterError where a guard of the program would be loosened."""
    rate = request.rate_pages or decider.rate_pages or RATE_PAGES
    if decider.rate_pages is not None and rate > decider.rate_pages:
        raise ParameterError(f"--rate {rate}: the program's own guard is {decider.rate_pages}: give no more")
    accuracy = request.min_accuracy
    if accuracy is None:
        accuracy = MIN_ACCURACY if decider.min_accuracy is None else decider.min_accuracy
    elif decider.min_accuracy is not None and accuracy < decider.min_accuracy:
        raise ParameterError(
            f"--min-accuracy {accuracy:g}: the program's own guard is {decider.min_accuracy:g}: give no less"
        )
    degree = min(decider.degree_pages, request.degree_pages or decider.degree_pages)
    return Bounds(rate, degree, Floors(accuracy, request.min_coverage) if request.step_back else None)


def check_request(request: DeployRequest) -> None:
    """Raise ParameterError for what is outside its range, CapabilityError where there is no swap."""
    if (request.cgroup is None) == (not request.command):
        raise ParameterError("deploy: give either --cgroup NAME or -- COMMAND")
    if request.cgroup is not None and request.memory_bytes is not None:
        raise ParameterError("deploy: --memory limits a command; a living cgroup keeps its own: leave it out")
    check_source(request.source)
    _check_numbers(request)
    if not swap_devices():
        raise CapabilityError("deploy: this machine has no swap, so nothing is swapped in: scripts/swap up")
    check_memory(request.memory_bytes)


def _check_numbers(request: DeployRequest) -> None:
    duration_s, placement = request.duration_s, request.placement
    if duration_s is not None and not (duration_s > 0 and math.isfinite(duration_s)):
        raise ParameterError(f"duration {duration_s:g} s, allowed: more than 0: leave it out to run on")
    _check_range("--page-cluster", request.page_cluster, 0, MAX_PAGE_CLUSTER, "as vm.page-cluster")
    _check_range("--rate", request.rate_pages, 1, LIMITS.rate_pages, "pages a second")
    _check_range("--degree", request.degree_pages, 1, LIMITS.degree_pages, "pages a decision")
    _check_range("--min-accuracy", request.min_accuracy, 0, 1, "a share, such as 0.5")
    _check_range("--min-coverage", request.min_coverage, 0, 1, "a share, such as 0.1")
    _check_range("--nice", placement.nice, -20, 19, "the smaller the sooner")
    if placement.cpu is not None and placement.cpu not in online_cpus():
        cpus = ", ".join(map(str, online_cpus()))
        raise ParameterError(f"--cpu {placement.cpu}, allowed: a CPU that is on line: {cpus}")


def _check_range(option: str, value: float | None, low: int, high: int, meaning: str) -> None:
    """Raise ParameterError for a value outside of a range; also for what is no number (nan)."""
    if value is not None and not low <= value <= high:
        given = value if isinstance(value, int) else f"{value:g}"
        raise ParameterError(f"{option} {given}, allowed: {low} to {high}: {meaning}")
