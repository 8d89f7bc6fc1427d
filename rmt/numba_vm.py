"""The Numba VM: the same decisions as `Vm`, bit for bit, at a few million a second.

It is what computes features for datasets and what decides in replay. All functions take int64 arrays, or
pointers to their words: `params` and `state` as laid out in `packed`, `ctx` with the context fields in the
order of the program's hook (more may follow), `x` and `out` to be filled. Each mirrors a method of `Vm`.
"""

from typing import Any

from numba import types

from kdtool.rmt.jit import inline, inner, jit
from kdtool.rmt.numba_histories import (
    compute_features,
    compute_fields,
    push_event,
    push_page,
    repeats,
)
from kdtool.rmt.numba_models import call_model, sum_forest, walk_tree
from kdtool.rmt.packed import ACTION_KINDS, LOOKED_AT, LOOKED_AT_ALL, TABLE_WORDS
from kdtool.rmt.packedmodels import INFER_FOREST, INFER_NETWORK, INFER_TREE
from kdtool.rmt.pointers import later, words
from kdtool.rmt.vm import VPN_LIMIT

__all__ = ["DECIDE", "compiled", "decide", "decide_words", "observe"]

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


_NO_ACTION, _STOP, _FOLLOW, _COUNT = (ACTION_KINDS[name] for name in ("no_action", "stop", "follow", "count"))


@inline
def _matches(match_type, value, first, second):  # type: ignore[no-untyped-def]
    if match_type == 0:
        return value == first
    if match_type == 1:
        return first <= value <= second
    if match_type == 2:
        return value & second == first
    return ((value ^ first) & 0xFFFFFFFF) >> (32 - second) == 0


@inline
def _look_up(params, table, state, x, ctx):  # type: ignore[no-untyped-def]
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
            value = x[source] if source >= 0 else ctx[-1 - source]
            pair = entry + 2 + 2 * f
            if not _matches(params[fields + 2 * f + 1], value, params[pair], params[pair + 1]):
                hit = False
                break
        if hit:
            return entry
        entry += 2 + 2 * n_fields
    return table + 4


@inline
def _apply(params, state, ctx):  # type: ignore[no-untyped-def]
    """Return the predicted difference in pages, 0 for none, or the number of a class.

    And where a register says how many of its differences were looked at.
    """
    x, models = later(state, params[8]), params[14]
    compute_features(params, params[13], state)
    state[0] += params[2]
    for t in range(params[4]):
        action = _look_up(params, params[5] + t * TABLE_WORDS, state, x, ctx)
        kind, answer = params[action], params[action + 1]
        if kind in (INFER_TREE, INFER_FOREST, INFER_NETWORK) and models:
            compute_features(params, models, state)
            models = 0
        if kind == INFER_TREE:
            answer = walk_tree(params, answer, state, x)
        elif kind == INFER_FOREST:
            answer = sum_forest(params, answer, state, x, later(state, params[9]))
        elif kind == INFER_NETWORK:
            answer = call_model(params[answer], params, answer, state, x, later(state, params[9]))
        elif kind == _FOLLOW:
            answer = x[answer]
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


@jit()
def decide(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Take one event in; fill `out` with the pages to prefetch and return how many; or with a class, 1.

    Counterpart of `Vm.decide`. state[0] is left holding the steps that the decision took.
    """
    return decide_words(words(params), words(state), words(ctx), words(out))


@inner
def decide_words(params, state, ctx, out):  # type: ignore[no-untyped-def]
    """Do what `decide` does, given where the words of its arguments begin."""
    state[0] = 0
    push_event(params, state, ctx)
    compute_fields(params, state, ctx)
    page, n = ctx[0], 0
    while True:
        before = state[0]
        answer, looked_at = _apply(params, state, ctx)
        if params[11]:
            out[0] = answer
            return 1
        page += answer
        if answer == 0 or page < 0 or page >= VPN_LIMIT:
            break
        out[n] = page
        n += 1
        if n == params[6]:
            break
        if repeats(params, looked_at, state, answer):
            return _repeat(params, state, out, n, answer, state[0] - before)
        push_page(params, state, n, page)
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
    _observe(words(params), words(state), words(ctx), words(x))


@inline
def _observe(params, state, ctx, x):  # type: ignore[no-untyped-def]
    push_event(params, state, ctx)
    compute_fields(params, state, ctx)
    compute_features(params, params[15], state)
    for f in range(params[2]):
        x[f] = state[params[8] + f]
