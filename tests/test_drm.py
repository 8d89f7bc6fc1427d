"""Jobs of GPU drivers: formats of every generation of names, and a recording of timers in their place."""

import os
import subprocess
import sys
import time
from pathlib import Path

import needs
import numpy as np
import pytest

from kdtool.collect.accel import Jobs
from kdtool.collect.drmjobs import (
    DONE,
    EVENT,
    GENERATIONS,
    QUEUE,
    RUN,
    JobEvents,
    Labels,
    decode,
    find_generation,
    match,
    starts_of,
)
from kdtool.collect.drmrecord import DrmJobs, find_jobs
from kdtool.errors import CapabilityError
from kdtool.kernel.event_format import EventFormat, parse_format
from kdtool.traces import TraceWriter

NEW, OLD, OLDEST, FENCE = GENERATIONS
COMMON = (("unsigned short common_type", 2), ("unsigned char common_flags", 1))
COMMON += (("unsigned char common_preempt_count", 1), ("int common_pid", 4))

# The fields as include/trace makes them of drivers/gpu/drm/scheduler/gpu_scheduler_trace.h and dma_fence.h.
JOB_NEW = "__data_loc char[] name|u32 job_count|int hw_job_count|__data_loc char[] dev|u64 fence_context"
JOB_NEW += "|u64 fence_seqno|u64 client_id"
DONE_NEW = "u64 fence_context|u64 fence_seqno"
JOB_OLD = "struct drm_sched_entity * entity|struct dma_fence * fence|__data_loc char[] name|uint64_t id"
JOB_OLD += "|u32 job_count|int hw_job_count"
JOB_OLDEST = JOB_OLD.replace("__data_loc char[] name", "const char * name")
DONE_OLD = "struct dma_fence * fence"
FENCES = "__data_loc char[] driver|__data_loc char[] timeline|unsigned int context|unsigned int seqno"
SIZES = {"u32": 4, "int": 4, "unsigned": 4, "__data_loc": 4}


