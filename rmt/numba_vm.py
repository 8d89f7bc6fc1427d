"""The Numba VM: the same decisions as `Vm`, bit for bit, at a few million a second.

It is what computes features for datasets and what decides in replay. All functions take int64 arrays:
`params` and `state` as laid out in `packed`, `ctx` with the context fields in the order of the program's
hook (more may follow), `x` and `out` to be filled. Each mirrors a method of `Vm`.
"""

from typing import Any

import numpy as np
from numba import types

from kdtool.rmt.jit import inline, inner, jit
from kdtool.rmt.numba_models import call_model, sum_forest, walk_tree
from kdtool.rmt.packed import (
    ACTION_KINDS,
    FIRST_ENTRY,
    HISTORY,
    KEY,
    LAST_INDEX,
    LENGTH,
    LOOKED_AT,
    LOOKED_AT_ALL,
    MOVES,
    N_KEY,
    NEWEST,
    RECORDED,
    REGISTER_WORDS,
    TABLE_WORDS,
)
from kdtool.rmt.packedfeatures import FEATURE_BITS, PLAN_WORDS
from kdtool.rmt.packedmodels import INFER_FOREST, INFER_NETWORK, INFER_TREE, LOW_32
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN
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
_LOW = (1 << FEATURE_BITS) - 1
_NO_ACTION, _STOP, _FOLLOW, _COUNT = (ACTION_KINDS[name] for name in ("no_action", "stop", "follow", "count"))


@inner
def _hash_key(params, register, ctx):  # type: ignore[no-untyped-def]
    tag = _SEED
    for i in range(params[register + N_KEY]):
        tag = (tag ^ np.uint64(ctx[params[register + KEY + i]])) * _MULTIPLIER
        tag ^= tag >> _HALF
    return np.int64(tag)


@inline
def _grown(length, history, is_equal):  # type: ignore[no-untyped-def]
    """Return the length after one value more, whose difference is_equal to the one before it or not."""
    count = length & LOW_32
    run = (length >> 32) + 1 if is_equal and count > 1 else 1
    count = min(count + 1, history)
    return min(run, count - 1) << 32 | count


@inner
def _push_event(params, state, ctx):  # type: ignore[no-untyped-def]
    """Push what each register records into it and copy its history to the scratch area."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        history, newest = params[register + HISTORY], params[register + NEWEST] & LOW_32
        tag = _hash_key(params, register, ctx)
        number = tag & params[register + LAST_INDEX]
        entry = params[register + FIRST_ENTRY] + number * (2 + history) & LOW_32
        length = state[entry + 1] if state[entry] == tag else 0
        kept = entry + 2
        # Whole histories, whatever lies behind what they hold: loops of one length, many words at once.
        for i in range(history - 1):
            state[newest + 1 + i] = state[kept + i]
        state[newest] = ctx[params[register + RECORDED]]
        older = newest + min(2, history - 1)
        is_equal = state[newest] - state[newest + 1] == state[newest + 1] - state[older]
        length = _grown(length, history, is_equal)
        for i in range(history):
            state[kept + i] = state[newest + i]
        state[entry], state[entry + 1], state[params[register + LENGTH]] = tag, length, length


@inline
def _push_page(params, state, step, page):  # type: ignore[no-untyped-def]
    """Push the page of a rollout's step, from 1 on, in front of the scratch histories that it goes to."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        if params[register + MOVES]:
            at = (params[register + NEWEST] - step) & LOW_32
            state[at] = page
            is_equal = page - state[at + 1] == state[at + 1] - state[at + 2]
            length = params[register + LENGTH] & LOW_32
            state[length] = _grown(state[length], params[register + HISTORY], is_equal)


@inner
def _fields(params, state, ctx):  # type: ignore[no-untyped-def]
    """Compute the features that are fields of the context: a rollout does not change them."""
    x, first = state[params[8] :], params[3] + 1 & LOW_32
    for i in range(params[params[3]]):
        word = params[first + i]
        x[word >> 2 * FEATURE_BITS & _LOW] = _clamped(ctx[word >> FEATURE_BITS & _LOW])


