"""What a policy is: a match-action program for one hook, integers only.

At each event of its hook a program

1. pushes a field of the event into each of its *registers*: the last few, per key (a process, a thread ...);
2. computes its *features* from them: differences, and values that are no address;
3. applies its *tables* in order; the entry that matches says what to do. `no_action` leaves the matter to the
   next table, and so does `count`, which adds 1 to a counter; `stop` ends the decision.

At a hook that answers pages (hooks.py), an action may `predict` a difference in pages, `infer` it with an
integer model, or `follow` a feature (predict its value); a prediction of 0 leaves the matter to the next
table. The predicted page is pushed into a copy of the registers that keep pages, and the program goes back to
2, until `stop` or until `degree_pages` pages are predicted: the *rollout*, by which prefetches run several
faults ahead.

At a hook that answers a class, an action may `classify`, or `infer` the number of a class; where no table
decides, `default_class` is the answer. There is no rollout.

Names follow P4Info and P4Runtime's TableEntry. P4 keys are unsigned; ours are signed 32-bit
(`signed: true`), so an export to P4 adds 2**31 to every bound. Larger priority wins.
"""

from dataclasses import dataclass, field

from kdtool.rmt.hooks import PAGE, find_hook
from kdtool.rmt.models import Forest, Model, ScoreTree, Tree
from kdtool.rmt.networks import Conv1d, Dense, Network

__all__ = [
    "CONTEXT_FIELDS",
    "FORMAT",
    "FORMAT_VERSION",
    "LIMITS",
    "MATCH_TYPES",
    "VALUE_MAX",
    "VALUE_MIN",
    "Action",
    "Budget",
    "Conv1d",
    "Dense",
    "Entry",
    "Feature",
    "Forest",
    "Guards",
    "MatchField",
    "Model",
    "Network",
    "Program",
    "Register",
    "ScoreTree",
    "Table",
    "Tree",
]

FORMAT = "kdtool.rmt"
FORMAT_VERSION = "1.2"
"""1.0 has no `rate_pages` and `min_accuracy_permille`; 1.1 knows mm.swapin alone, and neither what a register
records, nor fields as features, classes and counters. What is absent is as the defaults say."""

CONTEXT_FIELDS = find_hook("mm.swapin").field_names
"""What an event of mm.swapin carries; of other hooks: hooks.py."""
MATCH_TYPES = ("EXACT", "RANGE", "TERNARY", "LPM")
FEATURE_OPS = ("delta", "span", "run", "value", "field")
ACTION_NAMES = ("no_action", "stop", "predict", "infer", "follow", "count", "classify")

VALUE_MIN, VALUE_MAX = -(2**31) + 1, 2**31 - 1
"""Every feature, threshold, bound and parameter lies in here: no difference of two overflows."""


@dataclass(frozen=True)
class Limits:
    """What a program may ask for; checked before anything is allocated."""

    file_bytes: int = 16 * 2**20
    registers: int = 8
    register_size: int = 4096
    history: int = 64
    features: int = 64
    tables: int = 8
    match_fields: int = 64
    entries: int = 65_536
    models: int = 8
    counters: int = 64
    tree_nodes: int = 65_536
    tree_depth: int = 32
    forest_trees: int = 256
    forest_depth: int = 16
    forest_classes: int = 64
    forest_nodes: int = 524_288
    forest_scores: int = 1_048_576
    network_layers: int = 8
    network_values: int = 1024
    network_weights: int = 65_536
    degree_pages: int = 64
    rate_pages: int = 10_000_000
    steps: int = 262_144


LIMITS = Limits()


@dataclass(frozen=True)
class Register:
    """State: the last `history` values of a field for each of `size` keys (a power of two, direct-mapped).

    `key` lists context fields, `records` is the one that is kept: an address or a value. Two keys that fall
    on one entry take turns: the later one starts empty.
    """

    name: str
    key: tuple[str, ...]
    size: int
    history: int
    records: str = PAGE


@dataclass(frozen=True)
class Feature:
    """An integer computed from one register; 0 while its history is too short.

    With h[0] the newest value of the register:
    `delta` = h[lag-1] - h[lag];  `span` = h[0] - h[lag];  `run` = how many of the newest deltas are
    equal (at most lag);  `value` = h[lag], of a register that keeps no address.
    `field` is a value of the event itself, by its name; it has no register, and lag 0.
    Differences and values are clamped to [VALUE_MIN, VALUE_MAX].
    """

    name: str
    op: str
    register: str
    lag: int
    field: str = ""


@dataclass(frozen=True)
class MatchField:
    """A key of a table: a feature or a context field, and how it is matched."""

    name: str
    match_type: str
    bitwidth: int = 32
    signed: bool = True


@dataclass(frozen=True)
class Action:
    """What to do, by its name, and its parameter.

    `no_action` (try the next table), `stop`, `predict` a delta, `infer` a model, `follow` a feature, `count`
    in a counter, `classify` as a class of the hook.
    """

    name: str
    delta: int = 0
    model: str = ""
    feature: str = ""
    counter: str = ""
    class_name: str = ""


@dataclass(frozen=True)
class Entry:
    """One row of a table: a pair of integers per match field, a priority (larger wins), an action.

    The pair is (low, high) for RANGE, (value, mask) for TERNARY, (value, prefix_len) for LPM and
    (value, value) for EXACT.
    """

    match: tuple[tuple[int, int], ...]
    priority: int
    action: Action


@dataclass(frozen=True)
class Table:
    """Entries over match fields; `default_action` is taken when none matches."""

    name: str
    match_fields: tuple[MatchField, ...]
    entries: tuple[Entry, ...]
    default_action: Action


@dataclass(frozen=True)
class Guards:
    """Bounds that hold whatever the model says.

    degree_pages, delta_limit_pages : pages a decision, and how far one prediction may jump; every executor
        keeps to them. Where a class is answered they are 1 and VALUE_MAX
    rate_pages, min_accuracy_permille : pages a second, and the share of prefetched pages that must be used
        for the program to go on rather than leave it to the kernel; whoever runs it live keeps to them
    """

    degree_pages: int
    delta_limit_pages: int = VALUE_MAX
    rate_pages: int = 400_000
    min_accuracy_permille: int = 500


@dataclass(frozen=True)
class Budget:
    """What the program declares it costs at most; `verify` proves or refutes it."""

    steps: int
    state_bytes: int


@dataclass(frozen=True)
class Program:
    """A whole policy. `provenance` says where it came from: trace hashes, learner, seed, versions.

    counters : names; each counts from 0 and wraps at 2**64
    default_class : the answer where no table decides, at a hook that answers a class; else empty
    """

    name: str
    hook: str
    registers: tuple[Register, ...]
    features: tuple[Feature, ...]
    models: tuple[Model, ...]
    tables: tuple[Table, ...]
    guards: Guards
    budget: Budget
    provenance: dict[str, str | int | list[str]] = field(default_factory=dict)
    counters: tuple[str, ...] = ()
    default_class: str = ""
