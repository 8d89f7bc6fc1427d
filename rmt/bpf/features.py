"""Code that pushes an event into the registers, and computes features from it and the histories in scratch.

Registers throughout the back end: R9 scratch, R8 policy, R7 scratch moved on by the rollout's steps, R6 that
distance; R0 to R5 are free. Lengths of histories and runs are loaded anew for each comparison: what the
kernel's verifier would learn from one about the next would make it follow every combination.
"""

from collections.abc import Sequence

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R7, R9, Emitter
from kdtool.rmt.bpf.layout import COUNTS, RUN, Layout
from kdtool.rmt.hooks import PAGE
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN, Feature, Register
from kdtool.rmt.vm import MULTIPLIER

__all__ = ["base_of", "emit_features", "emit_hash", "emit_push"]


def emit_push(asm: Emitter, layout: Layout) -> None:
    """Push what each register records of the context in scratch into it; copy the histories to scratch."""
    for i, register in enumerate(layout.shape.registers):
        emit_hash(asm, R9, [layout.context(name) for name in register.key])
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
    """Take the entry at R4 for the key of hash R1: begin anew if it was another's, and count this event."""
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
    asm.load(R1, R9, layout.context(layout.shape.registers[i].records))
    asm.store(R4, 16, R1)
    asm.store(R9, newest, R1)


def emit_features(asm: Emitter, layout: Layout) -> None:
    """Compute every feature into x (vm.compute_feature). Histories of pages are moved on to R7."""
    registers = layout.shape.registers
    names = [r.name for r in registers]
    for f, feature in enumerate(layout.shape.features):
        if feature.op == "run":
            continue
        if feature.op == "field":
            asm.load(R1, R9, layout.context(feature.field))
            _clamp(asm, f"f{f}")
        else:
            i = names.index(feature.register)
            _of_history(asm, feature, f"f{f}", base_of(registers[i]), layout.newest(i), COUNTS + 8 * i)
        asm.store(R9, layout.x + 8 * f, R1)
    for i, register in enumerate(registers):
        _emit_runs(asm, layout, i, register)


def base_of(register: Register) -> int:
    """Return R7 for a register that a rollout pushes its pages into, R9 for one that stays."""
    return R7 if register.records == PAGE else R9


def _emit_runs(asm: Emitter, layout: Layout, i: int, register: Register) -> None:
    features = enumerate(layout.shape.features)
    runs = [(f, each.lag) for f, each in features if each.op == "run" and each.register == register.name]
    if runs:
        longest = max(lag for _, lag in runs)
        _run(asm, longest, f"run{i}", base_of(register), layout.newest(i), COUNTS + 8 * i)
    for f, lag in runs:  # a shorter one is the longest, cut off
        asm.load(R1, R9, RUN)
        asm.jump_if(R1, "<=", lag, f"f{f}.done")
        asm.alu("mov", R1, lag)
        asm.label(f"f{f}.done")
        asm.store(R9, layout.x + 8 * f, R1)


def _of_history(asm: Emitter, feature: Feature, label: str, base: int, newest: int, count: int) -> None:
    """R1 = a value or a difference of two, clamped; 0 while the history is too short."""
    asm.load(R2, R9, count)
    asm.alu("mov", R1, 0)
    asm.jump_if(R2, "<=", feature.lag, f"{label}.done")
    if feature.op == "value":
        asm.load(R1, base, newest - 8 * feature.lag)
    else:
        asm.load(R1, base, newest - 8 * (0 if feature.op == "span" else feature.lag - 1))
        asm.load(R2, base, newest - 8 * feature.lag)
        asm.alu_register("sub", R1, R2)
    _clamp(asm, label)


def _clamp(asm: Emitter, label: str) -> None:
    asm.jump_if(R1, "s<=", VALUE_MAX, f"{label}.below")
    asm.alu("mov", R1, VALUE_MAX)
    asm.label(f"{label}.below")
    asm.jump_if(R1, "s>=", VALUE_MIN, f"{label}.done")
    asm.alu("mov", R1, VALUE_MIN)
    asm.label(f"{label}.done")


def _run(asm: Emitter, lag: int, label: str, base: int, newest: int, count: int) -> None:
    """RUN in scratch = how many of the newest differences are equal, at most lag.

    Differences beyond the history are compared as well, whatever lies there, and cut off afterwards.
    """
    asm.load(R3, base, newest)
    asm.load(R4, base, newest - 8)
    asm.alu_register("sub", R3, R4)
    for run in range(1, lag):
        asm.alu("mov", R1, run)
        asm.load(R5, base, newest - 8 * (run + 1))
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
