"""Trees as blocks: a walk over their words comes to the leaf that a walk over the nodes comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, trees

from kdtool.rmt import Tree
from kdtool.rmt.blocks import (
    BLOCK_WORDS,
    CHILDREN,
    LEFTS,
    NEXT_BIT,
    NODE,
    OWN,
    RIGHTS,
    SLOT_SHIFT,
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


def threshold(half, bias):
    """Return what is compared with: signed, or unsigned and `bias` more."""
    return (half & 0xFFFF_FFFF) - bias if bias else low(half)


def walk_words(words, x, steps, first, bias, unit):
    """Return a leaf's value and steps. What blocks say of their features is what was named before."""
    mask, block, slot = (1 << SPLIT_BITS) - 1, BLOCK_WORDS, words[LEFTS]
    for step in range(steps):
        named = tuple(slot >> SPLIT_BITS * number & mask for number in range(3))
        node, children = words[block + NODE], words[block + CHILDREN]
        assert named == tuple(words[block + word] >> bit & mask for word, bit in OWN)
        right = x[named[0]] > threshold(node >> 32, bias)
        at_child = threshold(children >> 32 if right else children, bias)
        child = x[named[2 if right else 1]] > at_child
        following = ((node & 0xFFFF_FFFF) - first) // unit
        if step < steps - 1:
            slot = words[block + (RIGHTS if right else LEFTS)] >> SLOT_SHIFT * child
            assert slot >> NEXT_BIT & 3 in (2 * right + child, 0)
            block = following + BLOCK_WORDS * (slot >> NEXT_BIT & 3)
    values = words[following + (RIGHTS if right else LEFTS)]
    counted = words[following + CHILDREN] >> 32 + 8 * (2 * right + child) & 0xFF
    return low(values) if child else values >> 32, counted


@pytest.mark.parametrize(("unit", "bias"), [(1, 0), (8, 1 << 31)])
@given(trees(["a", "b"]), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9), st.integers(0, 3))
def test_blocks_lead_to_the_leaf_that_nodes_lead_to(unit, bias, tree, rows, more):
    steps, first = walk_steps(tree.depth) + more, 1000
    leaves = dict(enumerate(zip(tree.value, node_depths(tree), strict=True)))
    words = tree_words(tree, Place(steps, FEATURES, leaves, first, unit, bias))
    assert len(words) == tree_size(tree, steps)
    assert all(-(1 << 63) <= word < 1 << 63 for word in words)
    for row in rows:
        x = dict.fromkeys(range(LIMITS.features), 0) | dict(zip(FEATURES, row, strict=True))
        assert walk_words(words, x, steps, first, bias, unit) == walk_tree(tree, list(row))


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
