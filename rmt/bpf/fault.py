"""The program that runs at each page fault: is it an event of mm.swapin, and if so, what is to be prefetched?

A major fault is one. A minor fault is one when the page is among those that the program asked for: it was
prefetched, and this is its first touch. So that this is known, the pages of each decision leave their tag
in `asked`, a direct-mapped table: a later page with the same slot takes it, and that first touch is not seen.
The hash of the process plus the page's number has the slot in its low bits and the tag in the 32 above them:
pages that lie side by side have slots that do, and a fault need not wait for memory (150 ns) as with a hash
of both. Pages of two processes are taken for each other once in 2**32 times that they meet in a slot.

    software event page-faults-maj, -min --> one at a time, in order of time --> a record for each decision

Registers are shared by all CPUs, and the features of one event follow from those before it. So a lock lets
one fault decide at a time; a CPU that waits longer than SPINS tries gives up, and the event is counted as
contended. (bpf_spin_lock is not for programs of perf events.) A plain store unlocks: x86-64 makes no store
visible before what was done ahead of it, and the addresses above are that machine's anyway.
"""

from dataclasses import dataclass

from kdtool.rmt.bpf.decision import emit_decision
from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Emitter
from kdtool.rmt.bpf.features import emit_hash
from kdtool.rmt.bpf.layout import DECIDED_BY, N_PAGES, RECORD_WORDS, Layout
from kdtool.rmt.bpf.wrappers import emit_policy

__all__ = [
    "ASKED_BYTES",
    "ASKED_SLOTS",
    "RING_DATA",
    "RING_READ",
    "RING_WRITTEN",
    "SHARED_BYTES",
    "SHARED_COUNTERS",
    "FaultWrapper",
    "emit_fault",
]

KTIME_GET_NS, GET_CURRENT_PID_TGID = 5, 14
"""enum bpf_func_id. bpf_ktime_get_ns is CLOCK_MONOTONIC."""
PAGE_SHIFT, REGION_SHIFT = 12, 13
SLOT_BITS, TAG_BYTES = 16, 4
ASKED_SLOTS = 1 << SLOT_BITS
ASKED_BYTES = TAG_BYTES * ASKED_SLOTS
SPINS = 2048
LOCK = 0
SHARED_COUNTERS = ("minor_events", "major_events", "decisions", "lost", "minor_contended", "major_contended")
"""The words of the map `shared` after the lock."""
SHARED_BYTES = 8 * (1 + len(SHARED_COUNTERS))
RING_READ, RING_WRITTEN, RING_SPARE, RING_DATA = 0, 64, 128, 4096
"""In the map `ring`: how far the reader is, how far records were written, in bytes; room for one that finds
none; the first of them."""
TASK, PID, VPN, IP, PROCESS, TIME, WRITTEN = range(-64, -8, 8)
"""On the stack; PROCESS: the hash of the PID; WRITTEN: how far records are written after this one."""


@dataclass(frozen=True)
class FaultWrapper:
    """What the program is for.

    is_major : which of the two events it is attached to
    every : send a record for events without a prediction, too
    ring_bytes : of records in the map `ring`: a power of two, and of layout.record_stride at least
    ip_offset, address_offset : in struct bpf_perf_event_data of this architecture
    """

    is_major: bool
    every: bool
    ring_bytes: int
    ip_offset: int
    address_offset: int


def emit_fault(asm: Emitter, layout: Layout, wrapper: FaultWrapper) -> None:
    """Emit a program for perf events; it returns 0, so that perf writes no sample."""
    _note_fault(asm, wrapper)
    _find_slot(asm, is_event_if_free=wrapper.is_major)
    _lock(asm, _counter("major_contended" if wrapper.is_major else "minor_contended"))
    _fill_context(asm, layout, is_major=wrapper.is_major)
    emit_policy(asm, "unlock")
    emit_decision(asm, layout)
    _count_event(asm, wrapper)
    _send(asm, layout, wrapper)
    asm.label("unlock")
    asm.map_value(R2, "shared", LOCK)
    asm.store_constant(R2, 0, 0)
    asm.label("out")
    asm.alu("mov", R0, 0)
    asm.exit()


