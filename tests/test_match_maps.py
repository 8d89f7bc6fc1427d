"""Matching agrees with an independent implementation: the kernel's own hash and longest-prefix maps."""

import ctypes
import os
import struct

import needs
import numpy as np
import pytest

from kdtool.kernel.bpf import create_map
from kdtool.rmt import Action, Entry, MatchField, Table, Vm, stride_program
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN

pytestmark = [pytest.mark.root, pytest.mark.beside, needs.bpf]

HASH, LPM_TRIE, NO_PREALLOC = 1, 11, 1
LOOKUP, UPDATE = 1, 2
BPF = 321
MISS = Action("stop")


class Map:
    """A BPF map from bytes to a number."""

    def __init__(self, kind, key_bytes, entries, flags=0):
        self._fd = create_map(kind, key_bytes, 4, max(entries, 1), flags)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    def _call(self, command, key, value):
        key = ctypes.create_string_buffer(key, len(key))
        attr = struct.pack("<I4xQQQ", self._fd, ctypes.addressof(key), ctypes.addressof(value), 0)
        return self._libc.syscall(BPF, command, ctypes.create_string_buffer(attr, 144), 144)

    def put(self, key, number):
        assert self._call(UPDATE, key, ctypes.create_string_buffer(struct.pack("<I", number), 4)) == 0

    def get(self, key):
        value = ctypes.create_string_buffer(4)
        return None if self._call(LOOKUP, key, value) else struct.unpack("<I", value.raw)[0]


def numbers(random, n):
    """Return numbers near each other, and those at the ends."""
    near = random.integers(-9, 9, n)
    ends = random.choice([VALUE_MIN, VALUE_MIN + 1, -1, 0, 1, VALUE_MAX], n)
    return np.where(random.random(n) < 0.7, near, ends).tolist()


def found(table, values):
    """Return the number of the entry that the reference VM finds, None for the default."""
    names = [field.name for field in table.match_fields]
    action = Vm(stride_program())._look_up(table, dict(zip(names, values, strict=True)))
    return None if action == MISS else action.delta - 1


def table_of(fields, keys):
    """Return a table whose entries, (match, priority), predict their number + 1."""
    entries = [Entry(match, priority, Action("predict", delta=at + 1)) for at, (match, priority) in keys]
    return Table("t", fields, tuple(entries), MISS)


@pytest.mark.parametrize("seed", range(40))
def test_exact_keys_match_as_a_hash_map_does(seed):
    random = np.random.default_rng(seed)
    width = int(random.integers(1, 4))
    keys = list(dict.fromkeys(zip(*(numbers(random, 60) for _ in range(width)), strict=True)))
    fields = tuple(MatchField(f"d{at}", "EXACT") for at in range(width))
    table = table_of(fields, enumerate((tuple((x, x) for x in key), 1) for key in keys))
    layout = struct.Struct(f"<{width}i")
    with Map(HASH, layout.size, len(keys)) as kernel:
        for at, key in enumerate(keys):
            kernel.put(layout.pack(*key), at)
        asked = keys + list(zip(*(numbers(random, 200) for _ in range(width)), strict=True))
        answers = [kernel.get(layout.pack(*values)) for values in asked]
    assert [found(table, values) for values in asked] == answers
    assert None in answers or width == 1


@pytest.mark.parametrize("seed", range(40))
def test_prefixes_match_as_a_longest_prefix_map_does(seed):
    """With the length of a prefix as its priority, the longest wins. The trie's keys are big-endian."""
    random = np.random.default_rng(seed)
    prefixes = {}
    for value, length in zip(numbers(random, 60), random.integers(0, 33, 60).tolist(), strict=True):
        mask = -1 << (32 - length)
        prefixes[value & mask, length] = None
    fields = (MatchField("d0", "LPM"),)
    keys = [(((value, length),), length + 1) for value, length in prefixes]
    table = table_of(fields, enumerate(keys))
    with Map(LPM_TRIE, 8, len(keys), NO_PREALLOC) as kernel:
        for at, (value, length) in enumerate(prefixes):
            kernel.put(struct.pack("<I", length) + struct.pack(">I", value & 0xFFFFFFFF), at)
        asked = numbers(random, 300)
        answers = [
            kernel.get(struct.pack("<I", 32) + struct.pack(">I", value & 0xFFFFFFFF)) for value in asked
        ]
    assert [found(table, (value,)) for value in asked] == answers
    assert len(set(answers)) > 3
