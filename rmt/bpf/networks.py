"""Code that runs a network: a loop over its inputs, one over its sums, one over the classes.

Positions are kept in memory, and no branch depends on a value: see `models`.
"""

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R8, R9, Emitter
from kdtool.rmt.bpf.layout import (
    ANSWER_BYTES,
    BLOCK_BYTES,
    LOW_BIT,
    ROW_BIAS,
    ROW_BYTES,
    ROW_END,
    ROW_HALF,
    ROW_MULTIPLIER,
    ROW_SHIFT,
    ROW_SOURCE,
    ROW_TARGET,
    ROW_WEIGHTS,
    Layout,
)
from kdtool.rmt.bpf.shape import WEIGHTS_A_BLOCK
from kdtool.rmt.networks import INT8_MAX

__all__ = ["emit_choose", "emit_keep_larger", "emit_network"]

ROW, INPUTS_END, ROWS_END, SUM, ANSWER, ANSWERS_END, SOURCE, WEIGHT, WEIGHTS_END = range(0, 72, 8)
"""Loop variables, as offsets from layout.loop. The first six are a network's record."""
RECORD_WORDS = 6
NEVER = -(2**62)
"""Below every sum."""


def emit_choose(asm: Emitter, kept: int, other: int, mask: int) -> None:
    """Make `kept` the `other`, which is lost, where `mask` is all ones and not 0."""
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


