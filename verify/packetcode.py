"""The code that an object file holds: one decision for one packet, assembled but not loaded."""

from kdtool.kernel.bpf_asm import Assembler
from kdtool.rmt.bpf import Layout, emit_packet

__all__ = ["packet_code"]


def packet_code(layout: Layout) -> Assembler:
    """Return the XDP program of emit_packet for `layout`; maps are still names."""
    asm = Assembler()
    emit_packet(asm, layout)
    return asm
