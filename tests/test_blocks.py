"""Trees as blocks: a walk over the blocks comes to the leaf that a walk over the nodes comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, trees

from kdtool.rmt import Tree
from kdtool.rmt.blocks import BLOCK_BYTES, LEAF_BYTES, LEVELS, tree_blocks
from kdtool.rmt.inference import walk_tree

USED_BYTES = 24
"""Of a block that is no leaf's."""


def goes_right(tree, split, x):
    return split is not None and x[tree.feature[split]] > tree.threshold[split]


def leaf_by_blocks(tree, x, steps):
    """Walk as the code in the kernel does, as many steps whatever comes."""
    blocks = {block.at: block for block in tree_blocks(tree, half_leaves=True)[0]}
    at = 0
    for _ in range(steps):
        block = blocks[at]
        right = goes_right(tree, block.splits[0], x)
        at = block.following + BLOCK_BYTES * (2 * right + goes_right(tree, block.splits[1 + right], x))
    return blocks[at].leaf


@given(trees(["a", "b"]), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9), st.integers(0, 3))
def test_blocks_lead_to_the_leaf_that_nodes_lead_to(tree, rows, more):
    steps = -(-tree.depth // LEVELS) + more
    for x in rows:
        assert tree.value[leaf_by_blocks(tree, x, steps)] == walk_tree(tree, list(x))[0]


@given(trees(["a", "b"]))
def test_blocks_lie_beside_one_another(tree):
    blocks, size = tree_blocks(tree, half_leaves=True)
    used = [
        byte
        for block in blocks
        for byte in range(block.at, block.at + (USED_BYTES if block.leaf is None else LEAF_BYTES))
    ]
    assert len(used) == len(set(used))
    assert max(used) < size


def full(depth):
    n_splits, n = 2**depth - 1, 2 ** (depth + 1) - 1
    columns = [(i, 2 * i + 1, 2 * i + 2) if i < n_splits else (-1, -1, -1) for i in range(n)]
    _, left, right = zip(*columns, strict=True)
    feature = tuple(0 if i < n_splits else -1 for i in range(n))
    return Tree("full", ("a",), feature, (0,) * n, left, right, (0,) * n)


@pytest.mark.parametrize(
    ("depth", "n_bytes"), [(0, 32), (1, 160), (2, 160), (3, 288), (10, 27296), (11, 54688)]
)
def test_a_full_tree_takes_few_bytes(depth, n_bytes):
    """Depth 10: the root's block, then quartets of the 340 others and, two in one, of the 1024 leaves."""
    assert tree_blocks(full(depth), half_leaves=True)[1] == n_bytes
