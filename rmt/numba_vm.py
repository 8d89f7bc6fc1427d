"""The Numba VM: the same decisions as `Vm`, bit for bit, at a few million a second.

It is what computes features for datasets and what decides in replay. All functions take int64 arrays:
`params` and `state` as laid out in `packed`, `ctx` with the context fields in the order of the program's
hook (more may follow), `x` and `out` to be filled. Each mirrors a method of `Vm`.
"""

from typing import Any

import numpy as np
from numba import types

from kdtool.rmt.jit import inner, jit
from kdtool.rmt.numba_models import call_model, sum_forest, walk_tree
from kdtool.rmt.packed import ACTION_KINDS, FEATURE_WORDS, RECORDED, REGISTER_WORDS, TABLE_WORDS
from kdtool.rmt.packedmodels import INFER_FOREST, INFER_NETWORK, INFER_TREE
from kdtool.rmt.program import FEATURE_OPS, VALUE_MAX, VALUE_MIN
from kdtool.rmt.vm import MULTIPLIER, VPN_LIMIT

__all__ = ["DECIDE", "compiled", "decide", "observe"]

_I64S = types.Array(types.int64, 1, "C")

DECIDE = types.int64(_I64S, _I64S, _I64S, _I64S)
"""Signature of `decide(params, state, ctx, out) -> number of pages written to out, or 1: a class`."""


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
_SPAN, _RUN, _VALUE, _FIELD = (FEATURE_OPS.index(op) for op in ("span", "run", "value", "field"))
_NO_ACTION, _STOP, _FOLLOW, _COUNT = (ACTION_KINDS[name] for name in ("no_action", "stop", "follow", "count"))


@inner
def _hash_key(params, register, ctx):  # type: ignore[no-untyped-def]
    tag = _SEED
    for i in range(params[register + 4]):
        tag = (tag ^ np.uint64(ctx[params[register + 5 + i]])) * _MULTIPLIER
        tag ^= tag >> _HALF
    return np.int64(tag)


@inner
def _push(state, count_at, history_at, history, value):  # type: ignore[no-untyped-def]
    """Shift a history (newest first) by one value; the oldest falls off."""
    count = min(state[count_at], history - 1)
    for i in range(count, 0, -1):
        state[history_at + i] = state[history_at + i - 1]
    state[history_at] = value
    state[count_at] = count + 1


@inner
def _push_event(params, state, ctx):  # type: ignore[no-untyped-def]
    """Push what each register records into it and copy its history to the scratch area."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        history, scratch = params[register + 2], params[register + 3]
        tag = _hash_key(params, register, ctx)
        entry = params[register] + (tag & (params[register + 1] - 1)) * (2 + history)
        if state[entry] != tag:
            state[entry] = tag
            state[entry + 1] = 0
        _push(state, entry + 1, entry + 2, history, ctx[params[register + RECORDED]])
        for i in range(1 + state[entry + 1]):
            state[scratch + i] = state[entry + 1 + i]


@inner
def _features(params, state, ctx, x):  # type: ignore[no-untyped-def]
    """Compute every feature from the scratch histories and ctx into x."""
    for f in range(params[2]):
        feature = params[3] + f * FEATURE_WORDS
        op, source, lag = params[feature], params[feature + 1], params[feature + 2]
        if op == _FIELD:
            value = ctx[source]
        else:
            scratch = params[params[1] + source * REGISTER_WORDS + 3]
            value = _of_history(state, op, lag, state[scratch], scratch + 1)
        x[f] = min(max(value, VALUE_MIN), VALUE_MAX)


@inner
def _of_history(state, op, lag, count, history):  # type: ignore[no-untyped-def]
    """Return a feature of the `count` values from state[history] on, newest first."""
    if op == _RUN:
        run = 0
        while run < min(lag, count - 1) and (
            state[history + run] - state[history + run + 1] == state[history] - state[history + 1]
        ):
            run += 1
        return run
    if count <= lag:
        return 0
    if op == _VALUE:
        return state[history + lag]
    return state[history if op == _SPAN else history + lag - 1] - state[history + lag]


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
    """Return the predicted difference in pages, 0 for none; or the number of a class."""
    x_at = params[8]
    _features(params, state, ctx, state[x_at:])
    state[0] += params[2]
    for t in range(params[4]):
        action = _look_up(params, params[5] + t * TABLE_WORDS, state, x_at, ctx)
        kind, answer = params[action], params[action + 1]
        if kind == INFER_TREE:
            answer = walk_tree(params, answer, state, x_at)
        elif kind == INFER_FOREST:
            answer = sum_forest(params, answer, state, x_at, params[9])
        elif kind == INFER_NETWORK:
            answer = call_model(params[answer], params, answer, state, x_at, params[9])
        elif kind == _FOLLOW:
            answer = state[x_at + answer]
        elif kind == _COUNT:
            state[0] += 1
            state[params[10] + answer] += 1
            continue
        if kind == _STOP:
            break
        if answer != 0 or (params[11] and kind != _NO_ACTION):
            return answer if abs(answer) <= params[7] else 0
    return params[12]


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Take one event in; fill `out` with the pages to prefetch and return how many; or with a class, 1.

    Counterpart of `Vm.decide`. state[0] is left holding the steps that the decision took.
    """
    state[0] = 0
    _push_event(params, state, ctx)
    if params[11]:
        out[0] = _apply(params, state, ctx)
        return 1
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
            if params[register + RECORDED] == 0:
                _push(state, scratch, scratch + 1, params[register + 2], page)
    return n


@jit()
def observe(params, state, ctx, x):  # type: ignore[no-untyped-def]
    """Take one event in without deciding; fill `x` with the features after it."""
    _push_event(params, state, ctx)
    _features(params, state, ctx, x)
