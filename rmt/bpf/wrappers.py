"""Whole programs around the decision: for the kernel's test runs, over many events and over one packet.

Where the policy comes from: a map of maps with one slot, in which a new version can be put while the program
runs, or a map's value itself, for objects that are loaded by others.
"""

from kdtool.rmt.bpf.decision import emit_decision
from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R6, R8, R9, R10, Emitter
from kdtool.rmt.bpf.layout import DECIDED_BY, N_PAGES, Layout

__all__ = ["decision_words", "emit_batch", "emit_packet", "emit_policy"]

MAP_LOOKUP_ELEM = 1
"""enum bpf_func_id."""
XDP_DATA, XDP_DATA_END = 0, 4
"""In struct xdp_md."""


def decision_words(layout: Layout) -> int:
    """Return the words of a decision in the map `decisions`: version, number of pages, pages."""
    return 2 + layout.shape.degree_pages


def emit_policy(asm: Emitter, otherwise: str) -> None:
    """R8 = the policy that is in the slot of the map `policies` now; go to `otherwise` if there is none.

    The decision that follows goes by this one policy, whatever is put into the slot meanwhile: the kernel
    frees it when no program that could see it runs any more.
    """
    asm.store_constant(R10, -4, 0, 4)
    for number in range(2):
        asm.alu_register("mov", R2, R10)
        asm.alu("add", R2, -4)
        if number == 0:
            asm.map(R1, "policies")
        else:
            asm.alu_register("mov", R1, R0)
        asm.call(MAP_LOOKUP_ELEM)
        asm.jump_if(R0, "==", 0, otherwise)
    asm.alu_register("mov", R8, R0)


def emit_batch(asm: Emitter, layout: Layout, batch: int, *, decide: bool = True) -> None:
    """Emit a program that takes the next event from the map `events` and writes to `decisions`.

    batch : events in the map, a power of two, after a word that counts them
    decide : False makes the program that all but decides, to be subtracted from what deciding costs

    It returns the number of pages, -1 without a policy.
    """
    words = decision_words(layout)
    asm.map_value(R9, "scratch", 0)
    emit_policy(asm, "none")
    asm.map_value(R1, "events", 0)
    asm.load(R2, R1, 0)
    asm.alu("and", R2, batch - 1)
    asm.alu("mul", R2, 8 * layout.event_words)
    asm.alu_register("add", R1, R2)
    for i in range(layout.event_words):
        asm.load(R3, R1, 8 + 8 * i)
        asm.store(R9, layout.event + 8 * i, R3)
    if decide:
        emit_decision(asm, layout)
    asm.map_value(R1, "events", 0)
    asm.load(R6, R1, 0)
    asm.alu_register("mov", R2, R6)
    asm.alu("add", R6, 1)
    asm.store(R1, 0, R6)
    asm.alu("and", R2, batch - 1)
    asm.alu("mul", R2, 8 * words)
    asm.map_value(R4, "decisions", 0)
    asm.alu_register("add", R4, R2)
    asm.load(R0, R9, DECIDED_BY)
    asm.store(R4, 0, R0)
    asm.load(R0, R9, N_PAGES)
    asm.store(R4, 8, R0)
    _copy_pages(asm, layout, R4, 16)
    asm.exit()
    asm.label("none")
    asm.alu("mov", R0, -1)
    asm.exit()


def emit_packet(asm: Emitter, layout: Layout) -> None:
    """Emit an XDP program: the event in the packet's first words, the pages after them.

    The policy is the value of the map `policy` itself. It returns the number of pages, -1 for a packet
    shorter than event_words + degree_pages words.
    """
    asm.load(R2, R1, XDP_DATA, 4)
    asm.load(R3, R1, XDP_DATA_END, 4)
    asm.alu_register("mov", R6, R1)
    _check_packet(asm, layout)
    asm.map_value(R9, "scratch", 0)
    asm.map_value(R8, "policy", 0)
    for i in range(layout.event_words):
        asm.load(R3, R2, 8 * i)
        asm.store(R9, layout.event + 8 * i, R3)
    asm.store(R10, -8, R6)
    emit_decision(asm, layout)
    asm.load(R6, R10, -8)
    asm.load(R2, R6, XDP_DATA, 4)
    asm.load(R3, R6, XDP_DATA_END, 4)
    _check_packet(asm, layout)
    asm.load(R0, R9, N_PAGES)
    _copy_pages(asm, layout, R2, 8 * layout.event_words)
    asm.exit()
    asm.label("short")
    asm.alu("mov", R0, -1)
    asm.exit()


def _check_packet(asm: Emitter, layout: Layout) -> None:
    asm.alu_register("mov", R4, R2)
    asm.alu("add", R4, 8 * (layout.event_words + layout.shape.degree_pages))
    asm.jump_if_register(R4, ">", R3, "short")


def _copy_pages(asm: Emitter, layout: Layout, to: int, offset: int) -> None:
    """Copy the R0 pages from scratch; R0 is their number again afterwards."""
    for i in range(layout.shape.degree_pages):
        asm.load(R0, R9, N_PAGES)
        asm.jump_if(R0, "<=", i, "copied")
        asm.load(R3, R9, layout.out + 8 * i)
        asm.store(to, offset + 8 * i, R3)
    asm.label("copied")
    asm.load(R0, R9, N_PAGES)
