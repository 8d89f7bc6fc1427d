"""Code that pushes an event into the registers, and computes features from it and the histories in scratch.

Registers throughout the back end: R9 scratch, R8 policy, R7 scratch moved on by the rollout's steps, R6 that
distance; R0 to R5 are free. Where each history has slid to lies on the stack. Lengths of histories and runs
are loaded anew for each comparison: what the kernel's verifier would learn from one about the next would make
it follow every combination.

Features are computed in groups, before the first table that looks at them: most rollouts are decided by an
early one. NEAR says how many of the newest values lie in one region of 2**31: where a group looks no further
back, its differences are neither too long nor too large, and need no test each.
"""

from collections.abc import Iterable, Sequence

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R6, R9, R10, Emitter
from kdtool.rmt.bpf.layout import (
    COUNT_BYTES,
    COUNT_OF_KEY,
    NEAR,
    NEAR_OF_KEY,
    RUN,
    RUN_OF_KEY,
    SLID,
    Layout,
)
from kdtool.rmt.bpf.parts import emit_store_feature
from kdtool.rmt.hooks import PAGE
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN, Feature
from kdtool.rmt.vm import MULTIPLIER

__all__ = ["emit_features", "emit_hash", "emit_move_on", "emit_push"]

REGION_BITS = 31
"""Two values of one region differ by at most VALUE_MAX."""
HISTORIES = -88
"""On the stack, below what others put there: of each register its entry, moved on by what it has slid."""


def emit_push(asm: Emitter, layout: Layout) -> None:
    """Push what each register records of the context in scratch into it, and find its history."""
    for i, register in enumerate(layout.shape.registers):
        emit_hash(asm, R9, [layout.context(name) for name in register.key])
        asm.alu_register("mov", R3, R1)
        asm.alu("and", R3, register.size - 1)
        asm.alu("mul", R3, layout.state_entry_bytes(i))
        asm.map_value(R4, "state", layout.state[i])
        asm.alu_register("add", R4, R3)
        _take_entry(asm, layout, i)
        _append(asm, layout, i)


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


def _take_entry(asm: Emitter, layout: Layout, i: int) -> None:
    """Take the entry at R4 for the key of hash R1: begin anew if it was another's, and count this event."""
    depth = layout.history_depth[i]
    asm.load(R2, R4, 0)
    asm.store(R4, 0, R1)
    asm.jump_if_register(R2, "==", R1, f"same{i}")
    for word in (COUNT_OF_KEY, NEAR_OF_KEY, RUN_OF_KEY, SLID):
        asm.store_constant(R4, word, 0)
    asm.label(f"same{i}")
    _find_newest(asm, layout, i, R0)
    asm.load(R3, R0, layout.newest(i))
    asm.load(R5, R9, layout.context(layout.shape.registers[i].records))
    asm.load(R1, R4, COUNT_OF_KEY)
    _count(asm, f"length{i}", depth)
    asm.store(R4, COUNT_OF_KEY, R1)
    asm.alu("lsh", R1, 3)
    asm.store(R9, layout.history(i, COUNT_BYTES), R1)
    asm.load(R1, R4, NEAR_OF_KEY)
    asm.alu_register("mov", R2, R5)
    asm.alu_register("xor", R2, R3)
    asm.alu("rsh", R2, REGION_BITS)
    asm.jump_if(R2, "==", 0, f"near{i}")
    asm.alu("mov", R1, 0)
    asm.label(f"near{i}")
    _count(asm, f"nearer{i}", depth)
    asm.store(R4, NEAR_OF_KEY, R1)
    asm.store(R9, layout.history(i, NEAR), R1)
    if depth > 1 and layout.longest_runs[i]:
        _count_run(asm, layout, i)


def _find_newest(asm: Emitter, layout: Layout, i: int, to: int) -> None:
    """Make `to` the entry at R4 moved on by as much as its history has slid."""
    asm.load(to, R4, SLID)
    asm.alu("and", to, layout.slide_masks[i])
    asm.alu_register("add", to, R4)