@inner
def _features(params, plan, step, state):  # type: ignore[no-untyped-def]
    """Compute the features of a plan from the scratch histories after `step` steps."""
    x = state[params[8] :]
    for r in range(params[0]):
        register, own = params[1] + r * REGISTER_WORDS & LOW_32, plan + r * PLAN_WORDS & LOW_32
        newest = params[register + NEWEST] - (step & params[register + MOVES]) & LOW_32
        length = state[params[register + LENGTH] & LOW_32]
        count, run, at = length & LOW_32, length >> 32, params[own] & LOW_32
        for i in range(params[own + 1]):
            word = params[at + i]
            lag = word >> FEATURE_BITS & _LOW
            difference = state[newest + (word & _LOW)] - state[newest + lag]
            x[word >> 2 * FEATURE_BITS & _LOW] = _clamped(difference) if lag < count else 0
        at = at + params[own + 1] & LOW_32
        for i in range(params[own + 2]):
            word = params[at + i]
            lag = word >> FEATURE_BITS & _LOW
            x[word >> 2 * FEATURE_BITS & _LOW] = _clamped(state[newest + lag]) if lag < count else 0
        at = at + params[own + 2] & LOW_32
        for i in range(params[own + 3]):
            word = params[at + i]
            x[word >> 2 * FEATURE_BITS & _LOW] = min(run, word >> FEATURE_BITS & _LOW)


@inline
def _clamped(value):  # type: ignore[no-untyped-def]
    return min(max(value, VALUE_MIN), VALUE_MAX)


@inner
def _matches(match_type, value, first, second):  # type: ignore[no-untyped-def]
    if match_type == 0:
        return value == first
    if match_type == 1:
        return first <= value <= second
    if match_type == 2:
        return value & second == first
    return ((value ^ first) & 0xFFFFFFFF) >> (32 - second) == 0


@inline
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


@inline
def _apply(params, step, state, ctx):  # type: ignore[no-untyped-def]
    """Return the predicted difference in pages, 0 for none, or the number of a class.

    And where a register says how many of its differences were looked at.
    """
    x_at, models = params[8], params[14]
    _features(params, params[13], step, state)
    state[0] += params[2]
    for t in range(params[4]):
        action = _look_up(params, params[5] + t * TABLE_WORDS, state, x_at, ctx)
        kind, answer = params[action], params[action + 1]
        if kind in (INFER_TREE, INFER_FOREST, INFER_NETWORK) and models:
            _features(params, models, step, state)
            models = 0
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
            answer = answer if abs(answer) <= params[7] else 0
            return answer, LOOKED_AT if models else LOOKED_AT_ALL
    return params[12], LOOKED_AT_ALL


@inline
def _repeats(params, looked_at, step, state, answer):  # type: ignore[no-untyped-def]
    """Tell whether the next step answers the same: every difference that this one looked at is `answer`."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        n = params[register + looked_at] & params[register + MOVES]
        at = params[register + NEWEST] - step & LOW_32
        run = state[params[register + LENGTH] & LOW_32] >> 32
        if n and (run < n or state[at] - state[at + 1] != answer):
            return False
    return params[16] != 0


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Take one event in; fill `out` with the pages to prefetch and return how many; or with a class, 1.

    Counterpart of `Vm.decide`. state[0] is left holding the steps that the decision took.
    """
    state[0] = 0
    _push_event(params, state, ctx)
    _fields(params, state, ctx)
    page, n = ctx[0], 0
    while n < params[6]:
        before = state[0]
        answer, looked_at = _apply(params, n, state, ctx)
        if params[11]:
            out[0] = answer
            return 1
        page += answer
        if answer == 0 or page < 0 or page >= VPN_LIMIT:
            break
        out[n] = page
        n += 1
        if _repeats(params, looked_at, n - 1, state, answer):
            return _repeat(params, state, out, n, answer, state[0] - before)
        _push_page(params, state, n, page)
    return n


@inline
def _repeat(params, state, out, n, answer, steps):  # type: ignore[no-untyped-def]
    """Append pages `answer` apart to the n that `out` has, of `steps` each; return how many there are."""
    page = out[n - 1]
    while n < params[6]:
        state[0] += steps
        page += answer
        if page < 0 or page >= VPN_LIMIT:
            break
        out[n] = page
        n += 1
    return n


@jit()
def observe(params, state, ctx, x):  # type: ignore[no-untyped-def]
    """Take one event in without deciding; fill `x` with the features after it."""
    _push_event(params, state, ctx)
    _fields(params, state, ctx)
    _features(params, params[15], 0, state)
    for f in range(params[2]):
        x[f] = state[params[8] + f]