def fmt(name: str, fields: str, number: int) -> EventFormat:
    """Return the format that a hand-made format file describes."""
    lines, offset = [], 0
    declared = [*COMMON, *((each, SIZES.get(each.split()[0], 8)) for each in fields.split("|"))]
    for field, size in declared:
        offset = -(-offset // size) * size
        signed = int(field.startswith("int"))
        lines.append(f"\tfield:{field};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
        offset += size
    return parse_format(f"name: {name.partition(':')[2]}\nID: {number}\nformat:\n" + "\n".join(lines))


def record(of: EventFormat, tid: int, **values: int | bytes) -> bytes:
    """Return the bytes of one record."""
    size = -(-of.size // 8) * 8
    data, tail = bytearray(size), b""
    for name, value in {"common_type": of.id, "common_pid": tid, **values}.items():
        field = of.fields[name]
        if isinstance(value, bytes):
            number = len(value + b"\0") << 16 | size + len(tail)
            tail += value + b"\0"
        else:
            number = value
        data[field.offset : field.offset + field.size] = number.to_bytes(field.size, "little")
    return bytes(data) + tail.ljust(-(-len(tail) // 8) * 8, b"\0")


def events_of(
    generation: JobEvents,
    formats: dict[str, EventFormat],
    records: list[tuple[int, str, bytes]],
    labels: Labels,
) -> "np.ndarray[object, object]":
    """Decode records (time, tracepoint, bytes) as they lie in a buffer one after another."""
    buffer = np.frombuffer(b"".join(data for _, _, data in records), np.uint8).copy()
    lengths = [len(data) for _, _, data in records]
    starts = np.cumsum([0, *lengths[:-1]])
    key = generation.key_of(formats.values())
    found = []
    for name, each in formats.items():
        mine = np.array([event == name for _, event, _ in records])
        t_ns = np.array([t for t, _, _ in records])[mine]
        columns = {"buffer": buffer, "starts": starts[mine], "t_ns": t_ns}
        found.append(decode(generation, name, each, key, columns, labels))
    return np.concatenate(found)


def test_jobs_of_the_newer_names_are_told_by_context_and_number() -> None:
    formats = {NEW.queue: fmt(NEW.queue, JOB_NEW, 7), NEW.run: fmt(NEW.run, JOB_NEW, 8)}
    formats[NEW.done] = fmt(NEW.done, DONE_NEW, 9)
    where = {"name": b"gfx_0.0.0", "dev": b"0000:03:00.0"}
    records = []
    for seqno, (queued, run, done) in enumerate([(10, 20, 50), (12, 21, 70), (15, 80, 90)]):
        fence = {"fence_context": 5, "fence_seqno": seqno}
        records.append((queued, NEW.queue, record(formats[NEW.queue], 42, **where, **fence)))
        records.append((run, NEW.run, record(formats[NEW.run], 1, **where, **fence)))
        records.append((done, NEW.done, record(formats[NEW.done], 0, **fence)))
    labels = Labels()

    jobs, rest, dropped = match(events_of(NEW, formats, records, labels))

    assert labels.known == [("0000:03:00.0", "gfx_0.0.0")]
    assert jobs["queued"].tolist() == [10, 12, 15]
    assert jobs["submit"].tolist() == [20, 21, 80]
    assert jobs["end"].tolist() == [50, 70, 90]
    assert starts_of(jobs, {}).tolist() == [20, 50, 80]  # the second waited for its ring
    assert set(jobs["tid"].tolist()) == {42}
    assert (len(rest), dropped) == (0, 0)


def test_jobs_of_the_older_names_are_told_by_an_address_that_is_used_again() -> None:
    formats = {OLD.queue: fmt(OLD.queue, JOB_OLD, 7), OLD.run: fmt(OLD.run, JOB_OLD, 8)}
    formats[OLD.done] = fmt(OLD.done, DONE_OLD, 9)
    address = 0xFFFF_8881_0000_1000
    records = []
    for queued, run, done in [(10, 20, 50), (60, 61, 62), (100, 101, 102)]:
        records.append((queued, OLD.queue, record(formats[OLD.queue], 42, fence=address, name=b"gfx")))
        records.append((run, OLD.run, record(formats[OLD.run], 1, fence=address, name=b"gfx")))
        records.append((done, OLD.done, record(formats[OLD.done], 0, fence=address)))
    labels = Labels()

    jobs, _, _ = match(events_of(OLD, formats, records[::-1], labels))

    assert jobs[["queued", "submit", "end"]].tolist() == [(10, 20, 50), (60, 61, 62), (100, 101, 102)]
    assert labels.known == [("", "gfx")]


def test_a_kernel_without_a_run_event_and_with_a_ring_by_address_still_gives_jobs() -> None:
    formats = {OLDEST.queue: fmt(OLDEST.queue, JOB_OLDEST, 7), OLDEST.done: fmt(OLDEST.done, DONE_OLD, 9)}
    records = [
        (10, OLDEST.queue, record(formats[OLDEST.queue], 42, fence=16, name=0xFFFF_0000)),
        (30, OLDEST.done, record(formats[OLDEST.done], 0, fence=16)),
    ]
    labels = Labels()

    jobs, _, _ = match(events_of(OLDEST, formats, records, labels))

    assert jobs[["queued", "submit", "end"]].tolist() == [(10, 10, 30)]
    assert labels.known == [("", "0xffff0000")]


def test_fences_stand_for_jobs_where_there_is_no_scheduler() -> None:
    formats = {name: fmt(name, FENCES, i) for i, name in enumerate(FENCE.names, 7)}
    fence = {"driver": b"virtio_gpu", "timeline": b"controlq", "context": 3, "seqno": 9}
    records = [
        (t, name, record(formats[name], 42, **fence)) for t, name in zip((5, 8), FENCE.names, strict=True)
    ]
    labels = Labels()

    jobs, _, _ = match(events_of(FENCE, formats, records, labels))

    assert jobs[["queued", "submit", "end"]].tolist() == [(5, 5, 8)]
    assert labels.known == [("virtio_gpu", "controlq")]


def test_the_names_that_the_kernel_has_are_chosen_newest_first(tmp_path: Path) -> None:
    both = {*NEW.names, *OLD.names, *FENCE.names}
    assert find_generation(both) is NEW
    assert find_generation(both - {NEW.run}) is OLD
    assert find_generation({*OLDEST.names, *FENCE.names}) is OLDEST
    assert find_generation({"gpu_scheduler:drm_sched_job_queue"}) is None

    for name in FENCE.names:
        (tmp_path / "events" / name.replace(":", "/")).mkdir(parents=True)
    assert find_jobs(tmp_path, drivers=[tmp_path]) is FENCE
    with pytest.raises(CapabilityError, match="load one that uses the DRM scheduler"):
        find_jobs(tmp_path, drivers=[tmp_path / "none"])


def test_a_kernel_whose_events_share_no_key_is_refused() -> None:
    formats = [fmt("a:queue", "u64 id", 7), fmt("a:done", DONE_OLD, 8)]

    with pytest.raises(CapabilityError, match="is a field of all"):
        NEW.key_of(formats)


def events(*rows: tuple[int, int, int]) -> "np.ndarray[object, object]":
    """Return events from (time, role, fence)."""
    made = np.zeros(len(rows), EVENT)
    made["t_ns"], made["role"], made["a"] = np.array(rows, np.int64).reshape(-1, 3).T
    return made


def test_open_jobs_wait_for_the_rest_and_strangers_are_dropped() -> None:
    first = events((1, DONE, 3), (10, QUEUE, 1), (12, RUN, 1), (20, QUEUE, 2), (25, DONE, 2), (26, RUN, 9))

    jobs, rest, dropped = match(first)
    assert jobs[["queued", "end"]].tolist() == [(20, 25)]
    assert sorted(rest["t_ns"].tolist()) == [10, 12]

    jobs, rest, dropped = match(np.concatenate([rest, events((30, DONE, 1), (31, DONE, 1))]))
    assert jobs[["queued", "submit", "end"]].tolist() == [(10, 12, 30)]
    assert (len(rest), dropped) == (0, 0)
    jobs, rest, dropped = match(events())
    assert (len(jobs), len(rest), dropped) == (0, 0, 0)


def test_matching_agrees_with_a_plain_loop_on_random_events() -> None:
    random = np.random.default_rng(7)
    rows = [(t, int(random.integers(3)), int(random.integers(4))) for t in range(500)]
    expected, opened, lost = [], {}, 0
    for t, role, fence in rows:
        job = opened.get(fence)
        if role == QUEUE:
            lost += job is not None
            opened[fence] = [t, t, False]
        elif job and role == RUN and not job[2]:
            job[1:] = [t, True]
        elif job and role == DONE:
            expected.append((job[0], job[1], t))
            del opened[fence]

    jobs, rest, dropped = match(events(*rows))

    assert jobs[["queued", "submit", "end"]].tolist() == expected
    assert sorted(rest["t_ns"][rest["role"] == QUEUE]) == sorted(job[0] for job in opened.values())
    assert dropped == lost > 0


# ------------------------------------------------------- timers in the place of jobs: same shape, any kernel

TIMERS = JobEvents(
    "timer:hrtimer_start",
    "timer:hrtimer_expire_entry",
    "timer:hrtimer_expire_exit",
    keys=(("hrtimer",),),
    ring="function",
)
NAPS = "input()\nimport time\nfor _ in range(211): time.sleep(0.0005)\n"


@pytest.mark.root
@needs.tracefs
def test_what_one_process_queued_and_interrupts_ended_is_found_exactly(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", NAPS], stdin=subprocess.PIPE)
    assert program.stdin is not None
    with TraceWriter(tmp_path / "t.kdt") as writer:
        drm = DrmJobs(TIMERS)
        root = drm._queued.root
        try:
            jobs = Jobs(drm, writer, {})
            time.sleep(0.2)
            jobs.start([program.pid])
            program.stdin.write(b"\n")
            program.stdin.flush()
            rows = []
            while program.poll() is None:
                rows += jobs.take(final=False)[0]
                time.sleep(0.1)
            rows += jobs.take(final=True)[0]
        finally:
            program.stdin.close()
            drm.close()

    tids = np.concatenate([each["pid"] for each in rows])
    queued, submit, start, end = (
        np.concatenate([each[f"{name}_ns"] for each in rows]) for name in ("queued", "submit", "start", "end")
    )
    assert set(tids.tolist()) == {program.pid}
    _, of_each = np.unique(np.concatenate([each["queue"] for each in rows]), return_counts=True)
    assert 211 in of_each.tolist()  # of hrtimer_wakeup(); the others are the scheduler's own timers
    assert np.all((queued <= submit) & (submit <= start) & (start <= end))
    assert jobs.facts()["jobs"] == len(tids)
    assert not list((root / "instances").glob(f"kdtool-{os.getpid()}-*"))