def _count(asm: Emitter, label: str, most: int) -> None:
    """R1 = R1 + 1, at most `most`."""
    asm.alu("add", R1, 1)
    asm.jump_if(R1, "<=", most, label)
    asm.alu("mov", R1, most)
    asm.label(label)


def _count_run(asm: Emitter, layout: Layout, i: int) -> None:
    """Count how many of the newest differences of the entry at R4 are equal, R5 - R3 being the newest.

    R0 is where it has slid to.

    A first value has none; that of the second is the first, whatever lies beyond.
    """
    asm.load(R1, R4, RUN_OF_KEY)
    asm.load(R2, R4, COUNT_OF_KEY)
    asm.jump_if(R2, "==", 1, f"ran{i}")
    asm.load(R0, R0, layout.newest(i) - 8)
    asm.alu_register("mov", R2, R3)
    asm.alu_register("sub", R2, R0)
    asm.alu_register("sub", R5, R3)
    asm.jump_if_register(R2, "==", R5, f"runs{i}")
    asm.alu("mov", R1, 0)
    asm.label(f"runs{i}")
    _count(asm, f"ran{i}", layout.longest_runs[i])
    asm.store(R4, RUN_OF_KEY, R1)
    asm.store(R9, layout.history(i, RUN), R1)


def _append(asm: Emitter, layout: Layout, i: int) -> None:
    """Append what is recorded to the history of the entry at R4, and put where it then is on the stack."""
    newest, end = layout.newest(i), layout.slide_masks[i]
    asm.load(R1, R4, SLID)
    asm.alu("add", R1, 8)
    asm.jump_if(R1, "<=", end, f"slides{i}")
    for lag in range(layout.history_depth[i] - 1, 0, -1):  # the oldest first, for both places may overlap
        asm.load(R1, R4, newest + end - 8 * (lag - 1))
        asm.store(R4, newest - 8 * lag, R1)
    asm.alu("mov", R1, 0)
    asm.label(f"slides{i}")
    asm.store(R4, SLID, R1)
    _find_newest(asm, layout, i, R3)
    asm.load(R1, R9, layout.context(layout.shape.registers[i].records))
    asm.store(R3, newest, R1)
    asm.store(R10, HISTORIES - 8 * i, R3)


def emit_features(asm: Emitter, layout: Layout, numbers: Iterable[int]) -> None:
    """Compute the features with these numbers into x (vm.compute_feature)."""
    features = {f: layout.shape.features[f] for f in numbers}
    for f, feature in features.items():
        if feature.op == "field":
            asm.load(R1, R9, layout.context(feature.field))
            _clamp(asm, f"f{f}")
            emit_store_feature(asm, layout, f, R1)
    for i, register in enumerate(layout.shape.registers):
        own = {f: each for f, each in features.items() if each.register == register.name}
        _of_history(asm, layout, i, {f: each for f, each in own.items() if each.op != "run"})
        _of_runs(asm, layout, i, {f: each.lag for f, each in own.items() if each.op == "run"})


def emit_move_on(asm: Emitter, layout: Layout) -> None:
    """Count the page R2 = R7's newest + R0 into the registers of pages, and put it into their histories.

    R6 is that of the next step.
    """
    asm.alu_register("mov", R3, R2)
    asm.alu_register("sub", R3, R0)
    asm.alu_register("xor", R3, R2)
    asm.alu("rsh", R3, REGION_BITS)
    pages = [i for i, register in enumerate(layout.shape.registers) if register.records == PAGE]
    asm.jump_if(R3, "==", 0, "near")
    for i in pages:
        asm.store_constant(R9, layout.history(i, NEAR), 0)
    asm.label("near")
    for i in pages:
        newest = layout.newest(i)
        _load_history(asm, layout, i, R5)
        asm.store(R5, newest, R2)
        if layout.history_depth[i] > 1 and layout.longest_runs[i]:
            asm.load(R3, R5, newest - 8)
            asm.load(R4, R5, newest - 16)
            asm.alu_register("sub", R3, R4)
            asm.load(R1, R9, layout.history(i, RUN))
            asm.jump_if_register(R3, "==", R0, f"goes.on{i}")
            asm.alu("mov", R1, 0)
            asm.label(f"goes.on{i}")
            _count(asm, f"went.on{i}", layout.longest_runs[i])
            asm.store(R9, layout.history(i, RUN), R1)


