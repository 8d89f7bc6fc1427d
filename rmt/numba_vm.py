"""The Numba VM: the same decisions as `Vm`, bit for bit, at a few million a second.

It is what computes features for datasets and what decides in replay. All functions take int64 arrays:
`params` and `state` as laid out in `packed`, `ctx` with the context fields in the order of
CONTEXT_FIELDS (more may follow), `x` and `out` to be filled. Each mirrors a method of `Vm`.
"""

from typing import Any

import numpy as np
from numba import types

from kdtool.rmt.jit import inner, jit
from kdtool.rmt.numba_models import call_model, sum_forest, walk_tree
from kdtool.rmt.packed import FEATURE_WORDS, REGISTER_WORDS, TABLE_WORDS
from kdtool.rmt.packedmodels import INFER_FOREST, INFER_NETWORK, INFER_TREE
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN
from kdtool.rmt.vm import MULTIPLIER, VPN_LIMIT

__all__ = ["DECIDE", "compiled", "decide", "observe"]

_I64S = types.Array(types.int64, 1, "C")

DECIDE = types.int64(_I64S, _I64S, _I64S, _I64S)
"""Signature of `decide(params, state, ctx, out) -> number of pages written to out`."""


def compiled(decide: Any) -> Any:
    """Return a `decide` that is compiled for DECIDE and nothing else, so that compiled code can be given it.

    It is compiled when it is asked for the first time: nobody waits for policies that are not used.
    """
    if not decide.signatures:
        decide.compile(DECIDE)
    decide.disable_compile()
    return decide


_SEED = np.uint64(MULTIPLIER)
_MULTIPLIER = np.uint64(MULTIPLIER)
_HALF = np.uint64(32)


@inner
def _hash_key(params, register, ctx):  # type: ignore[no-untyped-def]
    tag = _SEED
    for i in range(params[register + 4]):
        tag = (tag ^ np.uint64(ctx[params[register + 5 + i]])) * _MULTIPLIER
        tag ^= tag >> _HALF
    return np.int64(tag)


@inner
def _push(state, count_at, history_at, history, page):  # type: ignore[no-untyped-def]
    """Shift a history (newest first) by one page; the oldest falls off."""
    count = min(state[count_at], history - 1)
    for i in range(count, 0, -1):
        state[history_at + i] = state[history_at + i - 1]
    state[history_at] = page
    state[count_at] = count + 1


@inner
def _push_event(params, state, ctx):  # type: ignore[no-untyped-def]
    """Push ctx's page into every register and copy its history to the scratch area."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        history, scratch = params[register + 2], params[register + 3]
        tag = _hash_key(params, register, ctx)
        entry = params[register] + (tag & (params[register + 1] - 1)) * (2 + history)
        if state[entry] != tag:
            state[entry] = tag
            state[entry + 1] = 0
        _push(state, entry + 1, entry + 2, history, ctx[0])
        for i in range(1 + state[entry + 1]):
            state[scratch + i] = state[entry + 1 + i]


@inner
def _features(params, state, x):  # type: ignore[no-untyped-def]
    """Compute every feature from the scratch histories into x."""
    for f in range(params[2]):
        feature = params[3] + f * FEATURE_WORDS
        op, lag = params[feature], params[feature + 2]
        scratch = params[params[1] + params[feature + 1] * REGISTER_WORDS + 3]
        count, history = state[scratch], scratch + 1
        value = 0
        if op == 2:
            while value < min(lag, count - 1) and (
                state[history + value] - state[history + value + 1] == state[history] - state[history + 1]
            ):
                value += 1
        elif count > lag:
            newest = history if op == 1 else history + lag - 1
            value = min(max(state[newest] - state[history + lag], VALUE_MIN), VALUE_MAX)
        x[f] = value


@inner
def _matches(match_type, value, first, second):  # type: ignore[no-untyped-def]
    if match_type == 0:
        return value == first
    if match_type == 1:
        return first <= value <= second
    if match_type == 2:
        return value & second == first
    return ((value ^ first) & 0xFFFFFFFF) >> (32 - second) == 0


@inner
def _look_up(params, table, state, x_at, ctx):  # type: ignore[no-untyped-def]
    """Return the index in params of the first matching entry's action, or of the default action."""
    n_fields, fields, n_entries, entry = (
        params[table],
        params[table + 1],
        params[table + 2],
        params[table + 3],
    )
    for _ in range(n_entries):
        state[0] += 1
        hit = True
        for f in range(n_fields):
            source = params[fields + 2 * f]
            value = state[x_at + source] if source >= 0 else ctx[-1 - source]
            pair = entry + 2 + 2 * f
            if not _matches(params[fields + 2 * f + 1], value, params[pair], params[pair + 1]):
                hit = False
                break
        if hit:
            return entry
        entry += 2 + 2 * n_fields
    return table + 4


@inner
def _apply(params, state, ctx):  # type: ignore[no-untyped-def]
    """Return the predicted difference in pages, 0 for none."""
    x_at = params[8]
    _features(params, state, state[x_at:])
    state[0] += params[2]
    for t in range(params[4]):
        action = _look_up(params, params[5] + t * TABLE_WORDS, state, x_at, ctx)
        kind, delta = params[action], params[action + 1]
        if kind == INFER_TREE:
            delta = walk_tree(params, delta, state, x_at)
        elif kind == INFER_FOREST:
            delta = sum_forest(params, delta, state, x_at, params[9])
        elif kind == INFER_NETWORK:
            delta = call_model(params[delta], params, delta, state, x_at, params[9])
        elif kind == 4:
            delta = state[x_at + delta]
        if delta != 0 or kind == 1:
            return delta if abs(delta) <= params[7] else 0
    return 0


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Take one event in; fill `out` with the pages to prefetch and return how many.

    Counterpart of `Vm.decide`. state[0] is left holding the steps that the decision took.
    """
    state[0] = 0
    _push_event(params, state, ctx)
    page, n = ctx[0], 0
    while n < params[6]:
        delta = _apply(params, state, ctx)
        page += delta
        if delta == 0 or page < 0 or page >= VPN_LIMIT:
            break
        out[n] = page
        n += 1
        for r in range(params[0]):
            register = params[1] + r * REGISTER_WORDS
            scratch = params[register + 3]
            _push(state, scratch, scratch + 1, params[register + 2], page)
    return n


@jit()
def observe(params, state, ctx, x):  # type: ignore[no-untyped-def]
    """Take one event in without deciding; fill `x` with the features after it."""
    _push_event(params, state, ctx)
    _features(params, state, x)
