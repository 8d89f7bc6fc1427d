"""Code that infers: R1 = where a model begins, as the action says, R0 = its answer. R6 to R9 stay.

No branch depends on what a tree decides, or on a sum. A forest's loops keep their positions in memory, as the
scan of a table does (tables.py).

A step of one tree waits for the step before: it takes its features from the block before, and then that is a
comparison, two shifts, a choice and a load, 12 cycles by what each takes. Walks of a forest wait beside each
other: what counts is how many instructions they take, and a step takes its features from its own block.
"""

from kdtool.rmt.blocks import (
    BLOCK_WORDS,
    CHILDREN,
    LEFTS,
    NEXT_BIT,
    NODE,
    OWN,
    RIGHTS,
    SLOT_BITS,
    SLOT_SHIFT,
    SPLIT_BITS,
)
from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Emitter
from kdtool.rmt.bpf.layout import CLASS_BYTES, FOREST_HEADER_BYTES, ROOT_BYTES, SCORE_BYTES, X_BYTES, Layout
from kdtool.rmt.bpf.parts import emit_choose, emit_keep_larger, emit_put_aside, emit_take_back

__all__ = ["emit_forest", "emit_walk"]

THRESHOLDS = 8 * NODE + 4, 8 * CHILDREN, 8 * CHILDREN + 4
"""Of a block's node, left and right child."""
BLOCK_BYTES = 8 * BLOCK_WORDS
FEATURE_MASK = X_BYTES * ((1 << SPLIT_BITS) - 1)
FOREST, TREE, TREES_END = 0, 8, 16
"""Loop variables of a forest: offsets from layout.loop of where it and the next tree lie."""
WALKERS = (R2, R3, R6, R7)

Split = tuple[int, int, int]


def emit_walk(asm: Emitter, layout: Layout, steps: int) -> None:
    """R0 = the value of the leaf that x falls into, in the tree whose entry lies at R1 in blocks."""
    asm.alu_register("mov", R3, R1)
    _find_block(asm, layout, R3)
    asm.load(R2, R3, layout.blocks + 8 * LEFTS)
    asm.alu("add", R3, BLOCK_BYTES)
    for _ in range(steps - 1):
        _compare_named(asm, layout)
        _go_on(asm, layout)
    _compare_named(asm, layout)
    emit_choose(asm, R4, R5, R1)  # its sign is all that is asked for
    _load_value(asm, layout, R3, R4, R5)


def _find_block(asm: Emitter, layout: Layout, block: int) -> None:
    """Make an offset in blocks an address, less layout.blocks."""
    asm.alu("and", block, layout.block_mask)
    asm.alu_register("add", block, R8)


def _compare_named(asm: Emitter, layout: Layout) -> None:
    """Compare in the block at R3 + layout.blocks the features that the slot R2 names; R0 and R2 are lost.

    R1, R4, R5 < 0: the walk goes right, and at the left and the right child.
    """
    features = (R0, R5, R2)
    for number, feature in enumerate(features):
        if feature != R2:
            asm.alu_register("mov", feature, R2)
        if number:
            asm.alu("rsh", feature, SPLIT_BITS * number)
        asm.alu("and", feature, FEATURE_MASK)
        _load_feature(asm, layout, feature)
    for split in zip((R1, R4, R5), features, THRESHOLDS, strict=True):
        _compare(asm, layout, R3, split)


def _go_on(asm: Emitter, layout: Layout) -> None:
    """Go on from the block at R3 + layout.blocks, by R1, R4 and R5, to the next one and its slot, R2."""
    asm.alu("rsh", R1, 64 - SLOT_BITS)  # as many ones where the walk goes right
    for child in (R4, R5):
        asm.alu("rsh", child, 64 - SLOT_SHIFT.bit_length())
    asm.load(R0, R3, layout.blocks + 8 * RIGHTS)
    asm.alu_register("rsh", R0, R5)
    asm.alu_register("and", R0, R1)
    asm.alu("xor", R1, (1 << SLOT_BITS) - 1)
    asm.load(R2, R3, layout.blocks + 8 * LEFTS)
    asm.alu_register("rsh", R2, R4)
    asm.alu_register("and", R2, R1)
    asm.load(R3, R3, layout.blocks + 8 * NODE, 4)
    _find_block(asm, layout, R3)
    asm.alu_register("or", R2, R0)
    asm.alu_register("mov", R4, R2)
    asm.alu("rsh", R4, NEXT_BIT + 1 - BLOCK_BYTES.bit_length())
    asm.alu("and", R4, 3 * BLOCK_BYTES)
    asm.alu_register("add", R3, R4)


def _load_feature(asm: Emitter, layout: Layout, feature: int) -> None:
    asm.alu_register("add", feature, R9)
    asm.load(feature, feature, layout.x, X_BYTES)


def _compare(asm: Emitter, layout: Layout, block: int, split: Split) -> None:
    """`above` = a block's threshold - the feature that is loaded, < 0: the walk goes right."""
    above, feature, threshold = split
    asm.load(above, block, layout.blocks + threshold, 4)
    asm.alu_register("sub", above, feature)