def _counter(name: str) -> int:
    return 8 * (1 + SHARED_COUNTERS.index(name))


def _note_fault(asm: Emitter, wrapper: FaultWrapper) -> None:
    """Put task, process, page and instruction on the stack."""
    asm.load(R2, R1, wrapper.address_offset)
    asm.alu("rsh", R2, PAGE_SHIFT)
    asm.store(R10, VPN, R2)
    asm.load(R2, R1, wrapper.ip_offset)
    asm.store(R10, IP, R2)
    asm.call(GET_CURRENT_PID_TGID)
    asm.store(R10, TASK, R0)
    asm.alu("rsh", R0, 32)
    asm.store(R10, PID, R0)


def _find_slot(asm: Emitter, *, is_event_if_free: bool) -> None:
    """Put the hash of the process on the stack; leave unless the page was asked for or need not be."""
    emit_hash(asm, R10, [PID])
    asm.store(R10, PROCESS, R1)
    if not is_event_if_free:
        asm.load(R1, R10, VPN)
        _to_slot(asm)
        asm.load(R2, R4, 0, TAG_BYTES)
        asm.jump_if_register(R2, "!=", R1, "out")


def _to_slot(asm: Emitter) -> None:
    """R1 = the tag of the page R1 of this process, R4 = its slot; R3 is lost."""
    asm.load(R3, R10, PROCESS)
    asm.alu_register("add", R1, R3)
    asm.alu_register("mov", R3, R1)
    asm.alu("and", R3, ASKED_SLOTS - 1)
    asm.alu("lsh", R3, TAG_BYTES.bit_length() - 1)
    asm.map_value(R4, "asked", 0)
    asm.alu_register("add", R4, R3)
    asm.alu("lsh", R1, 64 - SLOT_BITS - 8 * TAG_BYTES)
    asm.alu("rsh", R1, 64 - 8 * TAG_BYTES)


def _lock(asm: Emitter, contended: int) -> None:
    asm.map_value(R6, "shared", LOCK)
    asm.alu("mov", R7, 0)
    asm.label("spin")
    asm.alu("mov", R0, 0)
    asm.alu("mov", R1, 1)
    asm.compare_exchange(R6, 0, R1)
    asm.jump_if(R0, "==", 0, "locked")
    asm.alu("add", R7, 1)
    asm.jump_if(R7, "<", SPINS, "spin")
    asm.map_value(R1, "shared", contended)
    asm.alu("mov", R2, 1)
    asm.atomic_add(R1, 0, R2)
    asm.jump("out")
    asm.label("locked")


def _fill_context(asm: Emitter, layout: Layout, *, is_major: bool) -> None:
    """Free the page's slot; fill the context. The time is taken here, so that records are in order.

    And before all else: the clock is not read before every load has come that was begun.
    """
    asm.call(KTIME_GET_NS)
    asm.store(R10, TIME, R0)
    asm.map_value(R9, "scratch", 0)
    asm.load(R1, R10, VPN)
    _to_slot(asm)
    asm.load(R2, R4, 0, TAG_BYTES)
    asm.jump_if_register(R2, "!=", R1, "another's")
    asm.store_constant(R4, 0, 0, TAG_BYTES)
    asm.label("another's")
    asm.load(R1, R10, TASK)
    asm.alu("and", R1, 0x7FFF_FFFF)  # a thread's number, never as large
    asm.store(R9, layout.context("tid"), R1)
    asm.load(R1, R10, PID)
    asm.store(R9, layout.context("pid"), R1)
    asm.load(R1, R10, IP)
    asm.store(R9, layout.context("ip"), R1)
    asm.load(R1, R10, VPN)
    asm.store(R9, layout.context("vpn"), R1)
    asm.alu("rsh", R1, REGION_SHIFT)
    asm.store(R9, layout.context("region"), R1)
    asm.store_constant(R9, layout.context("major"), int(is_major))


