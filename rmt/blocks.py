"""A tree as blocks of two levels, which a walk takes in one step, and where each lies.

A block compares at a node and, before it is known which way that one goes, at both children: what a step
waits for is one node and one feature. The four blocks that may come next lie side by side. A leaf has a block
to itself that leads nowhere else; one between the levels is passed through to the left.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from kdtool.rmt.models import ScoreTree, Tree

__all__ = ["BLOCK_BYTES", "LEVELS", "NEXT_BYTES", "Block", "tree_blocks", "walk_steps"]

LEVELS = 2
BLOCK_BYTES, LEAF_BYTES = 32, 16
NEXT_BYTES = BLOCK_BYTES << LEVELS
Splits = tuple[int | None, int | None, int | None]


class Block(NamedTuple):
    """Nodes by number, and offsets in bytes from the tree's first block.

    splits : a node, its left and its right child; None where there is no split
    leaf : the block's leaf, if it is one's own
    following : where the first of the next four blocks lies; of a leaf its own
    """

    at: int
    splits: Splits
    leaf: int | None
    following: int


def walk_steps(tree: Tree | ScoreTree) -> int:
    """Return how many blocks a walk goes on from at most until it comes to a leaf."""
    return -(-tree.depth // LEVELS)


def tree_blocks(tree: Tree | ScoreTree, *, half_leaves: bool = False) -> tuple[list[Block], int]:
    """Return a tree's blocks, the root's first, and how many bytes they take.

    half_leaves : of a leaf's block the second half says nothing: four leaves lie in those of four others

    Levels are paired from the last one up: above the root of a tree of odd depth there is a level without
    a split.
    """
    blocks: list[Block] = []
    todo, end, half = deque([(0, 0)]), BLOCK_BYTES, 0
    while todo:
        at, node = todo.popleft()
        if tree.feature[node] < 0:
            blocks.append(Block(at, (None, None, None), node, at))
            continue
        splits, following = _pair_levels(tree, node, alone=not blocks and tree.depth % LEVELS == 1)
        leaves_only = all(then is None or tree.feature[then] < 0 for then in following)
        first = half if leaves_only and half else end
        if first == end:
            end += NEXT_BYTES
        if leaves_only and half_leaves:
            half = 0 if first == half else first + LEAF_BYTES
        blocks.append(Block(at, splits, None, first))
        todo.extend((first + BLOCK_BYTES * i, then) for i, then in enumerate(following) if then is not None)
    return blocks, end


def _pair_levels(tree: Tree | ScoreTree, node: int, *, alone: bool) -> tuple[Splits, Sequence[int | None]]:
    """Return the splits of a node's block, and the nodes of the next four from the left."""
    left, right = tree.left[node], tree.right[node]
    if alone:
        return (None, node, None), (left, right, None, None)
    following: list[int | None] = []
    for child in (left, right):
        is_leaf = tree.feature[child] < 0
        following += [child, None] if is_leaf else [tree.left[child], tree.right[child]]
    left_split, right_split = (child if tree.feature[child] >= 0 else None for child in (left, right))
    return (node, left_split, right_split), following
