"""The kernel decides, and the loop reads what it decided; and which of the two sources a run takes.

    fault ─► BPF: event? features, tables, rollout ─► ring ─► loop.py: fates, queue, process_madvise

Faults that are no event never leave the kernel. Every event does, with or without pages: it says what became
of a page that was asked for.
"""

from pathlib import Path

from kdtool.deploy.faultdecisions import FaultDecisions
from kdtool.deploy.layout import CONTROL_AT, DATA_AT, HEAD_AT, MASK, RECORD_BYTES
from kdtool.deploy.source import Decider, PerfSource, Source, Watch
from kdtool.errors import CapabilityError, ParameterError, unknown_name
from kdtool.kernel.fault_events import SIDE_RING_BYTES
from kdtool.kernel.perf import Counts

__all__ = ["SOURCES", "BpfSource", "check_source", "choose_source"]

SOURCES = ("auto", "bpf", "perf")


class BpfSource(Watch):
    """Decisions of `decider.program` in the kernel, for the tasks in the directory `cgroup`.

    Raises CapabilityError, with what to do, where perf events or BPF are refused.
    """

    path = "bpf"

    def __init__(self, cgroup: Path, decider: Decider) -> None:
        super().__init__(cgroup, decider)
        assert decider.program is not None, "a baseline is decided here"
        try:
            for number in range(len(self._cpus)):
                self._open_cpu(number, SIDE_RING_BYTES)
            self._live = FaultDecisions(cgroup, decider.program, every=True)
        except BaseException:
            self.close()
            raise
        self._stack.callback(self._live.close)
        ring = self._live.ring
        consumer, producer, data = ring.addresses
        self._decisions[[CONTROL_AT, HEAD_AT, DATA_AT, MASK, RECORD_BYTES]] = (
            consumer, producer, data, ring.size_bytes - 1, ring.record_bytes,
        )  # fmt: skip

    def sampling(self, on: bool) -> None:
        """Let the kernel decide, or not. Mappings, forks and execs, and the count of majors, stay on."""
        (self._live.enable if on else self._live.disable)()

    def counted(self) -> Counts:
        """Return the events: decided on, or passed by since another CPU was deciding; and what was lost."""
        made = self._live.counters
        passed_by = made.major_contended + made.minor_contended
        return Counts(made.major_events + made.minor_events + passed_by, made.lost + passed_by)

    def minors(self) -> int:
        """Return the minor faults while the kernel decided."""
        return self._live.counters.minors


def check_source(name: str) -> None:
    """Raise ParameterError unless `name` is one of SOURCES."""
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)


def choose_source(cgroup: Path, decider: Decider, name: str) -> tuple[Source, str]:
    """Return the source `name`, one of SOURCES, and in words why it is that one.

    Raises ParameterError where a baseline is to run by BPF, CapabilityError where the source is refused.
    """
    check_source(name)
    if name == "perf":
        return PerfSource(cgroup, decider), "asked for"
    if decider.program is None:
        if name == "bpf":
            raise ParameterError(
                f"--source bpf: policy '{decider.name}' is no program, and only programs run in the kernel: "
                f"give a program, or --source perf"
            )
        return PerfSource(cgroup, decider), f"'{decider.name}' is no program for the kernel"
    try:
        return BpfSource(cgroup, decider), "asked for" if name == "bpf" else "the kernel decides"
    except CapabilityError as error:
        if name == "bpf":
            raise
        return PerfSource(cgroup, decider), str(error)
