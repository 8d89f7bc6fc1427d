"""Masks of the BPF code: each index that a policy of the corpus leads to lies in its region as it is.

The code masks what it takes from a policy, since the kernel's verifier knows nothing of it. Here the same is
followed by hand, from the action of each entry on: a mask that changed a value would decide something else.
"""

import struct
from collections import Counter

from conformance_cases import read_cases

from kdtool.rmt.blocks import BLOCK_WORDS, CHILDREN, NODE, PAIRS
from kdtool.rmt.bpf import Layout, pack_policy, shape_of
from kdtool.rmt.bpf.layout import (
    ANSWER_BYTES,
    ROOT_BYTES,
    ROW_BYTES,
    SCORE_BYTES,
    WEIGHT_BLOCK_BYTES,
    X_BYTES,
)
from kdtool.rmt.bpf.modeldata import INFER, INFER_FOREST, INFER_NETWORK
from kdtool.rmt.bpf.policy import COUNT, FOLLOW
from kdtool.rmt.program import VALUE_MAX


class Policy:
    """A packed program, and the indexes that running it can come to: `seen` counts them by region."""

    def __init__(self, program):
        self.layout = Layout(shape_of(program))
        self.value = pack_policy(self.layout, program, 1)
        self.n_features, self.n_counters = len(program.features), len(program.counters)
        self.seen = Counter()

    def read(self, form, at):
        return struct.unpack_from(f"<{form}", self.value, at)

    def index(self, region, value, mask, end):
        assert value & mask == value < end, (region, value, mask, end)
        self.seen[region] += 1
        return value

    def follow_all(self):
        for place in self.layout.tables:
            for at in range(place.offset, place.offset + place.size_bytes, place.stride):
                _, kind, argument = self.read("qII", at)
                self.follow(kind, argument)

    def follow(self, kind, argument):
        if kind == FOLLOW:
            self.index("x", argument, self.layout.x_mask, X_BYTES * self.n_features)
        elif kind == COUNT:
            self.index("counters", argument, self.layout.counter_mask, 8 * self.n_counters)
        elif kind == INFER:
            self.walk(argument + 8 * BLOCK_WORDS, self.layout.shape.steps)
        elif kind == INFER_FOREST:
            self.forest(argument)
        elif kind == INFER_NETWORK:
            self.network(argument)

    def walk(self, block, steps):
        """Return the values that a walk of so many steps can end at."""
        reached = {self.index("blocks", block, self.layout.block_mask, self.layout.shape.tree_bytes)}
        for _ in range(steps - 1):
            reached = {
                first + 8 * BLOCK_WORDS * number
                for first, numbers in map(self.step, reached)
                for number in numbers
            }
        ends = [
            first + 8 * PAIRS + 4 * (number ^ 1)
            for first, numbers in map(self.step, reached)
            for number in numbers
        ]
        return [self.read("i", self.layout.blocks + end)[0] for end in ends]

    def step(self, block):
        """Return where the next four begin, and to which a block goes on: to the left, for VALUE_MAX."""
        at, layout = self.layout.blocks + block, self.layout
        first, node = self.read("Ii", at + 8 * NODE)
        left, right = (threshold != VALUE_MAX for threshold in self.read("2i", at + 8 * CHILDREN))
        ways = [0, 1][: 1 + left] + [2, 3][: 1 + right] * (node != VALUE_MAX)
        return self.index("blocks", first, layout.block_mask, layout.shape.tree_bytes), ways

    def forest(self, argument):
        layout, room = self.layout, self.layout.shape.forests
        self.index("forests", argument, layout.forest_mask, layout.forest_bytes * room.forests)
        for tree in range(*self.read("QQ", layout.forests + argument), ROOT_BYTES):
            self.index("forest trees", tree, layout.tree_mask, ROOT_BYTES * room.trees)
            (root,) = self.read("Q", layout.forest_trees + tree)
            for leaf in self.walk(root, room.steps):
                for at in range(leaf, leaf + SCORE_BYTES * room.leaf_scores, SCORE_BYTES):
                    end = SCORE_BYTES * room.leaf_scores * room.leaves
                    self.index("scores", at, layout.score_mask, end)
                    (total,) = self.read("I", layout.scores + at)
                    self.index("sums", total, layout.sum_mask, 8 * room.classes)

    def network(self, argument):
        layout, room = self.layout, self.layout.shape.networks
        self.index("networks", argument, layout.network_mask, layout.network_mask + 1)
        record = self.read("6Q", layout.networks + argument)
        row, inputs_end, rows_end, total, answer, answers_end = record
        for at in range(row, rows_end, ROW_BYTES):
            self.index("rows", at, layout.row_mask, ROW_BYTES * room.rows)
            source, target, _, start, end = self.read("2Qq2Q", layout.rows + at)
            self.index("values", target, layout.value_mask, 8 * room.values)
            if at < inputs_end:
                self.index("x", source, layout.x_mask, X_BYTES * self.n_features)
            for moved in range(0, end - start, WEIGHT_BLOCK_BYTES):
                self.index("weights", start + moved, layout.weight_mask, WEIGHT_BLOCK_BYTES * room.blocks)
                self.index("values", source + moved, layout.value_mask, 8 * room.values)
        for number, at in enumerate(range(answer, answers_end, ANSWER_BYTES)):
            self.index("answers", at, layout.answer_mask, ANSWER_BYTES * room.classes)
            self.index("values", total + 8 * number, layout.value_mask, 8 * room.values)


def test_no_mask_changes_an_index_that_a_program_of_the_corpus_comes_to():
    seen = Counter()
    for case in read_cases():
        policy = Policy(case.program)
        policy.follow_all()
        seen += policy.seen
    assert set(seen) == {
        "x", "counters", "blocks", "forests", "forest trees", "scores", "sums",
        "networks", "rows", "values", "weights", "answers",
    }  # fmt: skip
