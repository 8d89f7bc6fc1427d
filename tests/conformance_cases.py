"""Reads tests/conformance/*.txt: small programs, events, and what must be decided, checked by hand.

== what the case tries                  lines before the first case are every case's, unless it has its own
hook: mm.swapin
registers: p=pid/16/8, m=pid/16/4:major name = key+key / size / history : what it records, vpn unless said
features:  d=delta(p,1), s=span(p,2), v=value(m,0), f=field(major)
tree m:    d <= 4 ? 0 : (s <= 9 ? 5 : 0)
forest f:  0 5/10; d <= 4 ? 0=3,1=-2 : 1=7; -    answer/base score of each class; trees: a leaf's class=score
network n: 5 7; 0 2; * 3 >> 1 | 1 -2 + 4 | 0 1; | 1 1 | 2 0 + 9    answers; inputs' shifts; layers
table:     d RANGE, s LPM; 3..9 256/24 @2 -> predict 5; else infer m
degree: 1      limit: 2147483647
counters: a b                           for actions such as `count a`
events: 10 13 16/pid=2/minor            pages; pid and tid are 1, ip is 0, the fault is major unless said
pages:  -  -  19,22                     of each event
counts: 3 0                             of each counter, in the end

At a hook that answers a class, `default: stay`, actions such as `classify stay`, and
events: . tid=2/idle=1                  pid and tid are 1, other fields 0 unless said; . says nothing
classes: stay migrate                   of each event
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    find_hook,
)
from kdtool.rmt.hooks import PAGE
from kdtool.rmt.partcodec import PARAMETERS
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN

__all__ = ["Case", "read_cases"]

FOLDER = Path(__file__).parent / "conformance"
NUMBERS = {"min": VALUE_MIN, "max": VALUE_MAX}


@dataclass(frozen=True)
class Case:
    """A program, its events, int64 (n, n_fields), what is to be decided at each, and counted in the end."""

    name: str
    program: Program
    contexts: np.ndarray
    expected: list[list[int]]
    counted: dict[str, int] | None


def read_cases():
    """Return the cases of all files, in order."""
    return [case for path in sorted(FOLDER.glob("*.txt")) for case in _read(path)]


def _read(path):
    common, *blocks = re.split(r"^== ", path.read_text(), flags=re.MULTILINE)
    shared = _lines(common)
    for block in blocks:
        title, _, body = block.partition("\n")
        own = _lines(body)
        kept = [(key, text) for key, text in shared if key not in {k for k, _ in own}]
        yield _case(f"{path.stem}: {title.strip()}", kept + own)


def _lines(text):
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    split = [line.partition(":") for line in lines if line]
    return [(key.strip(), rest.strip()) for key, _, rest in split]


def _case(name, lines):
    one = dict(lines)
    registers = tuple(_register(part) for part in one["registers"].split(","))
    features = tuple(_feature(m) for m in re.findall(r"(\w+)=(\w+)\((\w+),?(\d*)\)", one["features"]))
    models = tuple(
        MODELS[key.split()[0]](key.split()[1], text, features)
        for key, text in lines
        if key.split()[0] in MODELS
    )
    tables = [text for key, text in lines if key == "table"]
    hook, counters = find_hook(one.get("hook", "mm.swapin")), tuple(one.get("counters", "").split())
    program = Program(
        name="case",
        hook=hook.name,
        registers=registers,
        features=features,
        models=models,
        tables=tuple(_table(f"t{i}", text) for i, text in enumerate(tables)),
        guards=Guards(int(one.get("degree", 1)), _number(one.get("limit", "max"))),
        budget=Budget(1, 1),
        counters=counters,
        default_class=one.get("default", ""),
    )
    return Case(name, program, *_decisions(name, hook, one), _counts(one, counters))


def _decisions(name, hook, one):
    """Return the events, and what is to be decided at each."""
    read = _values if hook.classes else _page
    contexts = np.array([_event(hook, read(token)) for token in one["events"].split()], np.int64)
    if hook.classes:
        expected = [[hook.classes.index(token)] for token in one["classes"].split()]
    else:
        expected = [_pages(token) for token in one["pages"].split()]
    assert len(contexts) == len(expected), f"{name}: {len(contexts)} events, {len(expected)} decisions"
    return contexts, expected


def _counts(one, counters):
    if "counts" not in one:
        return None
    return dict(zip(counters, map(int, one["counts"].split()), strict=True))


def _number(text):
    return NUMBERS[text] if text in NUMBERS else int(text, 0)


def _register(text):
    found = re.fullmatch(r"\s*(\w+)=([\w+]+)/(\d+)/(\d+)(?::(\w+))?\s*", text)
    name, key, size, history, records = found.groups()
    return Register(name, tuple(key.split("+")), int(size), int(history), records or PAGE)


def _feature(parts):
    name, op, source, lag = parts
    return Feature(name, op, "", 0, source) if op == "field" else Feature(name, op, source, int(lag))


def _tree(name, text, features):
    inputs = tuple(f.name for f in features)
    *splits, leaves = _grow(text, inputs)
    return Tree(name, inputs, *splits, tuple(_number(leaf) for leaf in leaves))


def _forest(name, text, features):
    inputs = tuple(f.name for f in features)
    classes, *trees = text.split(";")
    pairs = [part.partition("/") for part in classes.split()]
    answers, bases = [_number(a) for a, _, _ in pairs], [_number(b or "0") for _, _, b in pairs]
    made = []
    for tree in trees:
        *splits, leaves = _grow(tree, inputs)
        rows = [[pair.split("=") for pair in leaf.split(",") if "=" in pair] for leaf in leaves]
        first = tuple(sum(len(row) for row in rows[:i]) for i in range(len(rows) + 1))
        scores = [(int(c), _number(score)) for row in rows for c, score in row]
        made.append(ScoreTree(*splits, first, tuple(c for c, _ in scores), tuple(s for _, s in scores)))
    return Forest(name, inputs, tuple(answers), tuple(bases), tuple(made))


def _network(name, text, features):
    """Read it; a layer is `[conv CHANNELS STRIDE] [* MULTIPLIER >> SHIFT] | weights + bias | ...`."""
    classes, shifts, *layers = text.split(";")
    made = []
    for layer in layers:
        head, *rows = layer.split("|")
        scale = re.search(r"\*\s*(\w+)\s*>>\s*(\d+)", head)
        multiplier, shift = (_number(scale[1]), int(scale[2])) if scale else (0, 0)
        sums = [row.partition("+") for row in rows]
        weights = tuple(tuple(_number(word) for word in row.split()) for row, _, _ in sums)
        biases = tuple(_number(bias.strip() or "0") for _, _, bias in sums)
        conv = re.search(r"conv (\d+) (\d+)", head)
        moving = (int(conv[1]), int(conv[2])) if conv else ()
        made.append((Conv1d if conv else Dense)(*moving, weights, biases, multiplier, shift))
    answers = tuple(_number(word) for word in classes.split())
    by = tuple(int(word) for word in shifts.split())
    return Network(name, tuple(f.name for f in features), by, tuple(made), answers)


MODELS = {"tree": _tree, "forest": _forest, "network": _network}


def _grow(text, inputs):
    """Return a tree's feature, threshold, left, right, and the text of its leaves, 0 for splits."""
    columns = []
    tokens = re.findall(r"<=|[?:()]|[-=,\w]+", text)

    def grow():
        at = len(columns)
        if tokens[0] == "(":
            tokens.pop(0)
            grow()
            assert tokens.pop(0) == ")"
            return at
        word = tokens.pop(0)
        if not tokens or tokens[0] != "<=":
            columns.append([-1, 0, -1, -1, word])
            return at
        tokens.pop(0)
        columns.append([inputs.index(word), _number(tokens.pop(0)), 0, 0, "0"])
        assert tokens.pop(0) == "?"
        columns[at][2] = grow()
        assert tokens.pop(0) == ":"
        columns[at][3] = grow()
        return at

    grow()
    assert not tokens, text
    return tuple(zip(*columns, strict=True))


