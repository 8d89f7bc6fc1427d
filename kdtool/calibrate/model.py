"""The numbers of replay's cost model from what the rounds found, each with how it was measured."""

import os
from collections.abc import Sequence
from statistics import median

from kdtool.calibrate.limited import PROBE, Calls, Limited, Pass, keeps_ahead
from kdtool.calibrate.numbers import OTHERS, Number, summarize
from kdtool.calibrate.plan import LAYOUT
from kdtool.calibrate.reads import ReadRound, are_synchronous, less, read_samples
from kdtool.calibrate.rounds import Round
from kdtool.kernel.host import base_slice_ns, tick_ns
from kdtool.kernel.swap import WriteQueue
from kdtool.replay import DEVICE_FIELDS

__all__ = ["numbers_of"]

FEW_SHARE, MANY_SHARE = 20, 4
"""A pass in which less than a 20th of the pages are written out, or more than a quarter; half of them are in
memory."""
BESIDE = ("call_ns", "beside_ns", "beside_write_ns")
BEHIND = (
    "in other passes the agent of kdtool deploy did not keep ahead of the program, or others wrote to swap: "
    "end what else uses the CPUs and the disk, and try again"
)
NONE = "none: the faulting thread does the read itself"


def numbers_of(
    rounds: list[Round], limited: Limited, place: str, queued: bool, writes: WriteQueue
) -> dict[str, Number]:
    """Return each of DEVICE_FIELDS; `place` (device, CPU, kernel) ends each source.

    queued, writes : whether the disk has a queue of requests, and how it takes writes; see kernel/swap.py

    Raises CapabilityError when too few rounds measured one of them.
    """
    reads = [each.reads for each in rounds]
    samples = read_samples(reads) | _samples(rounds, limited, writes)
    sources = _sources(reads, queued, writes)
    return {
        field: summarize(
            field, samples[field], f"{sources[field]}; {place}", BEHIND if field in BESIDE else OTHERS
        )
        for field in DEVICE_FIELDS
    }


def _samples(rounds: list[Round], limited: Limited, writes: WriteQueue) -> dict[str, list[int | None]]:
    """Return the numbers that reads say nothing of, as each round, block or pass at the limit found them."""
    reads = [each.reads for each in rounds]
    cold_ns, reclaim_ns = _median([r.cold_ns for r in rounds]), _median([r.reclaim_ns for r in rounds])
    minor_ns, page_ns = _median([r.minor_ns for r in reads]), _median([r.batch_ns for r in reads])
    range_ns, fault_ns = _median([r.range_ns for r in reads]), _median([r.fault_ns for r in reads])
    clean, dirty = _touches(limited.passes, fault_ns)
    clean_ns = _median(clean)
    return {
        "cold_ns": [r.cold_ns for r in rounds],
        "call_ns": [_rest_ns(each, page_ns + range_ns) for each in limited.calls],
        "reclaim_ns": [r.reclaim_ns for r in rounds],
        "writeout_ns": [less(ns, cold_ns + reclaim_ns) for ns in limited.cold_ns],
        "beside_ns": [less(touch_ns, minor_ns) for touch_ns in clean],
        "beside_write_ns": [int((touch_ns - clean_ns) * share) for touch_ns, share in dirty],
        "step_ps": [r.step_ps for r in rounds],
        "insn_ps": [r.insn_ps for r in rounds],
        "n_cpus": [len(os.sched_getaffinity(0))] * len(rounds),
        "slice_ns": [base_slice_ns(os.cpu_count() or 1) * writes.by_worker] * len(rounds),
        "tick_ns": [tick_ns()] * len(rounds),
        "request_pages": [writes.request_pages] * len(rounds),
        "write_requests": [writes.write_requests] * len(rounds),
    }


