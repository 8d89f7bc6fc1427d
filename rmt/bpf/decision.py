"""Code that decides: the event in, features, tables, rollout. The one body of every BPF program of ours.

R9 = scratch, with the context in it; R8 = policy  -->  pages in scratch, their number and the version;
                                                        R8 and R9 as before, others lost

A class is one number in the place of the pages.
"""

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R5, R6, R7, R8, R9, Emitter
from kdtool.rmt.bpf.features import emit_features, emit_move_on, emit_push
from kdtool.rmt.bpf.layout import (
    ANSWER,
    DECIDED_BY,
    DEFAULT_CLASS,
    DEGREE,
    DELTA_LIMIT,
    LOOKED_AT,
    N_PAGES,
    RUN,
    STEP,
    VERSION,
    Layout,
)
from kdtool.rmt.bpf.tables import emit_table
from kdtool.rmt.hooks import PAGE
from kdtool.rmt.vm import VPN_LIMIT

__all__ = ["emit_decision"]

VPN_BITS = VPN_LIMIT.bit_length() - 1


def emit_decision(asm: Emitter, layout: Layout) -> None:
    """Emit the counterpart of `Vm.decide`. It uses labels without a prefix, so once a program."""
    emit_push(asm, layout)
    asm.store_constant(R9, STEP, 0)
    asm.store_constant(R9, ANSWER, 0)
    if layout.shape.hook.classes:
        _classify(asm, layout)
    else:
        _roll_out(asm, layout)
    asm.load(R1, R9, STEP)
    asm.alu("rsh", R1, 3)
    asm.store(R9, N_PAGES, R1)
    asm.load(R1, R8, VERSION)
    asm.store(R9, DECIDED_BY, R1)


def _classify(asm: Emitter, layout: Layout) -> None:
    """Put the number of a class where the first page would lie."""
    asm.alu("mov", R6, 0)  # a rollout's first step: models keep both registers
    asm.alu_register("mov", R7, R9)
    _apply_tables(asm, layout, stop="default", decided="decided")
    asm.label("default")
    asm.load(R0, R8, DEFAULT_CLASS)
    asm.label("decided")
    asm.store(R9, layout.out, R0)
    asm.store_constant(R9, STEP, 8)


def _roll_out(asm: Emitter, layout: Layout) -> None:
    """Predict page after page; STEP in scratch = 8 times their number.

    The event's page lies where the first one's predecessor would: in the place of their number, for now.
    """
    asm.load(R1, R9, layout.context(PAGE))
    asm.store(R9, N_PAGES, R1)
    asm.label("step")
    asm.may_goto("end")
    asm.load(R6, R9, STEP)
    asm.jump_if(R6, ">", 8 * (layout.shape.degree_pages - 1), "end")
    asm.alu_register("mov", R7, R9)
    asm.alu_register("add", R7, R6)
    _apply_tables(asm, layout, stop="end", decided="predicted")
    asm.jump("end")
    asm.label("predicted")
    _append_page(asm, layout)
    if layout.shape.counters:  # each step counts
        asm.jump("step")
    else:
        _repeat(asm, layout)
    asm.label("end")


def _apply_tables(asm: Emitter, layout: Layout, *, stop: str, decided: str) -> None:
    for number, table in enumerate(layout.shape.tables):
        for i in _histories_of_pages(layout):
            register, before = layout.shape.registers[i], number if number else -1
            most = layout.shape.looked_at(register, number + 1)
            if before < 0 or most != layout.shape.looked_at(register, before):
                asm.store_constant(R9, layout.history(i, LOOKED_AT), most)
        emit_features(asm, layout, table.features)
        emit_table(asm, layout, number, stop=stop, decided=decided)


def _histories_of_pages(layout: Layout) -> list[int]:
    """Return the registers that a rollout changes, as far as features look at them."""
    registers = enumerate(layout.shape.registers)
    return [i for i, each in registers if each.records == PAGE and layout.history_depth[i] > 1]


def _append_page(asm: Emitter, layout: Layout) -> None:
    """Append the newest page + R0 to the pages and their histories, unless a guard ends the rollout.

    Most rollouts repeat a difference, and then the processor need not wait until a model has said so: it goes
    on with the last one, by a branch that it foresees, and finds out meanwhile.
    """
    asm.load(R1, R9, ANSWER)
    asm.jump_if_register(R0, "!=", R1, "another")
    asm.alu_register("mov", R0, R1)
    asm.label("another")
    asm.store(R9, ANSWER, R0)
    asm.load(R1, R8, DELTA_LIMIT)
    asm.jump_if_register(R0, "s>", R1, "end")
    asm.alu("mov", R2, 0)
    asm.alu_register("sub", R2, R1)
    asm.jump_if_register(R0, "s<", R2, "end")
    asm.load(R2, R7, layout.out - 8)
    asm.alu_register("add", R2, R0)
    asm.alu_register("mov", R1, R2)
    asm.alu("rsh", R1, VPN_BITS)  # of a negative page too
    asm.jump_if(R1, "!=", 0, "end")
    asm.store(R7, layout.out, R2)
    asm.alu("add", R6, 8)
    asm.store(R9, STEP, R6)
    asm.load(R1, R8, DEGREE)
    asm.jump_if_register(R6, ">=", R1, "end")
    emit_move_on(asm, layout)


def _repeat(asm: Emitter, layout: Layout) -> None:
    """Append all that are left where they are R0 apart, behind the page R2; else leave it to the steps.

    They are when as many of the differences as the tables have looked at, and the one before those, are R0
    each: what the tables see at the next step is what they saw at this one.
    """
    for i in _histories_of_pages(layout):
        asm.load(R1, R9, layout.history(i, RUN))
        asm.load(R3, R9, layout.history(i, LOOKED_AT))
        asm.jump_if_register(R1, "<=", R3, "step")
    asm.load(R5, R8, DEGREE)
    asm.label("again")
    asm.jump_if(R6, ">", 8 * (layout.shape.degree_pages - 1), "repeated")
    asm.jump_if_register(R6, ">=", R5, "repeated")
    asm.alu_register("add", R2, R0)
    asm.alu_register("mov", R1, R2)
    asm.alu("rsh", R1, VPN_BITS)
    asm.jump_if(R1, "!=", 0, "repeated")
    asm.alu_register("mov", R7, R9)
    asm.alu_register("add", R7, R6)
    asm.store(R7, layout.out, R2)
    asm.alu("add", R6, 8)
    asm.jump("again")
    asm.label("repeated")
    asm.store(R9, STEP, R6)
