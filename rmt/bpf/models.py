"""Code that infers: R1 = where a model begins, as the action says, R0 = its answer. R6 to R9 stay.

No branch depends on what a tree decides, or on a sum. A forest's loops keep their positions in memory, as the
scan of a table does (tables.py).
"""

from collections.abc import Sequence

from kdtool.rmt.blocks import BLOCK_BYTES, LEVELS
from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Emitter
from kdtool.rmt.bpf.layout import (
    CHILD_THRESHOLDS,
    CLASS_BYTES,
    FOREST_HEADER_BYTES,
    NEXT_BLOCKS,
    NODE_PLACES,
    NODE_THRESHOLD,
    ROOT_BYTES,
    SCORE_BYTES,
    Layout,
)
from kdtool.rmt.bpf.parts import emit_choose, emit_keep_larger, emit_put_aside, emit_take_back

__all__ = ["emit_forest", "emit_walk"]

FOREST, TREE, TREES_END = 0, 8, 16
"""Loop variables of a forest: offsets from layout.loop of where it and the next tree lie."""
WALKERS = (R2, R3, R6, R7)


def emit_walk(asm: Emitter, layout: Layout, depth: int) -> None:
    """R0 = the value of the leaf that x falls into, in the tree whose root lies at R1 in blocks."""
    asm.alu_register("mov", R3, R1)
    _walk(asm, layout, depth, [R3])
    asm.load_signed(R0, R3, layout.blocks + NODE_THRESHOLD, 4)


def _walk(asm: Emitter, layout: Layout, depth: int, walkers: Sequence[int]) -> None:
    """Walk from the roots that lie at `walkers`, registers, to leaves: from each + layout.blocks on.

    As many steps as any leaf may need, LEVELS of `depth` each; the walkers take each step in turn, so that
    one waits for its loads while the others go on.
    """
    for block in walkers:
        asm.alu("and", block, layout.block_mask)
        asm.alu_register("add", block, R8)
    for _ in range(-(-depth // LEVELS)):
        for block in walkers:
            _step(asm, layout, block)


def _step(asm: Emitter, layout: Layout, block: int) -> None:
    """Go on from the block at `block` + layout.blocks to one of its next four; R0, R1, R4 and R5 are lost."""
    thresholds = (NODE_THRESHOLD, CHILD_THRESHOLDS, CHILD_THRESHOLDS + 4)
    for number, (above, threshold) in enumerate(zip((R1, R4, R5), thresholds, strict=True)):
        asm.load(R0, block, layout.blocks + NODE_PLACES + 2 * number, 2)
        asm.alu_register("add", R0, R9)
        asm.load_signed(R0, R0, layout.x, 4)
        asm.load_signed(above, block, layout.blocks + threshold, 4)
        asm.alu_register("sub", above, R0)  # negative where the walk goes right
    emit_choose(asm, R4, R5, R1)  # of the children's the one that counts: its sign is all that is asked for
    for above, distance in ((R1, 2 * BLOCK_BYTES), (R4, BLOCK_BYTES)):
        asm.alu("rsh", above, 64 - distance.bit_length())
        asm.alu("and", above, distance)
    asm.load(block, block, layout.blocks + NEXT_BLOCKS, 4)
    asm.alu("and", block, layout.block_mask)
    asm.alu_register("add", block, R8)
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
    for number, walker in enumerate(WALKERS):
        asm.load(walker, R1, ROOT_BYTES * number)
    _walk(asm, layout, layout.shape.forests.depth, WALKERS)
    for walker in WALKERS:
        _add_scores(asm, layout, walker)
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
    """Add the scores of the leaf at `block` + layout.blocks to their sums."""
    asm.load_signed(R0, block, layout.blocks + NODE_THRESHOLD, 4)
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