def _count_event(asm: Emitter, wrapper: FaultWrapper) -> None:
    """R6 = the number of pages, R7 = the event's number, from 1 on; leave if there is nothing to send."""
    asm.load(R6, R9, N_PAGES)
    asm.map_value(R1, "shared", 0)
    asm.load(R7, R1, _counter("minor_events"))
    asm.load(R2, R1, _counter("major_events"))
    asm.alu_register("add", R7, R2)
    asm.alu("add", R7, 1)
    _count(asm, "major_events" if wrapper.is_major else "minor_events")
    if not wrapper.every:
        asm.jump_if(R6, "==", 0, "unlock")


def _count(asm: Emitter, counter: str) -> None:
    """Add 1 to a counter of `shared`, which is R1, under the lock."""
    asm.load(R2, R1, _counter(counter))
    asm.alu("add", R2, 1)
    asm.store(R1, _counter(counter), R2)


def _find_record(asm: Emitter, layout: Layout, wrapper: FaultWrapper) -> None:
    """R8 = where the record goes, in the ring, if it has room; and on the stack what will then be written.

    A ring of our own, under our own lock: bpf_ringbuf_output() takes 200 ns.
    """
    asm.map_value(R5, "ring", 0)
    asm.load(R3, R5, RING_WRITTEN)
    asm.load(R2, R5, RING_READ)
    asm.alu_register("mov", R8, R3)
    asm.alu_register("mov", R4, R3)
    asm.alu_register("sub", R4, R2)
    asm.jump_if(R4, "<", wrapper.ring_bytes, "room")
    _count(asm, "lost")
    asm.store(R10, WRITTEN, R3)
    asm.alu("mov", R8, RING_SPARE)
    asm.jump("found")
    asm.label("room")
    asm.alu("add", R3, layout.record_stride)
    asm.store(R10, WRITTEN, R3)
    asm.alu("and", R8, wrapper.ring_bytes - layout.record_stride)
    asm.alu("add", R8, RING_DATA)
    asm.label("found")
    asm.alu_register("add", R8, R5)


def _write_head(asm: Emitter, wrapper: FaultWrapper) -> None:
    """Write all of a record but its pages: time, task, page, ip, event, version, number of pages."""
    asm.load(R3, R10, VPN)
    asm.alu("lsh", R3, 1)
    asm.alu("or", R3, int(wrapper.is_major))
    asm.load(R1, R10, TIME)
    asm.load(R2, R10, TASK)
    asm.load(R4, R10, IP)
    asm.load(R5, R9, DECIDED_BY)
    for at, source in enumerate((R1, R2, R3, R4, R7, R5, R6)):
        asm.store(R8, 8 * at, source)


def _send(asm: Emitter, layout: Layout, wrapper: FaultWrapper) -> None:
    """Write the record, and then say that it is there; leave the tag of each page in its slot of `asked`.

    From the last page to the first: of two with the same slot the earlier one stays.
    """
    last = 8 * (layout.shape.degree_pages - 1)
    asm.jump_if(R6, "==", 0, "none")
    _count(asm, "decisions")
    asm.label("none")
    _find_record(asm, layout, wrapper)
    _write_head(asm, wrapper)
    asm.alu("lsh", R6, 3)
    asm.jump_if(R6, ">", last + 8, "sent")  # never: the bound of the loop
    asm.label("page")
    asm.alu("add", R6, -8)
    asm.jump_if(R6, ">", last, "sent")
    asm.alu_register("mov", R2, R9)
    asm.alu_register("add", R2, R6)
    asm.load(R1, R2, layout.out)
    asm.alu_register("mov", R2, R8)
    asm.alu_register("add", R2, R6)
    asm.store(R2, 8 * RECORD_WORDS, R1)
    _to_slot(asm)
    asm.store(R4, 0, R1, TAG_BYTES)
    asm.jump("page")
    asm.label("sent")
    asm.load(R3, R10, WRITTEN)
    asm.map_value(R1, "ring", 0)
    asm.store(R1, RING_WRITTEN, R3)
