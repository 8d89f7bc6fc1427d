"""Loading programs that loop by `may_goto`: where the kernel does not know it, say that, not what it said."""

import os

from kdtool.errors import CapabilityError
from kdtool.kernel.bpf import SOCKET_FILTER, load_program
from kdtool.kernel.bpf_asm import R0, Assembler

__all__ = ["load_looping_program"]


def load_looping_program(kind: int, code: bytes) -> int:
    """Load as `load_program` does; CapabilityError on a kernel before Linux 6.9."""
    try:
        return load_program(kind, code)
    except RuntimeError:
        _require_loops()
        raise


def _require_loops() -> None:
    """Try the smallest program that has such a loop."""
    asm = Assembler()
    asm.alu("mov", R0, 0)
    asm.label("loop")
    asm.may_goto("end")
    asm.jump("loop")
    asm.label("end")
    asm.exit()
    try:
        os.close(load_program(SOCKET_FILTER, asm.assemble()))
    except RuntimeError:
        raise CapabilityError("BPF: this kernel has no loops by may_goto: use Linux 6.9 or later") from None