def _load_value(asm: Emitter, layout: Layout, block: int, child: int, other: int) -> None:
    """R0 = the value to which the block leads whose comparisons are R1 and `child`; `other` is lost.

    What R1 and `child` say is waited for last, not the values.
    """
    asm.load(block, block, layout.blocks + 8 * NODE, 4)
    _find_block(asm, layout, block)
    asm.load(R0, block, layout.blocks + 8 * LEFTS)
    asm.load(other, block, layout.blocks + 8 * RIGHTS)
    asm.alu("arsh", R1, 63)
    emit_choose(asm, R0, other, R1)
    asm.alu("rsh", child, 63)
    asm.alu("lsh", child, 5)
    asm.alu_register("lsh", R0, child)
    asm.alu("arsh", R0, 32)


def _compare_own(asm: Emitter, layout: Layout, block: int) -> None:
    """Compare the features of the block at `block` + layout.blocks; R0 and R5 are lost.

    R1, R4 < 0: the walk goes right, and at the child.
    """
    for above, (word, bit), threshold in zip((R1, R4, R5), OWN, THRESHOLDS, strict=True):
        asm.load(R0, block, layout.blocks + 8 * word + bit // 8, 1)
        _load_feature(asm, layout, R0)
        _compare(asm, layout, block, (above, R0, threshold))
    emit_choose(asm, R4, R5, R1)


def _step(asm: Emitter, layout: Layout, block: int) -> None:
    """Go on from the block at `block` + layout.blocks; R0, R1, R4 and R5 are lost."""
    _compare_own(asm, layout, block)
    for above, distance in ((R1, 2 * BLOCK_BYTES), (R4, BLOCK_BYTES)):
        asm.alu("rsh", above, 64 - distance.bit_length())
        asm.alu("and", above, distance)
    asm.load(block, block, layout.blocks + 8 * NODE, 4)
    _find_block(asm, layout, block)
    asm.alu_register("add", block, R1)
    asm.alu_register("add", block, R4)


def emit_forest(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R0 = the answer of the forest that lies at R1 in forests; labels begin with `label`."""
    emit_put_aside(asm)
    _begin_sums(asm, layout)
    asm.label(f"{label}.trees")
    asm.may_goto(stop)
    asm.load(R1, R9, layout.loop + TREE)
    asm.load(R2, R9, layout.loop + TREES_END)
    asm.jump_if_register(R1, ">=", R2, f"{label}.sums")
    asm.alu_register("mov", R2, R1)
    asm.alu("add", R2, ROOT_BYTES * len(WALKERS))
    asm.store(R9, layout.loop + TREE, R2)
    asm.alu("and", R1, layout.tree_mask)
    asm.alu_register("add", R1, R8)
    asm.alu("add", R1, layout.forest_trees)
    for number, block in enumerate(WALKERS):
        asm.load(block, R1, ROOT_BYTES * number)
        _find_block(asm, layout, block)
    for _ in range(layout.shape.forests.steps - 1):
        for block in WALKERS:  # in turn, so that one waits for its loads while the others go on
            _step(asm, layout, block)
    for block in WALKERS:
        _add_scores(asm, layout, block)
    asm.jump(f"{label}.trees")
    asm.label(f"{label}.sums")
    emit_take_back(asm)
    _largest_sum(asm, layout)


def _forest(asm: Emitter, layout: Layout) -> None:
    """R1 = the forest that lies at R1 in forests."""
    asm.alu("and", R1, layout.forest_mask)
    asm.alu_register("add", R1, R8)
    asm.alu("add", R1, layout.forests)


def _begin_sums(asm: Emitter, layout: Layout) -> None:
    """Store the loop's variables and the base scores."""
    asm.store(R9, layout.loop + FOREST, R1)
    _forest(asm, layout)
    for variable, offset in ((TREE, 0), (TREES_END, 8)):
        asm.load(R2, R1, offset)
        asm.store(R9, layout.loop + variable, R2)
    for c in range(layout.shape.forests.classes):
        asm.load(R2, R1, FOREST_HEADER_BYTES + CLASS_BYTES * c)
        asm.store(R9, layout.sums + 8 * c, R2)


def _add_scores(asm: Emitter, layout: Layout, block: int) -> None:
    """Add the scores of the leaf to which the block at `block` + layout.blocks leads to their sums."""
    _compare_own(asm, layout, block)
    _load_value(asm, layout, block, R4, R5)
    asm.alu("and", R0, layout.score_mask)
    asm.alu_register("add", R0, R8)
    asm.alu("add", R0, layout.scores)
    for at in range(0, SCORE_BYTES * layout.shape.forests.leaf_scores, SCORE_BYTES):
        asm.load(R1, R0, at, 4)
        asm.load_signed(R4, R0, at + 4, 4)
        asm.alu("and", R1, layout.sum_mask)
        asm.alu_register("add", R1, R9)
        asm.load(R5, R1, layout.sums)
        asm.alu_register("add", R5, R4)
        asm.store(R1, layout.sums, R5)


def _largest_sum(asm: Emitter, layout: Layout) -> None:
    """R0 = the answer of the class with the largest sum, R3 that sum; the first of several."""
    asm.load(R1, R9, layout.loop + FOREST)
    _forest(asm, layout)
    asm.load(R3, R9, layout.sums)
    asm.load(R0, R1, FOREST_HEADER_BYTES + 8)
    for c in range(1, layout.shape.forests.classes):
        asm.load(R4, R9, layout.sums + 8 * c)
        asm.load(R5, R1, FOREST_HEADER_BYTES + CLASS_BYTES * c + 8)
        emit_keep_larger(asm)