def emit_network(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R0 = the answer of the network that lies at R1 in networks; labels begin with `label`."""
    _at(asm, R1, layout.network_mask, layout.networks)
    for word in range(RECORD_WORDS):
        asm.load(R2, R1, 8 * word)
        asm.store(R9, layout.loop + 8 * word, R2)
    _take_inputs(asm, layout, f"{label}.inputs", stop)
    _make_sums(asm, layout, f"{label}.sums", stop)
    _largest_sum(asm, layout, f"{label}.classes", stop)


def _at(asm: Emitter, register: int, mask: int, region: int) -> None:
    """Make an offset in a region of the policy an address."""
    asm.alu("and", register, mask)
    asm.alu_register("add", register, R8)
    asm.alu("add", register, region)


def _next(asm: Emitter, layout: Layout, loop: tuple[int, int, int], done: str) -> None:
    """R1 = a loop's position, which moves on by a step; go to `done` at its end. R2 is lost."""
    variable, end, step = loop
    asm.load(R1, R9, layout.loop + variable)
    asm.load(R2, R9, layout.loop + end)
    asm.jump_if_register(R1, ">=", R2, done)
    asm.load(R1, R9, layout.loop + variable)  # anew: without what the comparison says of it
    asm.alu_register("mov", R2, R1)
    asm.alu("add", R2, step)
    asm.store(R9, layout.loop + variable, R2)


def _take_inputs(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    asm.label(label)
    asm.may_goto(stop)
    _next(asm, layout, (ROW, INPUTS_END, ROW_BYTES), f"{label}.end")
    _at(asm, R1, layout.row_mask, layout.rows)
    asm.load(R3, R1, ROW_SOURCE)
    asm.alu("and", R3, layout.x_mask)
    asm.alu_register("add", R3, R9)
    asm.load(R0, R3, layout.x)
    _requantise(asm)
    _store_value(asm, layout)
    asm.jump(label)
    asm.label(f"{label}.end")


def _make_sums(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    asm.label(label)
    asm.may_goto(stop)
    _next(asm, layout, (ROW, ROWS_END, ROW_BYTES), f"{label}.end")
    _at(asm, R1, layout.row_mask, layout.rows)
    asm.load(R0, R1, ROW_BIAS)
    for variable, word in ((SOURCE, ROW_SOURCE), (WEIGHT, ROW_WEIGHTS), (WEIGHTS_END, ROW_END)):
        asm.load(R2, R1, word)
        asm.store(R9, layout.loop + variable, R2)
    _add_products(asm, layout, f"{label}.products", stop)
    asm.load(R1, R9, layout.loop + ROW)
    asm.alu("sub", R1, ROW_BYTES)
    _at(asm, R1, layout.row_mask, layout.rows)
    asm.load(R2, R1, ROW_MULTIPLIER)
    asm.jump_if(R2, "==", 0, f"{label}.as_it_is")
    _requantise(asm)
    asm.label(f"{label}.as_it_is")
    _store_value(asm, layout)
    asm.jump(label)
    asm.label(f"{label}.end")


def _add_products(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R0 += a row of weights times the values from its source on."""
    asm.label(label)
    asm.may_goto(stop)
    _next(asm, layout, (WEIGHT, WEIGHTS_END, BLOCK_BYTES), f"{label}.end")
    _at(asm, R1, layout.weight_mask, layout.weights)
    asm.load(R3, R9, layout.loop + SOURCE)
    asm.alu_register("mov", R4, R3)
    asm.alu("add", R4, BLOCK_BYTES)
    asm.store(R9, layout.loop + SOURCE, R4)
    asm.alu("and", R3, layout.value_mask)
    asm.alu_register("add", R3, R9)
    for i in range(WEIGHTS_A_BLOCK):
        asm.load(R4, R1, 8 * i)
        asm.load(R5, R3, layout.network_values + 8 * i)
        asm.alu_register("mul", R4, R5)
        asm.alu_register("add", R0, R4)
    asm.jump(label)
    asm.label(f"{label}.end")


def _requantise(asm: Emitter) -> None:
    """R0 = R0 * multiplier / 2**shift, rounded half to even and clamped, by the row R1."""
    asm.load(R2, R1, ROW_MULTIPLIER)
    asm.alu_register("mul", R0, R2)
    asm.load(R3, R1, ROW_SHIFT)
    asm.alu_register("mov", R2, R0)
    asm.alu_register("arsh", R2, R3)
    asm.alu("and", R2, 1)
    asm.load(R4, R1, ROW_HALF)
    asm.alu_register("add", R0, R4)
    asm.alu_register("add", R0, R2)
    asm.alu_register("arsh", R0, R3)
    asm.load(R4, R1, ROW_TARGET)
    asm.alu("arsh", R4, LOW_BIT)
    asm.alu_register("mov", R2, R0)
    asm.alu_register("sub", R2, R4)
    asm.alu("arsh", R2, 63)  # all ones where it is less than the least
    emit_choose(asm, R0, R4, R2)
    asm.alu("mov", R4, INT8_MAX)
    asm.alu("mov", R2, INT8_MAX)
    asm.alu_register("sub", R2, R0)
    asm.alu("arsh", R2, 63)  # all ones where it is more than the most
    emit_choose(asm, R0, R4, R2)


def _store_value(asm: Emitter, layout: Layout) -> None:
    """Store R0 as the value of the row R1."""
    asm.load(R2, R1, ROW_TARGET)
    asm.alu("and", R2, layout.value_mask)
    asm.alu_register("add", R2, R9)
    asm.store(R2, layout.network_values, R0)


def _largest_sum(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R0 = the answer of the class with the largest sum, R3 that sum; the first of several."""
    asm.alu("mov", R0, 0)
    asm.constant(R3, NEVER)
    asm.label(label)
    asm.may_goto(stop)
    _next(asm, layout, (ANSWER, ANSWERS_END, ANSWER_BYTES), f"{label}.end")
    _at(asm, R1, layout.answer_mask, layout.answers)
    asm.load(R5, R1, 0)
    asm.load(R1, R9, layout.loop + SUM)
    asm.alu_register("mov", R2, R1)
    asm.alu("add", R2, 8)
    asm.store(R9, layout.loop + SUM, R2)
    asm.alu("and", R1, layout.value_mask)
    asm.alu_register("add", R1, R9)
    asm.load(R4, R1, layout.network_values)
    emit_keep_larger(asm)
    asm.jump(label)
    asm.label(f"{label}.end")
