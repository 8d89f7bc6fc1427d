"""Hypothesis strategies: random programs, events and reference strings."""

from hypothesis import strategies as st

from kdtool.rmt import (
    Action,
    Budget,
    Conv1d,
    Dense,
    Entry,
    Feature,
    Forest,
    Guards,
    MatchField,
    Network,
    Program,
    Register,
    ScoreTree,
    Table,
    Tree,
)
from kdtool.rmt.hooks import HOOKS
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN

SMALL = st.integers(-12, 12)
EXTREME = st.sampled_from([VALUE_MIN, VALUE_MIN + 1, -1, 0, 1, VALUE_MAX - 1, VALUE_MAX])
VALUES = st.one_of(SMALL, EXTREME)


@st.composite
def trees(draw, inputs, answers=VALUES):
    """Return a random tree over `inputs`, built by splitting leaves."""
    feature, threshold, left, right, value = [-1], [0], [-1], [-1], [draw(answers)]
    for _ in range(draw(st.integers(0, 6))):
        leaf = draw(st.sampled_from([i for i, split in enumerate(feature) if split < 0]))
        children = len(feature), len(feature) + 1
        feature[leaf], threshold[leaf] = draw(st.integers(0, len(inputs) - 1)), draw(VALUES)
        left[leaf], right[leaf], value[leaf] = *children, 0
        for _ in children:
            feature.append(-1)
            threshold.append(0)
            left.append(-1)
            right.append(-1)
            value.append(draw(answers))
    columns = (tuple(column) for column in (feature, threshold, left, right, value))
    return Tree("model", tuple(inputs), *columns)


@st.composite
def forests(draw, inputs, answers=VALUES):
    """Return a random forest over `inputs`, of the splits of random trees."""
    classes = tuple(draw(st.lists(answers, min_size=1, max_size=5)))
    trees_ = []
    for _ in range(draw(st.integers(1, 4))):
        tree = draw(trees(inputs))
        first, score_class, score = [0], [], []
        for split in tree.feature:
            scored = sorted(draw(st.sets(st.integers(0, len(classes) - 1)))) if split < 0 else []
            score_class += scored
            score += [draw(VALUES) for _ in scored]
            first.append(len(score))
        columns = (tree.feature, tree.threshold, tree.left, tree.right)
        trees_.append(ScoreTree(*columns, tuple(first), tuple(score_class), tuple(score)))
    base_scores = tuple(draw(VALUES) for _ in classes)
    return Forest("forest", tuple(inputs), classes, base_scores, tuple(trees_))


WEIGHTS = st.one_of(st.integers(-9, 9), st.sampled_from([-128, -127, 126, 127]))