def _load_history(asm: Emitter, layout: Layout, i: int, to: int) -> None:
    """Make `to` the entry of register i, moved on by what it has slid and the rollout's steps."""
    asm.load(to, R10, HISTORIES - 8 * i)
    if layout.shape.registers[i].records == PAGE:
        asm.alu_register("add", to, R6)


def _of_history(asm: Emitter, layout: Layout, i: int, features: dict[int, Feature]) -> None:
    """Compute values and differences of register i."""
    if not features:
        return
    newest, label = layout.newest(i), f"f{min(features)}.of"
    _load_history(asm, layout, i, R3)
    asm.load(R2, R9, layout.history(i, NEAR))
    asm.jump_if(R2, "<=", max(feature.lag for feature in features.values()), f"{label}.short")
    _near_values(asm, layout, features, newest)
    asm.jump(f"{label}.end")
    asm.label(f"{label}.short")
    for f, feature in features.items():
        asm.load(R2, R9, layout.history(i, COUNT_BYTES))
        if layout.shape.registers[i].records == PAGE:
            asm.alu_register("add", R2, R6)
        asm.alu("mov", R1, 0)
        asm.jump_if(R2, "<=", 8 * feature.lag, f"f{f}.done")
        _value(asm, feature, newest)
        _clamp(asm, f"f{f}")
        emit_store_feature(asm, layout, f, R1)
    asm.label(f"{label}.end")


def _near_values(asm: Emitter, layout: Layout, features: dict[int, Feature], newest: int) -> None:
    """Compute values and differences of the history at R3 that need no test but values."""
    kept, first, second = -1, R1, R2
    for f, feature in features.items():
        if feature.op == "value":
            asm.load(first, R3, newest - 8 * feature.lag)
            _clamp(asm, f"f{f}.near", first)
            kept = -1
        else:
            newer = 0 if feature.op == "span" else feature.lag - 1
            if newer == kept:  # of the difference before this one
                first, second = second, first
            else:
                asm.load(first, R3, newest - 8 * newer)
            asm.load(second, R3, newest - 8 * feature.lag)
            asm.alu_register("sub", first, second)
            kept = feature.lag
        emit_store_feature(asm, layout, f, first)


def _value(asm: Emitter, feature: Feature, newest: int) -> None:
    """R1 = a value or a difference of two of the history at R3, whatever lies there; R2 is lost."""
    if feature.op == "value":
        asm.load(R1, R3, newest - 8 * feature.lag)
    else:
        asm.load(R1, R3, newest - 8 * (0 if feature.op == "span" else feature.lag - 1))
        asm.load(R2, R3, newest - 8 * feature.lag)
        asm.alu_register("sub", R1, R2)


def _clamp(asm: Emitter, label: str, register: int = R1) -> None:
    asm.jump_if(register, "s<=", VALUE_MAX, f"{label}.below")
    asm.alu("mov", register, VALUE_MAX)
    asm.label(f"{label}.below")
    asm.jump_if(register, "s>=", VALUE_MIN, f"{label}.done")
    asm.alu("mov", register, VALUE_MIN)
    asm.label(f"{label}.done")


def _of_runs(asm: Emitter, layout: Layout, i: int, lags: dict[int, int]) -> None:
    """Compute the runs of register i: the longest that is counted, each cut off at its lag."""
    for f, lag in lags.items():
        asm.load(R1, R9, layout.history(i, RUN))
        asm.jump_if(R1, "<=", lag, f"f{f}.done")
        asm.alu("mov", R1, lag)
        asm.label(f"f{f}.done")
        emit_store_feature(asm, layout, f, R1)
