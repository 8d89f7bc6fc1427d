"""Code that runs a network: a loop over its inputs, one over pairs of sums, one over the classes.

Positions are kept in memory, and no branch depends on a value: see `models`. One multiplication makes two
products: a word of weights is one unit's plus 2**32 times the next one's, and so is the sum of products, of
which each half is below 2**31 in size (networkdata.py).
"""

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Emitter
from kdtool.rmt.bpf.layout import (
    ANSWER_BYTES,
    ROW_BIASES,
    ROW_BYTES,
    ROW_END,
    ROW_HALF,
    ROW_MULTIPLIER,
    ROW_SHIFT,
    ROW_SOURCE,
    ROW_TARGET,
    ROW_WEIGHTS,
    WEIGHT_BLOCK_BYTES,
    Layout,
)
from kdtool.rmt.bpf.parts import (
    emit_at_least,
    emit_at_most,
    emit_keep_larger,
    emit_load_feature,
    emit_put_aside,
    emit_take_back,
)
from kdtool.rmt.bpf.shape import WEIGHTS_A_BLOCK
from kdtool.rmt.networks import INT8_MAX, INT8_MIN

__all__ = ["emit_network"]

ROW, INPUTS_END, ROWS_END, SUM, ANSWER, ANSWERS_END = range(0, 48, 8)
"""Loop variables, as offsets from layout.loop: a network's record."""
RECORD_WORDS = 6
NEVER = -(2**62)
"""Below every sum."""


def emit_network(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R0 = the answer of the network that lies at R1 in networks; labels begin with `label`."""
    emit_put_aside(asm)
    _at(asm, R1, layout.network_mask, layout.networks)
    for word in range(RECORD_WORDS):
        asm.load(R2, R1, 8 * word)
        asm.store(R9, layout.loop + 8 * word, R2)
    _take_inputs(asm, layout, f"{label}.inputs", stop)
    _make_sums(asm, layout, f"{label}.sums", stop)
    emit_take_back(asm)
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
    _next_row(asm, layout, INPUTS_END, f"{label}.end")
    asm.load(R0, R5, ROW_SOURCE)
    asm.alu("and", R0, layout.x_mask)
    asm.alu_register("add", R0, R9)
    emit_load_feature(asm, R0, R0, layout.x)
    _scale(asm)
    emit_at_least(asm, INT8_MIN)
    emit_at_most(asm, INT8_MAX)
    _target(asm, layout)
    asm.store(R1, layout.network_values, R0)
    asm.jump(label)
    asm.label(f"{label}.end")


def _make_sums(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    asm.label(label)
    asm.may_goto(stop)
    _next_row(asm, layout, ROWS_END, f"{label}.end")
    _add_products(asm, layout, f"{label}.products", stop)
    asm.alu_register("mov", R7, R6)  # the first of two sums in the lower half
    asm.alu("lsh", R7, 32)
    asm.alu("arsh", R7, 32)
    asm.alu_register("sub", R6, R7)
    asm.alu("arsh", R6, 32)
    for number, total in enumerate((R7, R6)):
        asm.load_signed(R0, R5, ROW_BIASES + 4 * number, 4)
        asm.alu_register("add", R0, total)
        asm.load(R1, R5, ROW_MULTIPLIER)
        asm.jump_if(R1, "==", 0, f"{label}.as_it_is{number}")
        _scale(asm)
        emit_at_least(asm, 0)
        emit_at_most(asm, INT8_MAX)
        asm.label(f"{label}.as_it_is{number}")
        _target(asm, layout)
        asm.store(R1, layout.network_values + 8 * number, R0)
    asm.jump(label)
    asm.label(f"{label}.end")


def _next_row(asm: Emitter, layout: Layout, end: int, done: str) -> None:
    """R5 = the next row; go to `done` after the last one."""
    _next(asm, layout, (ROW, end, ROW_BYTES), done)
    asm.alu_register("mov", R5, R1)
    _at(asm, R5, layout.row_mask, layout.rows)


def _add_products(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R6 = the sum of products of the row R5: its words of weights times the values from its source on."""
    asm.alu("mov", R6, 0)
    asm.load(R0, R5, ROW_WEIGHTS)
    asm.load(R7, R5, ROW_SOURCE)
    asm.label(label)
    asm.may_goto(stop)
    asm.alu_register("mov", R1, R0)
    _at(asm, R1, layout.weight_mask, layout.weights)
    asm.alu_register("mov", R2, R7)
    asm.alu("and", R2, layout.value_mask)
    asm.alu_register("add", R2, R9)
    for i in range(WEIGHTS_A_BLOCK):
        asm.load(R3, R1, 8 * i)
        asm.load(R4, R2, layout.network_values + 8 * i)
        asm.alu_register("mul", R3, R4)
        asm.alu_register("add", R6, R3)
    asm.alu("add", R0, WEIGHT_BLOCK_BYTES)
    asm.alu("add", R7, WEIGHT_BLOCK_BYTES)
    asm.load(R1, R5, ROW_END)
    asm.jump_if_register(R0, "<", R1, label)


def _scale(asm: Emitter) -> None:
    """R0 = R0 * multiplier / 2**shift, rounded half to even, by the row R5."""
    asm.load(R1, R5, ROW_MULTIPLIER)
    asm.alu_register("mul", R0, R1)
    asm.load(R3, R5, ROW_SHIFT)
    asm.alu_register("mov", R2, R0)
    asm.alu_register("arsh", R2, R3)
    asm.alu("and", R2, 1)
    asm.load(R4, R5, ROW_HALF)
    asm.alu_register("add", R0, R4)
    asm.alu_register("add", R0, R2)
    asm.alu_register("arsh", R0, R3)


def _target(asm: Emitter, layout: Layout) -> None:
    """R1 = where, from layout.network_values on, the row R5's value goes."""
    asm.load(R1, R5, ROW_TARGET)
    asm.alu("and", R1, layout.value_mask)
    asm.alu_register("add", R1, R9)


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