def _table(name, text):
    head, *entries, last = [part.strip() for part in text.split(";")]
    fields = tuple(MatchField(*part.split()) for part in head.split(",") if part.strip())
    assert last.startswith("else ")
    return Table(name, fields, tuple(_entry(part) for part in entries), _action(last[5:]))


def _entry(text):
    match, _, action = text.partition("->")
    priority = re.search(r"@(\d+)", match)
    cells = re.sub(r"@\d+", "", match).split()
    return Entry(
        tuple(_cell(cell) for cell in cells), int(priority[1]) if priority else 1, _action(action.strip())
    )


def _cell(text):
    for separator in ("..", "&", "/"):
        if separator in text:
            first, second = text.split(separator)
            return _number(first), _number(second)
    return _number(text), _number(text)


def _action(text):
    name, _, argument = text.partition(" ")
    if not argument:
        return Action(name)
    parameter = PARAMETERS[name]
    return Action(name, **{parameter: _number(argument) if name == "predict" else argument})


def _page(token):
    page, *rest = token.split("/")
    context = {"vpn": int(page, 0), "major": 1}
    for part in rest:
        context.update({"major": 0} if part == "minor" else _values(part))
    return {"region": context["vpn"] >> 13, **context}


def _values(token):
    pairs = [part.split("=") for part in token.split("/") if part != "."]
    return {name: _number(value) for name, value in pairs}


def _event(hook, context):
    assert set(context) <= set(hook.field_names), context
    given = {"pid": 1, "tid": 1, **context}
    return [given.get(name, 0) for name in hook.field_names]


def _pages(token):
    return [] if token == "-" else [int(page, 0) for page in token.split(",")]
