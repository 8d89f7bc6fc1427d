"""Code that pushes an event into the registers, and computes features from the histories in scratch.

Registers throughout the back end: R9 scratch, R8 policy, R7 scratch moved on by the rollout's steps, R6 that
distance; R0 to R5 are free. Lengths of histories and runs are loaded anew for each comparison: what the
kernel's verifier would learn from one about the next would make it follow every combination.
"""

from collections.abc import Sequence

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R7, R9, Emitter
from kdtool.rmt.bpf.layout import CONTEXT, COUNTS, RUN, Layout
from kdtool.rmt.program import CONTEXT_FIELDS, VALUE_MAX, VALUE_MIN, Feature
from kdtool.rmt.vm import MULTIPLIER

__all__ = ["emit_features", "emit_hash", "emit_push"]


def emit_push(asm: Emitter, layout: Layout) -> None:
    """Push the page of the context in scratch into every register; copy the histories to scratch."""
    for i, register in enumerate(layout.shape.registers):
        emit_hash(asm, R9, [CONTEXT + 8 * CONTEXT_FIELDS.index(name) for name in register.key])
        asm.alu_register("mov", R3, R1)
        asm.alu("and", R3, register.size - 1)
        asm.alu("mul", R3, layout.state_entry_bytes(i))
        asm.map_value(R4, "state", layout.state[i])
        asm.alu_register("add", R4, R3)
        _count(asm, i, layout.history_depth[i])
        _shift(asm, layout, i)


def emit_hash(asm: Emitter, base: int, offsets: Sequence[int]) -> None:
    """R1 = the hash of the words at base + offsets (vm.hash_key); R2 and R3 are lost."""
    asm.constant(R1, MULTIPLIER)
    asm.alu_register("mov", R2, R1)
    for offset in offsets:
        asm.load(R3, base, offset)
        asm.alu_register("xor", R1, R3)
        asm.alu_register("mul", R1, R2)
        asm.alu_register("mov", R3, R1)
        asm.alu("rsh", R3, 32)
        asm.alu_register("xor", R1, R3)


def _count(asm: Emitter, i: int, depth: int) -> None:
    """Take the entry at R4 for the key of hash R1: begin anew if it was another's, and count this page."""
    same, short = f"same{i}", f"short{i}"
    asm.load(R5, R4, 0)
    asm.store(R4, 0, R1)
    asm.load(R0, R4, 8)
    asm.jump_if_register(R5, "==", R1, same)
    asm.alu("mov", R0, 0)
    asm.label(same)
    asm.alu("add", R0, 1)
    asm.jump_if(R0, "<=", depth, short)
    asm.alu("mov", R0, depth)
    asm.label(short)
    asm.store(R4, 8, R0)
    asm.store(R9, COUNTS + 8 * i, R0)


def _shift(asm: Emitter, layout: Layout, i: int) -> None:
    newest = layout.newest(i)
    for lag in range(layout.history_depth[i] - 1, 0, -1):
        asm.load(R1, R4, 16 + 8 * (lag - 1))
        asm.store(R4, 16 + 8 * lag, R1)
        asm.store(R9, newest - 8 * lag, R1)
    asm.load(R1, R9, CONTEXT)
    asm.store(R4, 16, R1)
    asm.store(R9, newest, R1)


def emit_features(asm: Emitter, layout: Layout) -> None:
    """Compute every feature of the histories, moved on to R7, into x (vm.compute_feature)."""
    names = [r.name for r in layout.shape.registers]
    numbered = [
        (f, feature, names.index(feature.register)) for f, feature in enumerate(layout.shape.features)
    ]
    for f, feature, i in numbered:
        if feature.op != "run":
            _difference(asm, feature, f"f{f}", layout.newest(i), COUNTS + 8 * i)
            asm.store(R9, layout.x + 8 * f, R1)
    for register in range(len(names)):
        runs = [(f, feature.lag) for f, feature, i in numbered if feature.op == "run" and i == register]
        if runs:
            longest = max(lag for _, lag in runs)
            _run(asm, longest, f"run{register}", layout.newest(register), COUNTS + 8 * register)
        for f, lag in runs:  # a shorter one is the longest, cut off
            asm.load(R1, R9, RUN)
            asm.jump_if(R1, "<=", lag, f"f{f}.done")
            asm.alu("mov", R1, lag)
            asm.label(f"f{f}.done")
            asm.store(R9, layout.x + 8 * f, R1)


def _difference(asm: Emitter, feature: Feature, label: str, newest: int, count: int) -> None:
    """R1 = a difference of two pages, clamped; 0 while the history is too short."""
    asm.load(R2, R9, count)
    asm.alu("mov", R1, 0)
    asm.jump_if(R2, "<=", feature.lag, f"{label}.done")
    asm.load(R1, R7, newest - 8 * (0 if feature.op == "span" else feature.lag - 1))
    asm.load(R2, R7, newest - 8 * feature.lag)
    asm.alu_register("sub", R1, R2)
    asm.jump_if(R1, "s<=", VALUE_MAX, f"{label}.below")
    asm.alu("mov", R1, VALUE_MAX)
    asm.label(f"{label}.below")
    asm.jump_if(R1, "s>=", VALUE_MIN, f"{label}.done")
    asm.alu("mov", R1, VALUE_MIN)
    asm.label(f"{label}.done")


def _run(asm: Emitter, lag: int, label: str, newest: int, count: int) -> None:
    """RUN in scratch = how many of the newest differences are equal, at most lag.

    Differences beyond the history are compared as well, whatever lies there, and cut off afterwards.
    """
    asm.load(R3, R7, newest)
    asm.load(R4, R7, newest - 8)
    asm.alu_register("sub", R3, R4)
    for run in range(1, lag):
        asm.alu("mov", R1, run)
        asm.load(R5, R7, newest - 8 * (run + 1))
        asm.alu_register("sub", R4, R5)
        asm.jump_if_register(R4, "!=", R3, f"{label}.end")
        asm.alu_register("mov", R4, R5)
    asm.alu("mov", R1, lag)
    asm.label(f"{label}.end")
    asm.store(R9, RUN, R1)
    asm.load(R1, R9, RUN)
    asm.load(R2, R9, count)
    asm.alu("add", R2, -1)
    asm.jump_if_register(R1, "<=", R2, f"{label}.cut")
    asm.alu_register("mov", R1, R2)
    asm.label(f"{label}.cut")
    asm.store(R9, RUN, R1)
