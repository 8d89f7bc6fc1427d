"""A tree as blocks of two levels, which a walk takes in one step, and where each lies.

A block compares at a node and, before it is known which way that one goes, at both children. Which features
these are, the block itself says, and the one before it for each of the four that may come next, in slots of a
word that is shifted by what the comparisons come to: so a walk waits for one load a step. The last step of
all comes to values. A leaf above has a block that leads to itself. Where there is no split, VALUE_MAX is
compared with, which no feature exceeds, and the walk goes left.

    block     NODE      the node's threshold s32 | u32: where the first of the next four lies, side by side
              CHILDREN  the right child's threshold s32, of a leaf its steps | the left child's s32
              PAIRS     by slot the features of a node and its left child; of a leaf its value s32 | 0
              RIGHTS    by slot the features of right children; between them the block's own, at OWN_BITS
    values    of four leaves, what leads there taking them for a block: CHILDREN their steps, 8 bits each from
              bit 32 on; PAIRS the values of the first s32 | the second s32; RIGHTS those of the others
    slot      the first of four: from bit 0 on. Where the walk goes right at the node, RIGHT_SHIFT more, at
              its child, CHILD_SHIFT more: what remains of a negative difference that is shifted right
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
    "CHILD_SHIFT",
    "LEVELS",
    "NODE",
    "NO_TREE",
    "OWN_BITS",
    "PAIRS",
    "RIGHTS",
    "RIGHT_SHIFT",
    "SPLIT_BITS",
    "STEPS_BITS",
    "Place",
    "tree_size",
    "tree_words",
    "walk_steps",
]

LEVELS = 2
NODE, CHILDREN, PAIRS, RIGHTS, BLOCK_WORDS = range(5)
VALUES_WORDS = 3
RIGHT_SHIFT, CHILD_SHIFT = 31, 15
SPLIT_BITS = 6
"""Of the number of a split's feature; a slot has two, and room below them for two bits more."""
OWN_BITS = (8, 24, 40)
"""Where in RIGHTS a block's own three features are: of a byte, with room for two bits more."""
STEPS_BITS = 8
LOW_32 = 2**32 - 1

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
    """

    steps: int
    features: Sequence[int]
    leaves: Mapping[int, tuple[int, int]]
    first: int
    unit: int


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
            at = starts[number] + BLOCK_WORDS * slot
            if node is not None and _is_leaf(tree, node):
                value, steps = place.leaves[node]
                words[at + NODE] = VALUE_MAX << 32 | place.first + place.unit * at
                words[at + CHILDREN], words[at + PAIRS] = steps << 32 | VALUE_MAX, value << 32
            elif node is not None:
                then = len(positions)
                following = starts[then] - (CHILDREN if blocks[then].step == place.steps else 0)
                node_threshold, left, right = (_threshold(tree, split) for split in blocks[then].splits)
                words[at + NODE] = node_threshold << 32 | place.first + place.unit * following
                words[at + CHILDREN] = right << 32 | left & LOW_32
                features = [_feature(tree, split, place) for split in blocks[then].splits]
                _name_features(words, positions[number], slot, at, features)
                positions.append(at)
    return words


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


def _name_features(words: list[int], before: int, slot: int, at: int, features: list[int]) -> None:
    """Say which features the block at `at` compares: there, and in the block before it."""
    shift = RIGHT_SHIFT * (slot >> 1) + CHILD_SHIFT * (slot & 1)
    node, left, right = features
    words[before + PAIRS] |= (node << SPLIT_BITS | left) << shift
    words[before + RIGHTS] |= right << shift
    for feature, bit in zip(features, OWN_BITS, strict=True):
        words[at + RIGHTS] |= feature << bit


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
