"""Jobs of the kernel's GPU drivers: from tracepoint records to rows, whichever names the kernel has for them.

    gpu_scheduler, Linux 6.17 and later    drm_sched_job_queue   drm_sched_job_run   drm_sched_job_done
    gpu_scheduler, before (run from 5.9)   drm_sched_job         drm_run_job         drm_sched_process_job
    dma_fence, drivers without scheduler   dma_fence_emit        -                   dma_fence_signaled

A job is what one process queued: queued_ns when it was pushed to the scheduler, submit_ns when that handed
it to the hardware, start_ns then or when the job before it on the ring was done, end_ns when its fence was
signalled. Both ends of a job are told by the fence: its context and number, or its address, which is
used again later.
Kernel counterpart: drivers/gpu/drm/scheduler/gpu_scheduler_trace.h, include/trace/events/dma_fence.h. Fields
are looked for, kernel versions are not. Not done here: recording (drmrecord.py).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import CapabilityError
from kdtool.kernel.event_format import EventFormat

__all__ = [
    "EVENT",
    "GENERATIONS",
    "QUEUE",
    "JobEvents",
    "Labels",
    "decode",
    "find_generation",
    "match",
    "starts_of",
]

QUEUE, RUN, DONE = range(3)
KEYS = (("fence_context", "fence_seqno"), ("context", "seqno"), ("fence",))
"""Fields that name a fence, best first: an address names another fence later."""

EVENT = np.dtype([("t_ns", "i8"), ("role", "u1"), ("tid", "i4"), ("a", "i8"), ("b", "i8"), ("label", "i4")])
"""One event of a job: `a` and `b` name its fence, `label` (of QUEUE) says where it runs."""
JOB = np.dtype([("queued", "i8"), ("submit", "i8"), ("end", "i8"), ("tid", "i4"), ("label", "i4")])

Events = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class JobEvents:
    """The tracepoints of a job's life; `run` is "" where there is none.

    keys : the fields that name the job, in all of them
    ring, device : fields of `queue`; a kernel without them has jobs on one nameless ring
    """

    queue: str
    run: str
    done: str
    keys: tuple[tuple[str, ...], ...] = KEYS
    ring: str = "name"
    device: str = "dev"

    @property
    def names(self) -> tuple[str, ...]:
        """Return the tracepoints there are, in the order of their roles."""
        return tuple(filter(None, (self.queue, self.run, self.done)))

    def role(self, event: str) -> int:
        """Return what `event` says of a job."""
        return (self.queue, self.run, self.done).index(event)

    def key_of(self, formats: Collection[EventFormat]) -> tuple[str, ...]:
        """Return the fields that name a job in all of them; CapabilityError when there are none."""
        for key in self.keys:
            if all(field in fmt.fields for fmt in formats for field in key):
                return key
        raise CapabilityError(
            f"tracepoints {', '.join(self.names)}: none of {self.keys} is a field of all: report it with the "
            f"kernel's release"
        )


_SCHED = "gpu_scheduler:"
GENERATIONS = (
    JobEvents(_SCHED + "drm_sched_job_queue", _SCHED + "drm_sched_job_run", _SCHED + "drm_sched_job_done"),
    JobEvents(_SCHED + "drm_sched_job", _SCHED + "drm_run_job", _SCHED + "drm_sched_process_job"),
    JobEvents(_SCHED + "drm_sched_job", "", _SCHED + "drm_sched_process_job"),
    JobEvents(
        "dma_fence:dma_fence_emit", "", "dma_fence:dma_fence_signaled", ring="timeline", device="driver"
    ),
)


def find_generation(available: Collection[str]) -> JobEvents | None:
    """Return the tracepoints to use of those that the kernel has (`SYSTEM:EVENT`), None when none will do.

    >>> find_generation({"gpu_scheduler:drm_sched_job", "gpu_scheduler:drm_sched_process_job"}).run
    ''
    """
    for generation in GENERATIONS:
        if set(generation.names) <= set(available):
            return generation
    return None


class Labels:
    """Where jobs run: (device, ring) by number, in the order they were first seen."""

    def __init__(self) -> None:
        self.known: list[tuple[str, str]] = []

    def number(self, devices: "npt.NDArray[np.bytes_]", rings: "npt.NDArray[np.bytes_]") -> Ints:
        """Return the number of each pair, adding those that are new."""
        pairs, which = np.unique(np.stack([_wide(devices), _wide(rings)]), axis=1, return_inverse=True)
        numbers = []
        for device, ring in pairs.T:
            pair = device.decode(errors="replace"), ring.decode(errors="replace")
            if pair not in self.known:
                self.known.append(pair)
            numbers.append(self.known.index(pair))
        return np.array(numbers, np.int64)[which.reshape(-1)]


def decode(
    events: JobEvents,
    event: str,
    fmt: EventFormat,
    key: tuple[str, ...],
    columns: Mapping[str, Any],
    labels: Labels,
) -> Events:
    """Return the records of one tracepoint as events of jobs.

    Parameters
    ----------
    key : as key_of() returned it
    columns : `buffer` (uint8), `starts` (int64, where records begin) and `t_ns` of the records
    """
    buffer, starts = columns["buffer"], columns["starts"]
    made = np.zeros(len(starts), EVENT)
    made["t_ns"], made["role"] = columns["t_ns"], events.role(event)
    made["tid"] = fmt.numbers(buffer, starts, "common_pid")
    made["a"] = fmt.numbers(buffer, starts, key[0])
    if len(key) > 1:
        made["b"] = fmt.numbers(buffer, starts, key[1])
    if event == events.queue and len(starts):
        texts = [_text(fmt, buffer, starts, field) for field in (events.device, events.ring)]
        made["label"] = labels.number(*texts)
    return made


def match(events: Events) -> tuple[Events, Events, int]:
    """Return the jobs that are done, by the time they were, events of those that are not yet, and a number.

    A job begins where its fence is queued and ends before the same fence is queued again: the number is that
    of jobs which had no end by then (killed with their process). Events that belong to no job (queued before
    the recording, or by others) are dropped.
    """
    order = np.lexsort((events["role"], events["t_ns"], events["b"], events["a"]))
    events = events[order]
    first = np.ones(len(events), bool)
    if len(events):
        first[1:] = (np.diff(events["a"]) != 0) | (np.diff(events["b"]) != 0)
    queued = events["role"] == QUEUE
    job = np.cumsum(queued) - 1  # of the job queued last; wrong for what comes before the first of its fence
    begun = np.cumsum(queued) - np.maximum.accumulate(np.where(first, np.cumsum(queued) - queued, 0)) > 0
    at = np.flatnonzero(queued)
    run, done = (_first_of(events, begun & (events["role"] == role), job, len(at)) for role in (RUN, DONE))
    ended = done >= 0
    jobs = np.zeros(int(ended.sum()), JOB)
    heads, ends, runs = events[at[ended]], events[done[ended]], run[ended]
    jobs["queued"], jobs["tid"], jobs["label"] = heads["t_ns"], heads["tid"], heads["label"]
    jobs["end"] = ends["t_ns"]
    ran = (runs >= 0) & (runs < done[ended])
    jobs["submit"] = np.where(ran, events["t_ns"][runs], heads["t_ns"])
    again = np.zeros(len(at), bool)
    again[:-1] = (np.diff(events["a"][at]) == 0) & (np.diff(events["b"][at]) == 0)
    open_job = np.zeros(len(events), bool)
    open_job[begun] = ~(ended | again)[job[begun]]
    dropped = int(np.count_nonzero(again & ~ended))
    return jobs[np.argsort(jobs["end"], kind="stable")], events[open_job], dropped


def starts_of(jobs: Events, ring_done_ns: dict[int, int]) -> Ints:
    """Return when each job began to run: when it was submitted, or its ring was done with the one before.

    jobs : by the time they were done; `ring_done_ns` is when each ring was last, and is moved on
    """
    starts = np.array(jobs["submit"])
    for label in np.unique(jobs["label"]):
        mine = jobs["label"] == label
        ends = jobs["end"][mine]
        before = np.concatenate([[ring_done_ns.get(int(label), 0)], ends[:-1]])
        starts[mine] = np.minimum(np.maximum(starts[mine], before), ends)
        ring_done_ns[int(label)] = int(ends[-1])
    return starts


def _first_of(events: Events, wanted: "npt.NDArray[np.bool_]", job: Ints, n: int) -> Ints:
    """Return for each of `n` jobs the index of its first wanted event, -1 where there is none."""
    found = np.full(n, -1, np.int64)
    at = np.flatnonzero(wanted)[::-1]  # of several the last assignment stays: the first event
    found[job[at]] = at
    return found


def _text(fmt: EventFormat, buffer: Any, starts: Ints, name: str) -> "npt.NDArray[np.bytes_]":
    """Return a text field, the address where the kernel gives only that, or nothing where it has none."""
    field = fmt.fields.get(name)
    if field is None:
        return np.zeros(len(starts), "S1")
    if not field.tail and not field.length:
        return np.array([f"{value:#x}".encode() for value in fmt.numbers(buffer, starts, name)], "S18")
    return fmt.texts(buffer, starts, name)


def _wide(texts: "npt.NDArray[np.bytes_]") -> "npt.NDArray[np.bytes_]":
    return texts.astype("S64")
