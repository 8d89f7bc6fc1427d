"""Where everything lies in the maps of a BPF program, in bytes.

    policy   version | degree | delta limit | default class | blocks | scores | forest trees | forests |
             rows | weights | answers | networks | a region a table
             table   entries, then the default action as entries that match everything
             entry   action (delta s64, kind u32, argument u32) | two words a match field
             blocks  of trees (blocks.py); features are where in x they lie, a byte
             score   where among the sums its class lies u32 | score s32; those of a leaf side by side, and 0s
                     up to the most that a leaf has. A forest's leaf has for a value where they lie
             tree    of a forest: the offset of its first block behind the entry, 8 bytes
             forest  first tree, end of trees (offsets) | per class base score s64, answer s64
             row     of a network, an input or two sums: 8 words (ROW_...)
             weight  two units' (networkdata.py) s64, in blocks, with 0 at the end of a row
             network first row, end of inputs, end of rows, the last layer, first answer, end of answers
    state    per register: size x (tag | count | near | run | at | history, oldest first); near: how many of
             the newest values lie in one region (features.py), run: how many of the newest differences are
             equal, at: how far the history has slid, in bytes
    counters u64 each
    scratch  loop variables | version, number of pages, pages, or a class | context | per register: count
             in bytes, near, run, differences looked at | x, u32 each: of a feature X_BIAS more | a model's
             loop variables | a forest's sums | a network's values | as much as a feature of a block may
             point to from x on

A history slides: an event's value goes behind the one before it, and only where the room ends are those
that features look at moved back to its front. Behind all that there is room for the pages of a rollout, which
the next event writes over.
"""

from dataclasses import dataclass

from kdtool.errors import ProgramError
from kdtool.rmt.blocks import BLOCK_WORDS, LEVELS, SPLIT_BITS
from kdtool.rmt.bpf.shape import TREES_A_WALK, WEIGHTS_A_BLOCK, Shape, TableShape
from kdtool.rmt.hooks import PAGE

__all__ = ["Layout", "TableLayout"]

VERSION, DEGREE, DELTA_LIMIT, DEFAULT_CLASS, POLICY_HEADER_BYTES = 0, 8, 16, 24, 32
ACTION_BYTES, X_BYTES = 16, 4
X_BIAS = 1 << 31
"""An unsigned number is loaded a cycle sooner than a signed one; thresholds have it, too."""
SCORE_BYTES, SUM_BYTES, ROOT_BYTES, FOREST_HEADER_BYTES, CLASS_BYTES = 8, 8, 8, 16, 16
LOOP_BYTES = 48
ROW_BYTES, NETWORK_BYTES, ANSWER_BYTES, WEIGHT_BLOCK_BYTES = 64, 64, 8, 8 * WEIGHTS_A_BLOCK
ROW_SOURCE, ROW_TARGET, ROW_BIASES, ROW_WEIGHTS, ROW_END, ROW_MULTIPLIER, ROW_SHIFT, ROW_HALF = range(
    0, 64, 8
)
STEP, CURSOR, ANSWER, DECIDED_BY, N_PAGES, OUT = range(0, 48, 8)
COUNT_BYTES, NEAR, RUN, LOOKED_AT, HISTORY_BYTES = range(0, 40, 8)
"""Of a register in scratch."""
COUNT_OF_KEY, NEAR_OF_KEY, RUN_OF_KEY, SLID, HISTORY = range(8, 48, 8)
"""Where an entry of `state` has them."""
RECORD_WORDS = 7
"""Of a record in a ring (fault.py), before its pages."""
UNROLLED_FIELDS = 8
"""Up to so many match fields, four entries are tested between two looks at the loop's variable; else one."""
MAX_MAP_BYTES = 1 << 28
"""Half of what the kernel allows a variable offset to be (BPF_MAX_VAR_OFF)."""


@dataclass(frozen=True)
class TableLayout:
    """A table's region: where it begins, the bytes of an entry, how many are tested in a row, its bytes."""

    offset: int
    stride: int
    unroll: int
    size_bytes: int

    @property
    def last(self) -> int:
        """Return the largest cursor, of the last entries that are tested in a row."""
        return self.size_bytes - self.unroll * self.stride