@st.composite
def layers(draw, width, last):
    """Return a random layer onto `width` values."""
    channels = draw(st.sampled_from([c for c in range(1, width + 1) if width % c == 0]))
    moving = draw(st.booleans())
    n_weights = channels * draw(st.integers(1, width // channels)) if moving else width
    rows = st.lists(WEIGHTS, min_size=n_weights, max_size=n_weights).map(tuple)
    weights = tuple(draw(st.lists(rows, min_size=1, max_size=4)))
    biases = tuple(draw(VALUES) for _ in weights)
    multiplier, shift = 0, 0
    if not last:
        multiplier = draw(st.one_of(st.integers(1, 9), st.sampled_from([2**30, VALUE_MAX])))
        shift = draw(st.one_of(st.integers(1, 8), st.sampled_from([30, 31, 61, 62])))
    if moving:
        return Conv1d(channels, draw(st.integers(1, width)), weights, biases, multiplier, shift)
    return Dense(weights, biases, multiplier, shift)


@st.composite
def networks(draw, inputs, answers=VALUES):
    """Return a random network over `inputs`."""
    n_layers, width, made = draw(st.integers(1, 3)), len(inputs), []
    for number in range(n_layers):
        made.append(draw(layers(width, number == n_layers - 1)))
        width = made[-1].n_outputs(width)
    shifts = tuple(draw(st.one_of(st.integers(-3, 3), st.sampled_from([-7, 24, 30, 31]))) for _ in inputs)
    classes = tuple(draw(answers) for _ in range(width))
    return Network("network", tuple(inputs), shifts, tuple(made), classes)


def actions(features, models, counters=(), classes=()):
    """Return any action a table of this program may take."""
    kinds = [st.just(Action("stop")), st.just(Action("no_action"))]
    kinds += [st.just(Action("infer", model=model.name)) for model in models]
    kinds += [st.just(Action("count", counter=counter)) for counter in counters]
    kinds += [st.just(Action("classify", class_name=name)) for name in classes]
    if not classes:
        kinds.append(VALUES.filter(bool).map(lambda delta: Action("predict", delta=delta)))
        kinds.append(st.sampled_from(features).map(lambda name: Action("follow", feature=name)))
    return st.one_of(kinds)


@st.composite
def cells(draw, match_type):
    """Return a well-formed pair for one match field."""
    first, second = draw(VALUES), draw(VALUES)
    if match_type == "EXACT":
        return first, first
    if match_type == "RANGE":
        return min(first, second), max(first, second)
    if match_type == "TERNARY":
        return first & second, second
    length = draw(st.integers(0, 32))
    prefix = first & ~((1 << (32 - length)) - 1)
    return (prefix, length) if prefix >= VALUE_MIN - 1 else (0, length)


@st.composite
def tables(draw, name, known, action):
    """Return a random table over some of the names that are `known`, with actions drawn from `action`."""
    names = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    kinds = [draw(st.sampled_from(["EXACT", "RANGE", "TERNARY", "LPM"])) for _ in names]
    entries = []
    for _ in range(draw(st.integers(0, 4))):
        match = tuple(draw(cells(kind)) for kind in kinds)
        entries.append(Entry(match, draw(st.integers(1, 3)), draw(action)))
    fields = tuple(MatchField(n, kind) for n, kind in zip(names, kinds, strict=True))
    return Table(name, fields, tuple(entries), draw(action))


KEYS = {
    "mm.swapin": [("pid",), ("pid", "ip"), ("tid", "region"), ("vpn",)],
    "sched.migrate": [("tid",), ("src_cpu", "dst_cpu"), ("pid", "idle")],
    "blk.submit": [("dev",), ("pid", "tid"), ("dev", "sector")],
}


@st.composite
def features(draw, hook, registers):
    """Return one to five features of all kinds that the registers allow."""
    made = []
    for i in range(draw(st.integers(1, 5))):
        register = draw(st.sampled_from(registers))
        ops = ["delta", "span", "run", "field", *(["value"] if register.records in hook.values else [])]
        op = draw(st.sampled_from(ops))
        if op == "field":
            made.append(Feature(f"f{i}", op, "", 0, draw(st.sampled_from(hook.values))))
        else:
            lag = draw(st.integers(int(op != "value"), register.history - 1))
            made.append(Feature(f"f{i}", op, register.name, lag))
    return tuple(made)


@st.composite
def programs(draw, hook=HOOKS[0]):
    """Return a random well-formed program for `hook`."""
    registers = tuple(
        Register(
            f"r{i}",
            draw(st.sampled_from(KEYS[hook.name])),
            draw(st.sampled_from([1, 2, 8])),
            draw(st.integers(2, 5)),
            draw(st.sampled_from(hook.recordable)),
        )
        for i in range(draw(st.integers(1, 2)))
    )
    made = draw(features(hook, registers))
    names = [f.name for f in made]
    answers = st.integers(0, len(hook.classes) - 1) if hook.classes else VALUES
    models = tuple(draw(kind(names, answers)) for kind in (trees, forests, networks) if draw(st.booleans()))
    counters = tuple(f"c{i}" for i in range(draw(st.integers(0, 3))))
    action = actions(names, models, counters, hook.classes)
    known = [*names, *hook.values]
    guards = Guards(draw(st.integers(1, 6)), draw(st.sampled_from([5, 1000, VALUE_MAX])))
    return Program(
        name="random",
        hook=hook.name,
        registers=registers,
        features=made,
        models=models,
        tables=tuple(draw(tables(f"t{i}", known, action)) for i in range(draw(st.integers(1, 3)))),
        guards=Guards(1) if hook.classes else guards,
        budget=Budget(1, 1),
        counters=counters,
        default_class=draw(st.sampled_from(hook.classes)) if hook.classes else "",
    )


ANY_PROGRAMS = st.sampled_from((HOOKS[0], *HOOKS)).flatmap(programs)
"""Programs for all hooks; half of them answer pages, whose rollouts have more to go wrong."""

VPNS = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**51, 2**52 - 1]))
EVENTS = st.lists(
    st.tuples(VPNS, st.integers(1, 3), st.integers(1, 2), st.sampled_from([0, 7, 2**63 - 1]), st.booleans()),
    max_size=40,
)
