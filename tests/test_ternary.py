"""Ternary matches with priorities agree with an independent implementation: Open vSwitch's classifier.

Keys reach it as docs/rmt.md says that P4 gets them, 2**31 added; the export to P4Runtime makes the flows.
"""

import base64
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from openvswitch import FIELDS, MISSING, OpenVSwitch

from kdtool.rmt import VALUE_MAX, VALUE_MIN, Action, Entry, Feature, MatchField, Table, Vm, stride_program
from kdtool.rmt.p4runtime import updates
from kdtool.rmt.vm import matches

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{MISSING} is not installed: install openvswitch-switch"
)

TABLES, KEYS = 150, 100
ALL_ONES, MISS = 2**32 - 1, Action("stop")
ENDS = [VALUE_MIN, VALUE_MIN + 1, -1, 0, 1, VALUE_MAX]


@pytest.fixture(scope="module")
def switch():
    with tempfile.TemporaryDirectory(prefix="kdtool-ovs-") as folder, OpenVSwitch(Path(folder)) as started:
        yield started


def random_values(random, n):
    """Return signed values: near 0, at the ends, and anywhere, by turns."""
    anywhere = random.integers(VALUE_MIN, VALUE_MAX + 1, n)
    kinds = [random.integers(-9, 10, n), random.choice(ENDS, n), anywhere]
    return np.choose(random.integers(0, 3, n), kinds).tolist()


def random_cell(random, kind):
    """Return a pair of a kind. Masks look at few bits, so that entries overlap, or at a run of them."""
    (value,) = random_values(random, 1)
    if kind == "EXACT":
        return value, value
    if kind == "LPM":
        length = int(random.choice([0, 1, 2, 24, 30, 31, 32, int(random.integers(0, 33))]))
        prefix = value & -(1 << 32 - length) if length else 0
        return (prefix, length) if prefix >= VALUE_MIN else (0, length)
    few = 0
    for bit in random.choice(32, random.integers(0, 5), replace=False):
        few |= 1 << int(bit)
    mask = int(random.choice([few, few, int(random.integers(0, 16)), 1 << 31, ALL_ONES]))
    mask -= mask >> 31 << 32
    mask = mask if mask >= VALUE_MIN else -1  # -2**31 is no value of a file
    return value & mask, mask


def random_table(random):
    """Return a table whose entries have different priorities; entry i predicts i + 1."""
    n_fields, n_entries = int(random.integers(1, 4)), int(random.integers(1, 30))
    kinds = random.choice(["TERNARY", "TERNARY", "LPM", "EXACT"], n_fields).tolist()
    priorities = (random.permutation(n_entries) + 1).tolist()
    entries = tuple(
        Entry(tuple(random_cell(random, kind) for kind in kinds), priority, Action("predict", delta=at + 1))
        for at, priority in enumerate(priorities)
    )
    fields = tuple(MatchField(f"d{at}", kind) for at, kind in enumerate(kinds))
    return Table("t", fields, entries, MISS)


def random_keys(random, table):
    """Return keys: half of them match an entry, hidden bits at random."""
    keys = []
    for at in range(KEYS):
        key = random_values(random, len(table.match_fields))
        if at % 2:
            entry = table.entries[random.integers(len(table.entries))]
            pairs = zip(table.match_fields, entry.match, key, strict=True)
            key = [hidden_at_random(field.match_type, cell, value) for field, cell, value in pairs]
        keys.append([max(value, VALUE_MIN) for value in key])
    return keys


def hidden_at_random(kind, cell, value):
    first, second = cell
    mask = -1 if kind == "EXACT" else second
    if kind == "LPM":
        mask = -(1 << 32 - second) if second else 0
    return first | value & ~mask


def flows(table):
    """Return the flows of Open vSwitch that P4Runtime's entries are."""
    program = replace(stride_program(), features=features(table), models=(), tables=(table,))
    entities = (update["entity"]["tableEntry"] for update in updates(program)["updates"])
    entries = [entity for entity in entities if not entity.get("isDefaultAction")]
    return [
        (entry.get("priority", own.priority), dict(flow_cell(match) for match in entry["match"]))
        for entry, own in zip(entries, table.entries, strict=True)
    ]


def features(table):
    return tuple(Feature(field.name, "delta", "process", 1) for field in table.match_fields)


def flow_cell(match):
    name = FIELDS[match["fieldId"] - 1]
    if "ternary" in match:
        return name, (number(match["ternary"]["value"]), number(match["ternary"]["mask"]))
    exact = match["range"]["low"] if "range" in match else match["exact"]["value"]
    assert "range" not in match or match["range"]["high"] == exact
    return name, (number(exact), ALL_ONES)


def number(text):
    return int.from_bytes(base64.b64decode(text))


def priority_found(table, key):
    """Return the priority of the entry that the reference VM finds, None for the default."""
    names = [field.name for field in table.match_fields]
    action = Vm(stride_program())._look_up(table, dict(zip(names, key, strict=True)))
    return None if action == MISS else table.entries[action.delta - 1].priority


def n_matching(table, key):
    """Return how many entries match, whatever their priorities."""
    kinds = [field.match_type for field in table.match_fields]
    return sum(all(map(matches, kinds, key, entry.match)) for entry in table.entries)


def test_entries_match_as_flows_of_open_vswitch_do(switch):
    matched, contested = 0, 0
    for seed in range(TABLES):
        random = np.random.default_rng(seed)
        table = random_table(random)
        switch.fill(flows(table))
        for key in random_keys(random, table):
            flow_key = dict(zip(FIELDS, (value + 2**31 for value in key), strict=False))
            assert priority_found(table, key) == switch.found(flow_key), (seed, table, key)
            found = n_matching(table, key)
            matched, contested = matched + (found > 0), contested + (found > 1)
    assert TABLES * KEYS > matched > TABLES * KEYS // 2
    assert contested > TABLES * KEYS // 8