def _sources(rounds: list[ReadRound], queued: bool, writes: WriteQueue) -> dict[str, str]:
    """Return how each number was measured, once a round."""
    layout, synchronous = LAYOUT, are_synchronous(rounds)
    pair = "block_rq_issue to block_rq_complete" if queued else "block_bio_queue to block_bio_complete"
    major, slept = sum(r.major_faults for r in rounds), sum(r.sleeps for r in rounds)
    reads = sorted(r.merged_pages for r in rounds if r.merged_pages is not None)
    merged = reads[len(reads) // 2] if reads else 0
    behind = "from the first read's issue to the last one's completion, less latency_ns, a page"
    return {
        "latency_ns": f"{pair} of the reads of {layout.touches} major faults in random order, mean",
        "service_ns": NONE if synchronous else f"MADV_WILLNEED of {layout.burst} scattered pages: {behind}",
        "transfer_ns": NONE
        if synchronous
        else f"MADV_WILLNEED of {layout.merged_burst} neighbours, {merged} pages a read: {behind}",
        "synchronous": f"the faulting thread slept in {slept} of {major} major faults",
        "batched": NONE
        if synchronous
        else f"MADV_WILLNEED of {layout.window} scattered pages, {layout.batches} times: whether the first "
        "read ends in the later half of their time",
        "major_ns": "the same major faults, whole, mean, less latency_ns",
        "minor_ns": f"CPU time of first touches of {layout.burst} pages that MADV_WILLNEED had brought in",
        "cold_ns": f"CPU time of first stores to {layout.fresh} new pages of 4 KiB",
        "prefetch_ns": f"CPU time of MADV_WILLNEED of {layout.batch} scattered pages less that of one, over "
        f"{layout.batch - 1}" + (", less latency_ns" if synchronous else ""),
        "range_ns": f"CPU time of {layout.batch} calls of MADV_WILLNEED of one scattered page less that of "
        f"one call of {layout.batch} pages, over {layout.batch - 1}",
        "call_ns": "calls of kdtool deploy beside the program of beside_ns, mean, less prefetch_ns"
        + (", latency_ns" if synchronous else "")
        + " and range_ns a page",
        "reclaim_ns": f"CPU time of MADV_PAGEOUT of {layout.fresh} pages that were written before",
        "writeout_ns": f"first stores to new pages of a program at its limit of {PROBE.limit_pages} pages, "
        "mean, less cold_ns and reclaim_ns",
        "beside_ns": f"loads of a program beside kdtool deploy, {PROBE.pages} pages with a stride of "
        f"{PROBE.stride} in {PROBE.limit_pages}, by pass, less its arithmetic, its major faults and minor_ns,"
        " in passes without writes",
        "beside_write_ns": "the same loads in passes that have those in memory written out, less those, a "
        "page written",
        "step_ps": "CPU time of the Numba VM deciding with a random tree of depth 10, over its steps",
        "insn_ps": "CPU time of a vertical float64 filter of counted instructions, half of them over 61 MiB "
        "and half over 0.2 MiB",
        "n_cpus": "CPUs that calibrate may run on",
        "slice_ns": f"700 us * (1 + log2 of {os.cpu_count()} CPUs, 8 at most); a loop device with direct I/O"
        if writes.by_worker
        else "no loop device with direct I/O: interrupts note the ends of writes",
        "tick_ns": "clock_getres(2) of CLOCK_MONOTONIC_COARSE",
        "request_pages": "max_segments and max_sectors_kb of the disk's queue, in sysfs"
        if writes.request_pages > 1
        else "the disk's queue shows no max_segments and max_sectors_kb for more",
        "write_requests": "RWB_DEF_DEPTH of blk-wbt"
        if writes.write_requests
        else "wbt_lat_usec of the disk's queue: writes are not throttled",
    }


def _touches(passes: Sequence[Pass], fault_ns: int) -> tuple[list[int], list[tuple[int, float]]]:
    """Return what a first touch took where no pages were written out, and where many were, by pass.

    With the latter go the first touches for each page written. Passes in which the agent did not keep ahead
    are left out, and those that are neither: others wrote to swap.

    >>> _touches([Pass(6_000, 600, 20), Pass(9_000, 0, 6_144), Pass(6_000, 6_000, 0)], 50_000)
    ([3741], [(9000, 2.0)])
    """
    clean, dirty = [], []
    for load_ns, majors, written in passes:
        touches = PROBE.pages - majors
        touch_ns = (load_ns * PROBE.pages - majors * fault_ns) // touches
        if keeps_ahead(majors) and written <= PROBE.pages // FEW_SHARE:
            clean.append(touch_ns)
        elif keeps_ahead(majors) and written >= PROBE.pages // MANY_SHARE:
            dirty.append((touch_ns, touches / written))
    return clean, dirty


def _rest_ns(calls: Calls, page_ns: int) -> int | None:
    """Return what a call took beside its pages, each a range of its own; None where there was no call.

    >>> _rest_ns(Calls(10, 40, 32_000), 5_000), _rest_ns(Calls(0, 0, 0), 5_000)
    (12000, None)
    """
    return calls.mean_ns - page_ns * calls.pages // calls.calls if calls.calls else None


def _median(samples: Sequence[int | None]) -> int:
    """Return the median of those that could be used, 0 of none: that is refused where they are summarized."""
    used = [sample for sample in samples if sample is not None]
    return int(median(used)) if used else 0
