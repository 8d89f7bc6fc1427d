"""Trees as blocks: a walk over their words comes to the leaf that a walk over the nodes comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, trees

from kdtool.rmt import Tree
from kdtool.rmt.blocks import (
    BLOCK_WORDS,
    CHILD_SHIFT,
    CHILDREN,
    NODE,
    OWN_BITS,
    PAIRS,
    RIGHT_SHIFT,
    RIGHTS,
    SPLIT_BITS,
    Place,
    tree_size,
    tree_words,
    walk_steps,
)
from kdtool.rmt.inference import walk_tree
from kdtool.rmt.models import node_depths
from kdtool.rmt.program import LIMITS

FEATURES = (5, LIMITS.features - 1)
"""Numbers of the trees' two inputs."""


def low(word):
    return (word & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)


def walk_words(words, x, steps, first):
    """Return a leaf's value and steps. What blocks say of their features is what was named before."""
    mask, block, pairs, rights = (1 << SPLIT_BITS) - 1, BLOCK_WORDS, words[PAIRS], words[RIGHTS]
    for step in range(steps):
        named = pairs >> SPLIT_BITS & mask, pairs & mask, rights & mask
        node, children = words[block + NODE], words[block + CHILDREN]
        assert named == tuple(words[block + RIGHTS] >> bit & mask for bit in OWN_BITS)
        right = x[named[0]] > node >> 32
        child = x[named[2]] > children >> 32 if right else x[named[1]] > low(children)
        following = (node & 0xFFFF_FFFF) - first
        if step < steps - 1:
            shift = RIGHT_SHIFT * right + CHILD_SHIFT * child
            pairs, rights = words[block + PAIRS] >> shift, words[block + RIGHTS] >> shift
            block = following + BLOCK_WORDS * (2 * right + child)
    values = words[following + (RIGHTS if right else PAIRS)]
    counted = words[following + CHILDREN] >> 32 + 8 * (2 * right + child) & 0xFF
    return low(values) if child else values >> 32, counted


@given(trees(["a", "b"]), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9), st.integers(0, 3))
def test_blocks_lead_to_the_leaf_that_nodes_lead_to(tree, rows, more):
    steps, first = walk_steps(tree.depth) + more, 1000
    leaves = dict(enumerate(zip(tree.value, node_depths(tree), strict=True)))
    words = tree_words(tree, Place(steps, FEATURES, leaves, first, 1))
    assert len(words) == tree_size(tree, steps)
    for row in rows:
        x = dict.fromkeys(range(LIMITS.features), 0) | dict(zip(FEATURES, row, strict=True))
        assert walk_words(words, x, steps, first) == walk_tree(tree, list(row))


def full(depth):
    n_splits, n = 2**depth - 1, 2 ** (depth + 1) - 1
    columns = [(i, 2 * i + 1, 2 * i + 2) if i < n_splits else (-1, -1, -1) for i in range(n)]
    _, left, right = zip(*columns, strict=True)
    feature = tuple(0 if i < n_splits else -1 for i in range(n))
    return Tree("full", ("a",), feature, (0,) * n, left, right, (0,) * n)


@pytest.mark.parametrize(("depth", "n_words"), [(0, 12), (1, 12), (2, 12), (3, 24), (10, 2136), (11, 4272)])
def test_a_full_tree_takes_few_words(depth, n_words):
    """Depth 10: the entry, 341 blocks of four words, the values of 256 times four leaves in three each."""
    assert tree_size(full(depth), walk_steps(depth)) == n_words
