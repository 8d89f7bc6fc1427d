"""What models of several kinds are made of: choices without branches, registers put aside."""

from kdtool.rmt.bpf.emitter import R0, R2, R3, R4, R5, R6, R7, R9, R10, Emitter
from kdtool.rmt.bpf.layout import X_BIAS, X_BYTES, Layout

__all__ = [
    "emit_at_least",
    "emit_at_most",
    "emit_choose",
    "emit_keep_larger",
    "emit_load_feature",
    "emit_put_aside",
    "emit_store_feature",
    "emit_take_back",
]

ASIDE = {R6: -72, R7: -80}
"""On the stack, beyond what the wrappers put there."""


def emit_choose(asm: Emitter, kept: int, other: int, mask: int) -> None:
    """Make each bit of `kept` that of `other`, which is lost, where `mask` has a one."""
    asm.alu_register("xor", other, kept)
    asm.alu_register("and", other, mask)
    asm.alu_register("xor", kept, other)


def emit_keep_larger(asm: Emitter) -> None:
    """Of two sums keep the larger, R3 or R4, in R3 (R3 of equal ones), and its answer, R0 or R5, in R0."""
    asm.alu_register("mov", R2, R3)
    asm.alu_register("sub", R2, R4)
    asm.alu("arsh", R2, 63)  # all ones where R4 is larger
    emit_choose(asm, R3, R4, R2)
    emit_choose(asm, R0, R5, R2)


def emit_at_least(asm: Emitter, least: int) -> None:
    """R0 = the larger of R0 and `least`; R2 and R3 are lost."""
    asm.alu_register("mov", R2, R0)
    asm.alu("sub", R2, least)
    asm.alu_register("mov", R3, R2)
    asm.alu("arsh", R3, 63)
    asm.alu_register("and", R3, R2)  # what is missing, or 0
    asm.alu_register("sub", R0, R3)


def emit_at_most(asm: Emitter, most: int) -> None:
    """R0 = the smaller of R0 and `most`; R2 and R3 are lost."""
    asm.alu("mov", R2, most)
    asm.alu_register("sub", R2, R0)
    asm.alu_register("mov", R3, R2)
    asm.alu("arsh", R3, 63)
    asm.alu_register("and", R3, R2)
    asm.alu_register("add", R0, R3)


def emit_store_feature(asm: Emitter, layout: Layout, number: int, value: int) -> None:
    """Put what the register `value` holds into x as feature `number`; the register is lost."""
    asm.alu("sub", value, -X_BIAS)
    asm.store(R9, layout.x + X_BYTES * number, value, X_BYTES)


def emit_load_feature(asm: Emitter, to: int, base: int, offset: int) -> None:
    """Make `to` the feature that lies at base + offset, in x."""
    asm.load(to, base, offset, X_BYTES)
    asm.alu("add", to, -X_BIAS)


def emit_put_aside(asm: Emitter) -> None:
    """Keep R6 and R7 on the stack: they are free until `emit_take_back`."""
    for register, at in ASIDE.items():
        asm.store(R10, at, register)


def emit_take_back(asm: Emitter) -> None:
    """R6 and R7 are what they were at `emit_put_aside`."""
    for register, at in ASIDE.items():
        asm.load(register, R10, at)
