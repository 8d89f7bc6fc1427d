"""Code that looks up a table and performs its action: R0 = the predicted difference, 0 for none, or a class.

The scan's position is kept in memory: a position in a register, on which an address depends, would make the
kernel's verifier follow the loop entry by entry.
"""

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R8, R9, Emitter
from kdtool.rmt.bpf.layout import ACTION_BYTES, CURSOR, X_BYTES, Layout, TableLayout
from kdtool.rmt.bpf.modeldata import INFER, INFER_FOREST, INFER_NETWORK
from kdtool.rmt.bpf.models import emit_forest, emit_walk
from kdtool.rmt.bpf.networks import emit_network
from kdtool.rmt.bpf.parts import emit_load_feature
from kdtool.rmt.bpf.policy import CONSTANT, COUNT, STOP
from kdtool.rmt.program import MatchField

__all__ = ["emit_table"]


def emit_table(asm: Emitter, layout: Layout, number: int, *, stop: str, decided: str) -> None:
    """Apply a table: go to `decided` with R0, the answer, to `stop`, or on with the next table."""
    shape, label = layout.shape.tables[number], f"t{number}"
    is_class = bool(layout.shape.hook.classes)
    answered = decided if is_class else f"{label}.have"
    _look_up(asm, layout, number, stop)
    asm.label(f"{label}.found")
    asm.jump_if(R4, "==", CONSTANT, f"{label}.have")
    asm.jump_if(R4, "==", STOP, stop)
    if layout.shape.counters:
        asm.jump_if(R4, "==", COUNT, f"{label}.count")
    if shape.trees:
        asm.jump_if(R4, "==", INFER, f"{label}.infer")
    if shape.forests:
        asm.jump_if(R4, "==", INFER_FOREST, f"{label}.sum")
    if shape.networks:
        asm.jump_if(R4, "==", INFER_NETWORK, f"{label}.run")
    if not is_class:  # what is left is to follow; else, to classify
        _follow(asm, layout)
    if is_class or layout.shape.counters or shape.trees or shape.forests or shape.networks:
        asm.jump(answered)
    _emit_models(asm, layout, number, stop, answered)
    if layout.shape.counters:
        asm.label(f"{label}.count")
        _count(asm, layout)
    asm.label(f"{label}.have")
    if not is_class:
        asm.jump_if(R0, "!=", 0, decided)


def _emit_models(asm: Emitter, layout: Layout, number: int, stop: str, answered: str) -> None:
    shape, label = layout.shape.tables[number], f"t{number}"
    if shape.trees:
        asm.label(f"{label}.infer")
        emit_walk(asm, layout, layout.shape.steps)
        asm.jump(answered)
    if shape.forests:
        asm.label(f"{label}.sum")
        emit_forest(asm, layout, f"{label}.forest", stop)
        asm.jump(answered)
    if shape.networks:
        asm.label(f"{label}.run")
        emit_network(asm, layout, f"{label}.network", stop)
        asm.jump(answered)


def _follow(asm: Emitter, layout: Layout) -> None:
    asm.alu("and", R1, layout.x_mask)
    asm.alu_register("mov", R3, R9)
    asm.alu_register("add", R3, R1)
    emit_load_feature(asm, R0, R3, layout.x)


def _count(asm: Emitter, layout: Layout) -> None:
    """Add 1 to the counter at R1; R0 = 0."""
    asm.alu("and", R1, layout.counter_mask)
    asm.map_value(R2, "counters", 0)
    asm.alu_register("add", R2, R1)
    asm.load(R1, R2, 0)
    asm.alu("add", R1, 1)
    asm.store(R2, 0, R1)


def _look_up(asm: Emitter, layout: Layout, number: int, stop: str) -> None:
    """R0 = answer, R4 = kind, R1 = argument of the first entry that matches; the last match everything."""
    fields, place, label = layout.shape.tables[number].match_fields, layout.tables[number], f"t{number}"
    if not fields:
        asm.alu_register("mov", R3, R8)
        asm.alu("add", R3, place.offset)
        _load_action(asm, 0)
        return
    if place.last:
        _next_entries(asm, place, f"{label}.loop", stop)
    else:
        asm.alu_register("mov", R3, R8)
        asm.alu("add", R3, place.offset)
    for i in range(place.unroll):
        for f, field in enumerate(fields):
            cell = i * place.stride + ACTION_BYTES + 16 * f
            _match(asm, layout, field, cell, f"{label}.next{i}")
        _load_action(asm, i * place.stride)
        asm.jump(f"{label}.found")
        asm.label(f"{label}.next{i}")
    asm.jump(f"{label}.loop" if place.last else stop)


def _next_entries(asm: Emitter, place: TableLayout, loop: str, stop: str) -> None:
    """R3 = the next entries that are tested in a row, of a table that has more."""
    asm.store_constant(R9, CURSOR, 0)
    asm.label(loop)
    asm.may_goto(stop)
    asm.load(R1, R9, CURSOR)
    asm.jump_if(R1, ">", place.last, stop)
    asm.alu_register("mov", R3, R8)
    asm.alu("add", R3, place.offset)
    asm.alu_register("add", R3, R1)
    asm.alu("add", R1, place.unroll * place.stride)
    asm.store(R9, CURSOR, R1)


def _load_action(asm: Emitter, offset: int) -> None:
    asm.load(R0, R3, offset)
    asm.load(R4, R3, offset + 8, 4)
    asm.load(R1, R3, offset + 12, 4)


def _load_field(asm: Emitter, layout: Layout, name: str) -> None:
    """R4 = the value of a match field."""
    if name in layout.shape.hook.values:
        asm.load(R4, R9, layout.context(name))
    else:
        number = [f.name for f in layout.shape.features].index(name)
        emit_load_feature(asm, R4, R9, layout.x + X_BYTES * number)


def _match(asm: Emitter, layout: Layout, field: MatchField, cell: int, otherwise: str) -> None:
    _load_field(asm, layout, field.name)
    asm.load(R5, R3, cell)
    asm.load(R2, R3, cell + 8)
    if field.match_type in ("EXACT", "RANGE"):
        asm.alu_register("sub", R4, R5)
        asm.jump_if_register(R4, ">", R2, otherwise)
    else:
        asm.alu_register("and", R4, R5)
        asm.jump_if_register(R4, "!=", R2, otherwise)
