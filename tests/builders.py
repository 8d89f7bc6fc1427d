"""Builders of small traces, workloads and devices for tests."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdtool.errors import ProgramError
from kdtool.replay import (
    Device,
    Flush,
    Shadow,
    Workload,
    load_device,
    load_policy,
    run,
    workload_from_arrays,
)
from kdtool.replay.slots import free_slot, new_clusters, new_page_of_slot, take_slot
from kdtool.rmt import from_document, stride_program, to_document
from kdtool.rmt.jit import jit
from kdtool.traces import Manifest, Reduction, Trace, TraceWriter

__all__ = [
    "Plug",
    "callable_part",
    "end_of_run",
    "holding",
    "list_pages",
    "refusal_of",
    "rehash",
    "ssd",
    "strided_trace",
    "workload",
    "write_refs",
]


def callable_part(part):
    """Return a function that only compiled ones call, compiled for Python to call."""
    return jit()(part.py_func)


def ssd() -> Device:
    return load_device("ssd")


def refs_columns(vpns, *, kinds=None, pids=None, tids=None, ips=None, insns=None, step_insns=100):
    n = len(vpns)
    return {
        "pid": np.ones(n, np.int32) if pids is None else np.array(pids, np.int32),
        "tid": np.ones(n, np.int32) if tids is None else np.array(tids, np.int32),
        "vpn": np.array(vpns, np.uint64),
        "ip": np.zeros(n, np.uint64) if ips is None else np.array(ips, np.uint64),
        "kind": np.zeros(n, np.uint8) if kinds is None else np.array(kinds, np.uint8),
        "insns": (np.arange(1, n + 1) * step_insns if insns is None else np.array(insns)).astype(np.uint64),
    }


def workload(
    vpns, *, k=0, maps=None, files="data", ra_pages=32, forks=None, waits=None, zeros=None, **columns
) -> Workload:
    """Return the workload of a reference string."""
    refs = refs_columns(vpns, **columns)
    return workload_from_arrays("test", "0" * 64, refs, maps, k, files, ra_pages, forks, waits, zeros)


def holding(refs) -> Workload:
    """Return the workload of (vpn, store, zeros): what a store leaves in its page, ones before the first."""
    vpns, stores, _ = zip(*refs, strict=True)
    content, rows = {}, []
    for row, (vpn, store, zeros) in enumerate(refs):
        content[vpn] = zeros if store else content.get(vpn, False)
        rows += [row] if content[vpn] else []
    return workload(vpns, kinds=stores, zeros=np.array(rows, np.int64) if rows else None)


def end_of_run(w, capacity, device, reclaim, flush=None, policy="none"):
    """Return the memory after a replay, and where it has major faults."""
    missed = np.zeros(w.n_refs, np.uint8)
    before = Shadow(capacity, reclaim, flush or Flush(), np.empty(0, np.uint8))
    return run._run(w, load_policy(policy), before, device, missed, 0, None), missed


def write_refs(path: Path, vpns, *, k=0, lost=0, **columns) -> Trace:
    """Write a reference string as a sealed trace."""
    with TraceWriter(path) as writer:
        writer.append("refs", refs_columns(vpns, **columns))
        writer.lose("refs", lost)
        manifest = Manifest("complete", "insns", ["test"], {"name": "test"}, reduction=Reduction("sad", k))
        return writer.seal(manifest)


def strided_trace(path: Path, n_pages=3000, strides=(3, 3), step_insns=20_000) -> Trace:
    """Write a program that fills its memory and then walks it with strides."""
    parts = [np.arange(n_pages)]
    for stride in strides:
        parts += [np.arange(start, n_pages, stride) for start in range(stride)]
    return write_refs(path, np.concatenate(parts), step_insns=step_insns)


def list_pages(memory, which):
    """Return the pages on one of memory's lists, the oldest first, as replay/lists.py lays them out."""
    place, rings = memory[2], memory[12]
    oldest, newest, first, mask = map(int, memory[13][which])
    places = [first + (at & mask) for at in range(oldest, newest)]
    return [int(rings[at]) for at in places if place[rings[at]] == at]


def refusal_of(model, change):
    """Return what is said of a program whose second model was `model` before the change to its document."""
    document = to_document(replace(stride_program(), models=(*stride_program().models, model)))
    assert from_document(document).models[1] == model
    change(document["models"][1])
    with pytest.raises(ProgramError) as caught:
        from_document(rehash(document))
    said = str(caught.value)
    assert said.startswith("program.models[1]") and "\n" not in said
    return said


def rehash(document):
    """Return a program's document with the hash that it should have."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "sha256": hashlib.sha256(text.encode()).hexdigest()}


REQUEST_PAGES = 40


def instant() -> Device:
    """A device that takes no time."""
    return Device("instant", np.zeros_like(ssd().values), {}).having({"request_pages": REQUEST_PAGES})


class Plug:
    """Pages on their way to swap: which slots they get, and when what is queued is enough to be submitted.

    A request is of neighbouring slots, REQUEST_PAGES at most. No more comes to a plug that has 32, or whose
    first one has 32 pages.
    """

    def __init__(self, n_pages):
        self.page_of_slot = new_page_of_slot(n_pages)
        self.clusters = new_clusters(len(self.page_of_slot))
        self.slot, self.search_at = np.full(n_pages, -1, np.int32), 0
        self.requests = []

    def is_full_before(self, page):
        """Add a page; return whether those before it are to be submitted first."""
        self.take(page)
        slot = self.slot[page]
        if self.requests and self.requests[-1][-1] == slot - 1 and len(self.requests[-1]) < REQUEST_PAGES:
            self.requests[-1].append(slot)
            return False
        full = len(self.requests) == 32 or (bool(self.requests) and len(self.requests[0]) >= 32)
        self.requests = [[slot]] if full else [*self.requests, [slot]]
        return full

    def take(self, page):
        """Give a page a slot, and write nothing there."""
        if self.slot[page] < 0:
            taken, self.search_at = take_slot(self.search_at, self.page_of_slot, self.clusters)
            self.slot[page], self.page_of_slot[taken] = taken, page

    def free(self, page):
        free_slot(page, self.slot, self.page_of_slot, self.clusters)
