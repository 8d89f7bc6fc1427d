"""The records of a perf ring, decoded with numpy.

    sample (56 bytes)  header | id | ip | pid,tid | time | addr | cpu
    other              header | body ...                  | pid,tid | time | cpu | id

A header is type u32, misc u16, size u16. Unit of work: a block of whole records of one CPU, in 8-byte words.
Counterpart: include/uapi/linux/perf_event.h. Samples are the many (millions), the others the few (mappings,
forks, execs): runs of samples are found by galloping, so that Python steps once per run and
not once per record.
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Comm", "Exit", "Fork", "Mapping", "Side", "split_records"]

COMM, EXIT, FORK, SAMPLE, MMAP2 = 3, 4, 7, 9, 10
MISC_COMM_EXEC = 1 << 13
SAMPLE_WORDS = 7
SAMPLE_HEADER = SAMPLE | SAMPLE_WORDS * 8 << 48
NO_MISC = np.uint64(0xFFFF_0000_FFFF_FFFF)
TRAILER_BYTES = 32

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Mapping:
    """A range of addresses was mapped, or its protection changed. `name` as in /proc/PID/maps, or //anon."""

    t_ns: int
    pid: int
    start: int
    end: int
    prot: int
    shared: bool
    name: str


@dataclass(frozen=True)
class Fork:
    """Process `parent_pid` made `pid` (the same number: a thread), and its thread `parent_tid` made `tid`."""

    t_ns: int
    pid: int
    parent_pid: int
    tid: int
    parent_tid: int


@dataclass(frozen=True)
class Comm:
    """A thread of process `pid` got a name. `is_exec`: since the process replaced its whole address space."""

    t_ns: int
    pid: int
    tid: int
    name: str
    is_exec: bool


@dataclass(frozen=True)
class Exit:
    """A thread of process `pid` ended; `last` when it was the thread that bears the process's number."""

    t_ns: int
    pid: int
    last: bool


Side = Mapping | Fork | Comm | Exit


def split_records(words: Words) -> tuple[Words, list[Side]]:
    """Return the samples, shape (n, 7), and the other records of a block.

    ValueError if the block does not hold whole records: a bug, not a user's mistake.
    """
    runs: list[Words] = []
    others: list[Side] = []
    at = 0
    while at < len(words):
        n_samples = _run_of_samples(words, at)
        if n_samples:
            stop = at + n_samples * SAMPLE_WORDS
            runs.append(words[at:stop].reshape(-1, SAMPLE_WORDS))
            at = stop
            continue
        n_words = int(words[at]) >> 51
        if n_words == 0 or at + n_words > len(words):
            raise ValueError(f"perf record of {n_words} words at word {at} of {len(words)}")
        record = _decode(words[at : at + n_words].tobytes())
        if record is not None:
            others.append(record)
        at += n_words
    samples = np.concatenate(runs) if runs else np.empty((0, SAMPLE_WORDS), np.uint64)
    return samples, others


def _run_of_samples(words: Words, at: int) -> int:
    """Return how many samples follow one another from word `at` on."""
    n, look = 0, 16
    while True:
        headers = words[at + n * SAMPLE_WORDS :: SAMPLE_WORDS][:look]
        other = np.flatnonzero(headers & NO_MISC != SAMPLE_HEADER)
        if len(other):
            return n + int(other[0])
        n += len(headers)
        if len(headers) < look:
            return n
        look *= 4


def _decode(record: bytes) -> Side | None:
    """Return a record that is not a sample; None for those that say nothing of mappings."""
    kind, misc, _ = struct.unpack_from("<IHH", record)
    (t_ns,) = struct.unpack_from("<Q", record, len(record) - TRAILER_BYTES + 8)
    if kind == MMAP2:
        pid, _, start, size = struct.unpack_from("<IIQQ", record, 8)
        prot, flags = struct.unpack_from("<II", record, 64)
        name = record[72:-TRAILER_BYTES].split(b"\0", 1)[0].decode(errors="surrogateescape")
        return Mapping(t_ns, pid, start, start + size, prot & 7, bool(flags & 1), name)
    if kind == COMM:
        pid, tid = struct.unpack_from("<II", record, 8)
        name = record[16:-TRAILER_BYTES].split(b"\0", 1)[0].decode(errors="surrogateescape")
        return Comm(t_ns, pid, tid, name, bool(misc & MISC_COMM_EXEC))
    if kind in (FORK, EXIT):
        pid, parent, tid, parent_tid = struct.unpack_from("<IIII", record, 8)
        return Fork(t_ns, pid, parent, tid, parent_tid) if kind == FORK else Exit(t_ns, pid, pid == tid)
    return None
