"""The shape of a program: what its BPF code is made for. All else is data, replaceable while the code runs.

Code: hook, counters, registers, features, the match fields of each table. Room: pages a decision, entries a
table, nodes and depth of the trees, trees and leaves of the forests, rows of the networks, which tables may
infer with what. Programs that share their code fit a shape with room for them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kdtool.errors import ProgramError
from kdtool.rmt.blocks import NO_TREE, tree_size, walk_steps
from kdtool.rmt.hooks import PAGE, Hook, find_hook
from kdtool.rmt.models import Forest, Model, Tree
from kdtool.rmt.networks import Layer, Network
from kdtool.rmt.program import Feature, MatchField, Program, Register, Table

__all__ = [
    "WEIGHTS_A_BLOCK",
    "ForestShape",
    "NetworkShape",
    "Shape",
    "TableShape",
    "looked_at",
    "shape_of",
    "tree_bytes",
    "weight_blocks",
]

WEIGHTS_A_BLOCK = 8
"""So many products are added between two looks at a loop's variable."""

TREES_A_WALK = 4
"""So many trees of a forest are walked at once."""


@dataclass(frozen=True)
class TableShape:
    """A table's match fields, the entries that there is room for, and with what an action may infer.

    features : those that it looks at, and no table before it, by number
    """

    match_fields: tuple[MatchField, ...]
    features: tuple[int, ...]
    entries: int
    trees: bool
    forests: bool
    networks: bool


@dataclass(frozen=True)
class ForestShape:
    """Room for forests: how many; classes, steps and scores of a leaf of any; trees and leaves of all.

    trees : a multiple of TREES_A_WALK of each
    leaves : one more than there are, which scores nothing
    """

    forests: int = 0
    classes: int = 0
    steps: int = 1
    leaf_scores: int = 0
    trees: int = 0
    leaves: int = 0


@dataclass(frozen=True)
class NetworkShape:
    """Room for networks: how many, values of the largest; rows, weights and classes of all together.

    rows : one for each input and each two sums
    blocks : of WEIGHTS_A_BLOCK weights of two units, of which a row has a whole number
    """

    networks: int = 0
    values: int = 0
    rows: int = 0
    blocks: int = 0
    classes: int = 0


@dataclass(frozen=True)
class Shape:
    """What code is made for.

    tree_bytes : of the blocks of all trees together (blocks.py), those of forests included
    steps : of a walk to the deepest leaf of a tree that is not a forest's
    """

    hook: Hook
    counters: tuple[str, ...]
    registers: tuple[Register, ...]
    features: tuple[Feature, ...]
    tables: tuple[TableShape, ...]
    degree_pages: int
    tree_bytes: int
    steps: int
    forests: ForestShape
    networks: NetworkShape

    def depth_of(self, register: Register) -> int:
        """Return how many values of a register's history any feature looks at."""
        return 1 + max((f.lag for f in self.features if f.register == register.name), default=0)

    def longest_run(self, register: Register) -> int:
        """Return how many equal differences of a register are counted.

        As many as any feature counts; of pages as many as any looks at and one more (decision.py).
        """
        if register.records == PAGE and not self.counters:
            return self.depth_of(register)
        runs = (f.lag for f in self.features if f.register == register.name and f.op == "run")
        return max(runs, default=0)

    def looked_at(self, register: Register, tables: int) -> int:
        """Return how many of a register's differences the first so many tables' features look at, at most."""
        numbers = {f for table in self.tables[:tables] for f in table.features}
        lags = (self.features[f].lag for f in numbers if self.features[f].register == register.name)
        return max(lags, default=0)


def shape_of(program: Program, *others: Program) -> Shape:
    """Return the smallest shape that has room for all of them.

    Raises ProgramError, naming what differs, when they cannot share their code.

    >>> from kdtool.rmt.examples import stride_program
    >>> shape_of(stride_program(), stride_program(degree_pages=8)).degree_pages
    8
    """
    for other in others:
        difference = _difference(program, other)
        if difference:
            raise ProgramError(
                f"program {other.name!r} differs from {program.name!r} in its {difference}: code made for "
                f"one cannot run the other; load it as a program of its own"
            )
    programs = (program, *others)
    tables = zip(*([(p, table) for table in p.tables] for p in programs), strict=True)
    steps = walk_steps(max((m.depth for p in programs for m in p.models if isinstance(m, Tree)), default=0))
    forests = _forest_room(programs)
    computed: set[int] = set()
    return Shape(
        hook=find_hook(program.hook),
        counters=program.counters,
        registers=program.registers,
        features=program.features,
        tables=tuple(_room(versions, computed) for versions in tables),
        degree_pages=max(p.guards.degree_pages for p in programs),
        tree_bytes=max(tree_bytes(p, steps, forests.steps) for p in programs),
        steps=steps,
        forests=forests,
        networks=_network_room(programs),
    )


