"""A tree as blocks of two levels, which a walk takes in one step, and where each lies.

A block compares at a node and, before it is known which way that one goes, at both children. Which features
these are, the block itself says, and the one before it for each of the four that may come next: a word names
two, of which it is shifted to one by what a child's comparison comes to, and of two such words, shifted each
by its child's, the node's comparison takes one. So a walk waits for one load a step. The last step of all
comes to values. A leaf above has a block that leads to itself. Where there is no split, VALUE_MAX is compared
with, which no feature exceeds, and the walk goes left.

    block     NODE      the node's threshold 32 bits | u32: where the next four begin, side by side
              CHILDREN  the right child's threshold 32 bits, of a leaf its steps | the left child's
              LEFTS     slots of the two that come next on the left; of a leaf its value s32 | its one slot
              RIGHTS    slots of the two on the right; beside slots lie the block's own features, at OWN
    values    of four leaves, what leads there taking them for a block: CHILDREN their steps, 8 bits each from
              bit 32 on; LEFTS the values of the first s32 | the second s32; RIGHTS those of the others
    slot      the features of a node, its left and its right child, SPLIT_BITS each; from NEXT_BIT on which
              of the four it is. The first of two is from bit 0 on, the second from SLOT_SHIFT on, which is
              what remains of a negative difference that is shifted right
    entry     a block without a split; more such follow, so that the deepest leaves come with the last step,
              and the root's
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kdtool.rmt.models import ScoreTree, Tree
from kdtool.rmt.program import VALUE_MAX

__all__ = [
    "BLOCK_WORDS",
    "CHILDREN",
    "LEFTS",
    "LEVELS",
    "NEXT_BIT",
    "NODE",
    "NO_TREE",
    "OWN",
    "RIGHTS",
    "SLOT_BITS",
    "SLOT_SHIFT",
    "SPLIT_BITS",
    "STEPS_BITS",
    "Place",
    "tree_size",
    "tree_words",
    "walk_steps",
]

LEVELS = 2
NODE, CHILDREN, LEFTS, RIGHTS, BLOCK_WORDS = range(5)
VALUES_WORDS = 3
SPLIT_BITS, NEXT_BIT, SLOT_BITS, SLOT_SHIFT = 6, 20, 22, 31
"""Of a slot; a feature's number may be multiplied by 4: its three have room for two bits more."""
OWN = ((RIGHTS, 24), (RIGHTS, 56), (LEFTS, 24))
"""Where a block's own three features are: word, and bit of a byte. Those of a leaf are 0."""
STEPS_BITS = 8
LOW_32, SIGN = 2**32 - 1, 1 << 31

AnyTree = Tree | ScoreTree
Splits = tuple[int | None, int | None, int | None]
Group = tuple[int | None, int | None, int | None, int | None]
NO_SPLITS: Splits = (None, None, None)
PASSED = -1
"""In the place of a node: a block without a split."""
NO_TREE = ScoreTree((-1,), (0,), (-1,), (-1,), (0, 0), (), ())
"""A leaf that scores nothing: a forest has such trees until their number is a multiple."""


class Place(NamedTuple):
    """What a tree's words say of others, and in which units.

    steps : of the walk, at least walk_steps of the tree's depth
    features : by input of the tree the feature's number, or 4 times that
    leaves : by node of each leaf its value, 32 bits, and its steps
    first : where the tree's first word goes, which is the entry's
    unit : of offsets: 1 for words, 8 for bytes
    bias : what thresholds are written with, added; 2**31 makes them unsigned
    """

    steps: int
    features: Sequence[int]
    leaves: Mapping[int, tuple[int, int]]
    first: int
    unit: int
    bias: int = 0


class Block(NamedTuple):
    """Where a walk is after a step: a node, its left and right child if they split, and what comes next."""

    splits: Splits
    then: Group
    step: int


