"""Rings that the kernel writes, read by compiled code: perf's, a CPU each, and the one of decisions (BPF).

    perf      records of any length, 8-byte words: samples of faults, mappings, forks, execs, what was lost
    decisions records of one length, a power of two, as in rmt/bpf/layout.py

A ring is a row of layout.py: TAIL is how far we have read, HEAD how far the kernel had written when we last
looked, NEXT_NS the time of the next record. Counterparts: kernel/perf.py, kernel/sharedring.py.
"""

from kdtool.deploy.layout import CONTROL_AT, DATA_AT, HEAD, HEAD_AT, MASK, NEXT_NS, RECORD_BYTES, TAIL
from kdtool.deploy.machine import load, load_acquire, store_release
from kdtool.kernel.perf import HEAD_WORD, TAIL_WORD
from kdtool.kernel.perf_records import SAMPLE
from kdtool.rmt.jit import jit

__all__ = ["LAST_NS", "earliest", "look_at_decisions", "payload_at", "skip", "skip_decision", "word"]

LAST_NS = (1 << 63) - 1
_HEAD, _TAIL, _SAMPLE = HEAD_WORD, TAIL_WORD, SAMPLE


@jit(nogil=True)
def word(ring, offset):  # type: ignore[no-untyped-def]
    """Return the 8-byte word so many bytes behind a perf ring's tail."""
    return load(ring[DATA_AT] + ((ring[TAIL] + offset) & ring[MASK]))


@jit(nogil=True)
def _look(ring):  # type: ignore[no-untyped-def]
    """Find the time of the ring's next record; the head is read again only when all before it is read."""
    if ring[TAIL] == ring[HEAD]:
        ring[HEAD] = load_acquire(ring[CONTROL_AT] + 8 * _HEAD)
        if ring[TAIL] == ring[HEAD]:
            ring[NEXT_NS] = LAST_NS
            return
    header = word(ring, 0)
    # The others end with pid and tid, time, cpu, id.
    ring[NEXT_NS] = word(ring, 32 if header & 0xFFFFFFFF == _SAMPLE else (header >> 48) - 24)


@jit(nogil=True)
def skip(ring):  # type: ignore[no-untyped-def]
    """Go behind a perf ring's record and give its room back."""
    ring[TAIL] += (word(ring, 0) >> 48) & 0xFFFF
    store_release(ring[CONTROL_AT] + 8 * _TAIL, ring[TAIL])
    _look(ring)


@jit(nogil=True)
def earliest(rings):  # type: ignore[no-untyped-def]
    """Return which of perf's rings has the earliest record; NEXT_NS is LAST_NS where none has any."""
    first = 0
    for r in range(len(rings)):
        if rings[r, NEXT_NS] == LAST_NS:
            _look(rings[r])
        if rings[r, NEXT_NS] < rings[first, NEXT_NS]:
            first = r
    return first


@jit(nogil=True)
def payload_at(ring):  # type: ignore[no-untyped-def]
    """Return the address of the next decision's first word."""
    return ring[DATA_AT] + (ring[TAIL] & ring[MASK])


@jit(nogil=True)
def look_at_decisions(ring):  # type: ignore[no-untyped-def]
    """Find the time of the next decision, LAST_NS when there is none, or no such ring."""
    ring[NEXT_NS] = LAST_NS
    if not ring[DATA_AT]:
        return
    if ring[TAIL] == ring[HEAD]:
        ring[HEAD] = load_acquire(ring[HEAD_AT])
        if ring[TAIL] == ring[HEAD]:
            return
    ring[NEXT_NS] = load(payload_at(ring))


@jit(nogil=True)
def skip_decision(ring):  # type: ignore[no-untyped-def]
    """Go behind a decision and give its room back."""
    ring[TAIL] += ring[RECORD_BYTES]
    store_release(ring[CONTROL_AT], ring[TAIL])
    look_at_decisions(ring)