def weight_blocks(layer: Layer) -> int:
    """Return how many blocks of weights two units of `layer` take."""
    return -(-len(layer.weights[0]) // WEIGHTS_A_BLOCK)


def tree_bytes(program: Program, steps: int, forest_steps: int) -> int:
    """Return the bytes of a program's blocks, for walks of so many steps."""
    words = sum(tree_size(model, steps) for model in program.models if isinstance(model, Tree))
    forests = [model for model in program.models if isinstance(model, Forest)]
    words += sum(tree_size(tree, forest_steps) for forest in forests for tree in forest.trees)
    return 8 * (words + (tree_size(NO_TREE, forest_steps) if forests else 0))


def _walked_trees(forest: Forest) -> int:
    return -(-len(forest.trees) // TREES_A_WALK) * TREES_A_WALK


def _network_room(programs: Sequence[Program]) -> NetworkShape:
    each = [[m for m in p.models if isinstance(m, Network)] for p in programs]
    return NetworkShape(
        networks=max(map(len, each)),
        values=max((sum(m.widths) for networks in each for m in networks), default=0),
        rows=max(sum(map(_network_rows, networks)) for networks in each),
        blocks=max(
            sum(_pairs(layer) * weight_blocks(layer) for m in networks for layer in m.layers)
            for networks in each
        ),
        classes=max(sum(len(m.classes) for m in networks) for networks in each),
    )


def _network_rows(network: Network) -> int:
    sums = zip(network.layers, network.widths[1:], strict=True)
    return len(network.inputs) + sum(n // len(layer.weights) * _pairs(layer) for layer, n in sums)


def _pairs(layer: Layer) -> int:
    return -(-len(layer.weights) // 2)


def _forest_room(programs: Sequence[Program]) -> ForestShape:
    each = [[m for m in p.models if isinstance(m, Forest)] for p in programs]
    every = [forest for forests in each for forest in forests]
    return ForestShape(
        forests=max(map(len, each)),
        classes=max((len(forest.classes) for forest in every), default=0),
        steps=walk_steps(max((forest.depth for forest in every), default=0)),
        trees=max(sum(map(_walked_trees, forests)) for forests in each),
        leaf_scores=max((tree.most_scores for forest in every for tree in forest.trees), default=0),
        leaves=max(1 + sum(forest.n_leaves for forest in forests) for forests in each),
    )


def _difference(first: Program, second: Program) -> str:
    fields = [[t.match_fields for t in p.tables] for p in (first, second)]
    differs = {
        "hook": first.hook != second.hook,
        "counters": first.counters != second.counters,
        "registers": first.registers != second.registers,
        "features": first.features != second.features,
        "number of tables": len(first.tables) != len(second.tables),
        "match fields": fields[0] != fields[1],
    }
    return next((what for what, is_so in differs.items() if is_so), "")


def looked_at(program: Program, table: Table) -> set[int]:
    """Return the numbers of the features that a table matches, or any of its actions looks at."""
    names = {field.name for field in table.match_fields}
    actions = [*(entry.action for entry in table.entries), table.default_action]
    names |= {action.feature for action in actions if action.name == "follow"}
    for model in _inferred(program, table):
        names |= _split_at(model)
    return {f for f, feature in enumerate(program.features) if feature.name in names}


def _inferred(program: Program, table: Table) -> list[Model]:
    actions = [*(entry.action for entry in table.entries), table.default_action]
    names = {action.model for action in actions if action.name == "infer"}
    return [model for model in program.models if model.name in names]


def _split_at(model: Model) -> set[str]:
    """Return the inputs that a model's answer may depend on."""
    if isinstance(model, Network):
        return set(model.inputs)
    trees = (model,) if isinstance(model, Tree) else model.trees
    return {model.inputs[split] for tree in trees for split in tree.feature if split >= 0}


def _room(versions: tuple[tuple[Program, Table], ...], computed: set[int]) -> TableShape:
    """Return a table's room; what it looks at is `computed` from then on."""
    inferred = {type(model) for program, table in versions for model in _inferred(program, table)}
    features = set().union(*(looked_at(program, table) for program, table in versions)) - computed
    computed |= features
    return TableShape(
        match_fields=versions[0][1].match_fields,
        features=tuple(sorted(features)),
        entries=max(len(table.entries) for _, table in versions),
        trees=Tree in inferred,
        forests=Forest in inferred,
        networks=Network in inferred,
    )