def walk_steps(depth: int) -> int:
    """Return how many steps a walk takes to the deepest leaf: one at least."""
    return max(1, -(-depth // LEVELS))


def tree_size(tree: AnyTree, steps: int) -> int:
    """Return how many words `tree_words` returns."""
    return _starts(_blocks(tree, steps), steps)[-1]


def tree_words(tree: AnyTree, place: Place) -> list[int]:
    """Return a tree's words, int64."""
    blocks = _blocks(tree, place.steps)
    starts = _starts(blocks, place.steps)
    words, positions = [0] * starts[-1], [0]
    for number, block in enumerate(blocks):
        if block.step == place.steps:
            _write_values(words, starts[number], block.then, place)
            continue
        for slot, node in enumerate(block.then):
            at, named = starts[number] + BLOCK_WORDS * slot, slot << NEXT_BIT
            if node is not None and _is_leaf(tree, node):
                _write_leaf(words, at, place.leaves[node], place)
            elif node is not None:
                then = len(positions)
                positions.append(at)
                following = starts[then] - (CHILDREN if blocks[then].step == place.steps else 0)
                named |= _write_block(words, at, tree, blocks[then].splits, place)
                words[at + NODE] |= place.first + place.unit * following
            if node is not None:
                words[positions[number] + LEFTS + (slot >> 1)] |= named << SLOT_SHIFT * (slot & 1)
    return words


def _write_leaf(words: list[int], at: int, leaf: tuple[int, int], place: Place) -> None:
    value, steps = leaf
    words[at + NODE] = _high(VALUE_MAX + place.bias) | place.first + place.unit * at
    words[at + CHILDREN] = steps << 32 | VALUE_MAX + place.bias
    words[at + LEFTS] = value << 32


def _write_block(words: list[int], at: int, tree: AnyTree, splits: Splits, place: Place) -> int:
    """Write where a block splits; return what its slot says of that."""
    node, left, right = (_threshold(tree, split) + place.bias for split in splits)
    words[at + NODE], words[at + CHILDREN] = _high(node), _high(right) | left & LOW_32
    named = 0
    for number, (split, (word, bit)) in enumerate(zip(splits, OWN, strict=True)):
        feature = _feature(tree, split, place)
        named |= feature << SPLIT_BITS * number
        words[at + word] |= _high(feature << bit - 32) if bit >= 32 else feature << bit
    return named


def _high(half: int) -> int:
    """Return the higher 32 bits of a word, which are those of `half`, as part of a signed one."""
    return (half & LOW_32 ^ SIGN) - SIGN << 32


def _write_values(words: list[int], at: int, leaves: Group, place: Place) -> None:
    for number, leaf in enumerate(leaves):
        if leaf is not None:
            value, steps = place.leaves[leaf]
            words[at] |= steps << 32 + STEPS_BITS * number
            words[at + 1 + number // 2] |= value << 32 if number % 2 == 0 else value & LOW_32


def _is_leaf(tree: AnyTree, node: int) -> bool:
    return node != PASSED and tree.feature[node] < 0


def _threshold(tree: AnyTree, split: int | None) -> int:
    return VALUE_MAX if split is None else tree.threshold[split]


def _feature(tree: AnyTree, split: int | None, place: Place) -> int:
    return 0 if split is None else place.features[tree.feature[split]]


def _blocks(tree: AnyTree, steps: int) -> list[Block]:
    """Return the entry and all blocks but leaves', in the order in which they are come to first.

    Levels are paired from the last one up: above the root of a tree of odd depth there is one without a
    split.
    """
    n_passed = steps - -(-tree.depth // LEVELS)
    blocks = [Block(NO_SPLITS, (PASSED, None, None, None), step) for step in range(n_passed)]
    blocks.append(Block(NO_SPLITS, (0, None, None, None), n_passed))
    is_odd = tree.depth % LEVELS == 1
    number = n_passed
    while number < len(blocks):
        then, step = blocks[number].then, blocks[number].step + 1
        for node in then:
            if node is None or tree.feature[node] < 0:
                continue
            left, right = tree.left[node], tree.right[node]
            if is_odd and node == 0:
                blocks.append(Block((None, node, None), (left, right, None, None), step))
            else:
                (a, b, left_split), (c, d, right_split) = _below(tree, left), _below(tree, right)
                blocks.append(Block((node, left_split, right_split), (a, b, c, d), step))
        number += 1
    return blocks


def _below(tree: AnyTree, child: int) -> tuple[int, int | None, int | None]:
    """Return the two nodes that come after a child, itself if it is a leaf, and where it splits."""
    if tree.feature[child] < 0:
        return child, None, None
    return tree.left[child], tree.right[child], child


def _starts(blocks: list[Block], steps: int) -> list[int]:
    """Return by block where what comes next lies, values behind all blocks, and the end."""
    starts, end = [0] * (len(blocks) + 1), BLOCK_WORDS
    for is_last in (False, True):
        for number, (_, then, step) in enumerate(blocks):
            if is_last == (step == steps):
                starts[number] = end
                n_blocks = max(slot for slot, node in enumerate(then) if node is not None) + 1
                end += VALUES_WORDS if is_last else BLOCK_WORDS * n_blocks
    starts[-1] = end + -end % BLOCK_WORDS
    return starts
