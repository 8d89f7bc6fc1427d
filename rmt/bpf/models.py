"""Code that infers: R1 = where a model begins, as the action says, R0 = its answer. R6 to R9 stay.

No branch depends on what a tree decides, or on a sum. A forest's loops keep their positions in memory, as the
scan of a table does (tables.py).
"""

from kdtool.rmt.bpf.emitter import R0, R1, R2, R3, R4, R5, R8, R9, Emitter
from kdtool.rmt.bpf.layout import (
    CHILD_BIT,
    CLASS_BYTES,
    FOREST_HEADER_BYTES,
    LAST_SCORE,
    NODE_BYTES,
    ROOT_BYTES,
    SCORE_BIT,
    SCORE_BYTES,
    THRESHOLD_BIT,
    VALUE_BYTES,
    Layout,
)
from kdtool.rmt.bpf.networks import emit_choose, emit_keep_larger

__all__ = ["emit_forest", "emit_walk"]

NODE_SHIFT = 3
"""A node's number, moved so far, is its offset in bytes. A feature's lies so in the node already."""
FOREST, TREE, TREES_END, SCORE = 0, 8, 16, 24
"""Loop variables of a forest: offsets from layout.loop of where it, the next tree and score lie."""


def emit_walk(asm: Emitter, layout: Layout, depth: int) -> None:
    """R0 = the answer of the tree whose root lies at R1 in nodes: `depth` steps, as many as any may need.

    A step loads both children before it is known which one is next: the next step waits for the comparison,
    and no longer for a load after it.
    """
    asm.alu_register("mov", R2, R8)
    asm.alu("add", R2, layout.nodes)
    asm.alu("and", R1, layout.node_mask)
    asm.alu_register("add", R1, R2)
    asm.load(R1, R1, 0)
    for _ in range(depth):
        asm.alu_register("mov", R3, R1)
        asm.alu("rsh", R3, CHILD_BIT - NODE_SHIFT)
        asm.alu("and", R3, layout.node_mask)
        asm.alu_register("add", R3, R2)
        asm.load(R0, R3, 0)
        asm.load(R3, R3, NODE_BYTES)
        asm.alu_register("mov", R4, R1)
        asm.alu("and", R4, layout.x_mask)
        asm.alu_register("add", R4, R9)
        asm.load(R4, R4, layout.x)
        asm.alu("arsh", R1, THRESHOLD_BIT)
        asm.alu_register("sub", R1, R4)
        asm.alu("arsh", R1, 63)  # all ones where the walk goes right
        emit_choose(asm, R0, R3, R1)
        asm.alu_register("mov", R1, R0)
    _load_value(asm, layout)


def _load_value(asm: Emitter, layout: Layout) -> None:
    """R0 = the value of the leaf R1, which is its own left child."""
    asm.alu("rsh", R1, CHILD_BIT - NODE_SHIFT)
    asm.alu("and", R1, layout.node_mask)
    asm.alu("rsh", R1, 1)  # values are half as large as nodes
    asm.alu_register("mov", R2, R8)
    asm.alu("add", R2, layout.values)
    asm.alu_register("add", R2, R1)
    asm.load(R0, R2, 0, VALUE_BYTES)
    asm.alu("lsh", R0, 32)
    asm.alu("arsh", R0, 32)


def emit_forest(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """R0 = the answer of the forest that lies at R1 in forests; labels begin with `label`."""
    _begin_sums(asm, layout)
    asm.label(f"{label}.trees")
    asm.may_goto(stop)
    asm.load(R1, R9, layout.loop + TREE)
    asm.load(R2, R9, layout.loop + TREES_END)
    asm.jump_if_register(R1, ">=", R2, f"{label}.sums")
    asm.alu_register("mov", R2, R1)
    asm.alu("add", R2, ROOT_BYTES)
    asm.store(R9, layout.loop + TREE, R2)
    asm.alu("and", R1, layout.tree_mask)
    asm.alu_register("add", R1, R8)
    asm.alu("add", R1, layout.forest_trees)
    asm.load(R1, R1, 0)
    emit_walk(asm, layout, layout.shape.forests.depth)
    asm.alu("mul", R0, SCORE_BYTES)
    asm.store(R9, layout.loop + SCORE, R0)
    _add_scores(asm, layout, label, stop)
    asm.label(f"{label}.sums")
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


def _add_scores(asm: Emitter, layout: Layout, label: str, stop: str) -> None:
    """Add the scores of a leaf to their sums, and go on with the next tree."""
    asm.label(f"{label}.scores")
    asm.may_goto(stop)
    asm.load(R1, R9, layout.loop + SCORE)
    asm.alu_register("mov", R2, R1)
    asm.alu("add", R2, SCORE_BYTES)
    asm.store(R9, layout.loop + SCORE, R2)
    asm.alu("and", R1, layout.score_mask)
    asm.alu_register("mov", R2, R8)
    asm.alu("add", R2, layout.scores)
    asm.alu_register("add", R2, R1)
    asm.load(R3, R2, 0)
    asm.alu_register("mov", R4, R3)
    asm.alu("and", R4, layout.sum_mask)
    asm.alu_register("add", R4, R9)
    asm.alu_register("mov", R5, R3)
    asm.alu("arsh", R5, SCORE_BIT)
    asm.load(R0, R4, layout.sums)
    asm.alu_register("add", R0, R5)
    asm.store(R4, layout.sums, R0)
    asm.alu("and", R3, LAST_SCORE)
    asm.jump_if(R3, "==", 0, f"{label}.scores")
    asm.jump(f"{label}.trees")


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