class Layout:
    """Offsets and sizes for `shape`.

    Raises ProgramError, naming the limit, when the policy would be larger than a map's value may be.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        degree = shape.degree_pages
        self.out = OUT
        self.event = OUT + 8 * degree
        self.histories = self.event + 8 * self.event_words
        self.x = self.histories + HISTORY_BYTES * len(shape.registers)
        self.x_mask = X_BYTES * (_power_of_two(len(shape.features)) - 1)
        self.loop = self.x + max(8, self.x_mask + X_BYTES)
        self.sums = self.loop + LOOP_BYTES
        self.sum_mask = 8 * (_power_of_two(shape.forests.classes) - 1)
        self.network_values = self.sums + (self.sum_mask + 8 if shape.forests.forests else 0)
        n_values = _power_of_two(shape.networks.values)
        self.value_mask = 8 * (n_values - 1)
        at = self.network_values if shape.forests.forests else self.loop
        if shape.networks.networks:  # the last block of weights may reach beyond the values
            at = self.network_values + 8 * n_values + WEIGHT_BLOCK_BYTES
        self.history_depth = tuple(shape.depth_of(r) for r in shape.registers)
        self.longest_runs = tuple(shape.longest_run(r) for r in shape.registers)
        self.slide_masks = tuple(8 * ((1 << depth.bit_length() - 1) - 1) for depth in self.history_depth)
        self.scratch_bytes = max(at, self.x + (X_BYTES << SPLIT_BITS) + X_BYTES)
        self._lay_state()
        self._lay_policy()

    @property
    def event_words(self) -> int:
        """Return the words of an event: the hook's context fields."""
        return len(self.shape.hook.context)

    def context(self, name: str) -> int:
        """Return where in scratch a context field lies."""
        return self.event + 8 * self.shape.hook.field_names.index(name)

    @property
    def record_bytes(self) -> int:
        """Return the bytes of a record with its pages."""
        return 8 * (RECORD_WORDS + self.shape.degree_pages)

    @property
    def record_stride(self) -> int:
        """Return how far apart records lie in a ring, a power of two."""
        return _power_of_two(self.record_bytes)

    def history(self, register: int, word: int) -> int:
        """Return where in scratch one of the words of a register lies: COUNT_BYTES to LOOKED_AT."""
        return self.histories + HISTORY_BYTES * register + word

    def newest(self, register: int) -> int:
        """Return where in an entry of `state` the newest value of a history lies that has not slid."""
        return HISTORY + 8 * (self.history_depth[register] - 1)

    def state_entry_bytes(self, register: int) -> int:
        """Return the bytes that one key of a register takes."""
        is_page = self.shape.registers[register].records == PAGE
        room = 8 * self.shape.degree_pages if is_page else 0
        return self.newest(register) + 8 + self.slide_masks[register] + room

    def _lay_state(self) -> None:
        at, offsets = 0, []
        for i, register in enumerate(self.shape.registers):
            offsets.append(at)
            at += register.size * self.state_entry_bytes(i)
        self.state, self.state_bytes = tuple(offsets), at
        n_counters = _power_of_two(len(self.shape.counters))
        self.counter_mask, self.counter_bytes = 8 * (n_counters - 1), 8 * n_counters

    def _lay_policy(self) -> None:
        self.blocks = at = POLICY_HEADER_BYTES
        self.block_mask = _word_mask(self.shape.tree_bytes)
        if self.shape.tree_bytes:
            at += self.block_mask + (8 * BLOCK_WORDS << LEVELS)
        at, tables = self._lay_networks(self._lay_forests(at)), []
        for table in self.shape.tables:
            tables.append(_table_layout(at, table))
            at += tables[-1].size_bytes
        self.tables, self.policy_bytes = tuple(tables), at
        if at > MAX_MAP_BYTES:
            raise ProgramError(
                f"entries and models take {at} bytes, a BPF map's value here at most {MAX_MAP_BYTES}: "
                f"train with fewer leaves or build fewer entries"
            )

    def _lay_forests(self, at: int) -> int:
        """Lay scores, trees and forests from `at` on, each a power of two of them; return the end."""
        room = self.shape.forests
        self.scores = self.forest_trees = self.forests = at
        self.forest_bytes = _power_of_two(FOREST_HEADER_BYTES + CLASS_BYTES * room.classes)
        scores_bytes = SCORE_BYTES * room.leaves * room.leaf_scores
        n_trees, n_forests = _power_of_two(room.trees), _power_of_two(room.forests)
        self.score_mask, self.tree_mask = _word_mask(scores_bytes), ROOT_BYTES * (n_trees - 1)
        self.forest_mask = self.forest_bytes * (n_forests - 1)
        if not room.forests:
            return at
        self.forest_trees = self.scores + self.score_mask + 8 + SCORE_BYTES * room.leaf_scores
        self.forests = self.forest_trees + ROOT_BYTES * (n_trees + TREES_A_WALK - 1)
        return self.forests + self.forest_bytes * n_forests

    def _lay_networks(self, at: int) -> int:
        """Lay rows, weights, answers and networks, each a power of two of them; return the end."""
        room = self.shape.networks
        counts = (room.rows, room.blocks, room.classes, room.networks)
        sizes = (ROW_BYTES, WEIGHT_BLOCK_BYTES, ANSWER_BYTES, NETWORK_BYTES)
        starts, masks = [], []
        for n, size in zip(counts, sizes, strict=True):
            starts.append(at)
            masks.append(size * (_power_of_two(n) - 1))
            at += masks[-1] + size if room.networks else 0
        self.rows, self.weights, self.answers, self.networks = starts
        self.row_mask, self.weight_mask, self.answer_mask, self.network_mask = masks
        return at


def _table_layout(offset: int, table: TableShape) -> TableLayout:
    stride = ACTION_BYTES + 16 * len(table.match_fields)
    unroll = min(table.entries + 1, 4 if len(table.match_fields) <= UNROLLED_FIELDS else 1)
    groups = -(-(table.entries + 1) // unroll)
    return TableLayout(offset, stride, unroll, groups * unroll * stride)


def _word_mask(size_bytes: int) -> int:
    """Return a mask for offsets of words in a region of at least so many bytes."""
    return _power_of_two(max(size_bytes, 8)) - 8


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, 0).bit_length()
