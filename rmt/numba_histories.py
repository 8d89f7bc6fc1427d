"""Registers and features in the Numba VM: mirrors of `Vm.observe` and `Vm.features`, by pointers.

An event is pushed into the history of its key: each value moves on by one place, as many as a vector holds at
a time, and read as they were written, since the processor hands on no word of two stores at once. A rollout
copies the histories that it changes when it takes a second step, and puts its pages in front of the copies.
"""

import numpy as np

from kdtool.rmt.jit import inline
from kdtool.rmt.packed import (
    FIRST_ENTRY,
    HISTORY,
    KEY,
    KNOWN,
    KNOWN_MASK,
    LAST_INDEX,
    MOVES,
    N_KEY,
    NEAR,
    NEWEST,
    RECORDED,
    REGISTER_WORDS,
    RUN,
    WHERE,
)
from kdtool.rmt.packedfeatures import DEEPEST, DIFFERENCES, FEATURE_BITS, PLAN_WORDS, RUNS, VALUES
from kdtool.rmt.pointers import later
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN
from kdtool.rmt.vm import MULTIPLIER

__all__ = ["compute_features", "compute_fields", "push_event", "push_page", "repeats"]

REGION_BITS = 31
"""Two values of one region differ by at most VALUE_MAX."""
_MULTIPLIER, _HALF = np.uint64(MULTIPLIER), np.uint64(32)
_LOW = (1 << FEATURE_BITS) - 1


@inline
def _hash_key(params, register, ctx):  # type: ignore[no-untyped-def]
    tag = _MULTIPLIER
    for i in range(params[register + N_KEY]):
        tag = (tag ^ np.uint64(ctx[params[register + KEY + i]])) * _MULTIPLIER
        tag ^= tag >> _HALF
    return np.int64(tag)


@inline
def push_event(params, state, ctx):  # type: ignore[no-untyped-def]
    """Push what each register records into the history of its key."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        history, tag = params[register + HISTORY], _hash_key(params, register, ctx)
        entry = params[register + FIRST_ENTRY] + (tag & params[register + LAST_INDEX]) * (2 + history)
        at, value = entry + 2, ctx[params[register + RECORDED]]
        known = state[entry + 1] if state[entry] == tag else 0
        known = _known(known, history, value, state[at], state[at + 1])
        state[entry], state[entry + 1] = tag, known
        for i in range(at, at + history):
            older = state[i]
            state[i] = value
            value = older
        state[params[register + KNOWN]] = at << WHERE | known


@inline
def push_page(params, state, step, page):  # type: ignore[no-untyped-def]
    """Push the page of a rollout's step, from 1 on, in front of the histories that it goes to."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        if params[register + MOVES]:
            known, history = state[params[register + KNOWN]], params[register + HISTORY]
            at = known >> WHERE
            if step == 1:
                copy = params[register + NEWEST]
                for i in range(history):
                    state[copy + i] = state[at + i]
                at = copy
            known = _known(known, history, page, state[at], state[at + 1])
            state[at - 1] = page
            state[params[register + KNOWN]] = at - 1 << WHERE | known


@inline
def _known(known, history, value, newest, second):  # type: ignore[no-untyped-def]
    """Return what is known of a history after one value more; before it newest and second were its first."""
    count, run, near = known & KNOWN_MASK, known >> RUN & KNOWN_MASK, known >> NEAR & KNOWN_MASK
    run = run + 1 if value - newest == newest - second and count > 1 else 1
    near = min(near + 1, history) if value >> REGION_BITS == newest >> REGION_BITS else 1
    count = min(count + 1, history)
    return near << NEAR | min(run, count - 1) << RUN | count


@inline
def repeats(params, looked_at, state, answer):  # type: ignore[no-untyped-def]
    """Tell whether the next step answers the same: every difference that this one looked at is `answer`."""
    for r in range(params[0]):
        register = params[1] + r * REGISTER_WORDS
        n = params[register + looked_at] & params[register + MOVES]
        known = state[params[register + KNOWN]]
        at = known >> WHERE
        if n and (known >> RUN & KNOWN_MASK < n or state[at] - state[at + 1] != answer):
            return False
    return params[16] != 0


@inline
def compute_fields(params, state, ctx):  # type: ignore[no-untyped-def]
    """Compute the features that are fields of the context: a rollout does not change them."""
    x, fields = later(state, params[8]), later(params, params[3])
    for i in range(1, fields[0] + 1):
        x[fields[i] >> 2 * FEATURE_BITS] = _clamped(ctx[fields[i] >> FEATURE_BITS & _LOW])


@inline
def compute_features(params, plan, state):  # type: ignore[no-untyped-def]
    """Compute the features of a plan from the histories as they are."""
    x = later(state, params[8])
    for r in range(params[0]):
        own, known = (
            later(params, plan + r * PLAN_WORDS),
            state[params[params[1] + r * REGISTER_WORDS + KNOWN]],
        )
        history, count = later(state, known >> WHERE), known & KNOWN_MASK
        features = later(params, own[0])
        if known >> NEAR & KNOWN_MASK > own[DEEPEST]:
            _near_differences(features, own[DIFFERENCES], history, x)
        else:
            _differences(features, own[DIFFERENCES], history, count, x)
        features = later(features, own[DIFFERENCES])
        _values(features, own[VALUES], history, count, x)
        _runs(later(features, own[VALUES]), own[RUNS], known >> RUN & KNOWN_MASK, x)


@inline
def _near_differences(features, n, history, x):  # type: ignore[no-untyped-def]
    """Compute differences of values that are there and lie in one region: they need no test each."""
    for i in range(n):
        word = features[i]
        x[word >> 2 * FEATURE_BITS] = history[word & _LOW] - history[word >> FEATURE_BITS & _LOW]


@inline
def _differences(features, n, history, count, x):  # type: ignore[no-untyped-def]
    for i in range(n):
        word = features[i]
        lag = word >> FEATURE_BITS & _LOW
        difference = _clamped(history[word & _LOW] - history[lag])
        x[word >> 2 * FEATURE_BITS] = difference if lag < count else 0


@inline
def _values(features, n, history, count, x):  # type: ignore[no-untyped-def]
    for i in range(n):
        word = features[i]
        lag = word >> FEATURE_BITS & _LOW
        x[word >> 2 * FEATURE_BITS] = _clamped(history[lag]) if lag < count else 0


@inline
def _runs(features, n, run, x):  # type: ignore[no-untyped-def]
    for i in range(n):
        x[features[i] >> 2 * FEATURE_BITS] = min(run, features[i] >> FEATURE_BITS & _LOW)


@inline
def _clamped(value):  # type: ignore[no-untyped-def]
    return min(max(value, VALUE_MIN), VALUE_MAX)
