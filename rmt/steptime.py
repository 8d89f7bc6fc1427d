"""What one step of a program takes on this machine, by deciding with a tree whose walks cannot be foreseen.

A step is what `worst_case` (cost.py) counts and the Numba VM adds up: a feature computed, an entry tested, a
node compared. All that a decision does beside them (registers, rollout) is part of the time of its steps.
"""

import time

import numpy as np
from numba import types

from kdtool.rmt.cost import worst_case
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import decide
from kdtool.rmt.packed import PackedProgram
from kdtool.rmt.program import Action, Budget, Feature, Guards, Program, Register, Table, Tree

__all__ = ["DEGREE_PAGES", "DEPTH", "step_program", "time_steps"]

DEPTH = 10
DEGREE_PAGES = 16
FEATURES = 4
MAX_DELTA_PAGES = 1000
_I64S = types.Array(types.int64, 1, "C")


def step_program(seed: int) -> Program:
    """Return a program with one full tree of DEPTH whose thresholds and predictions are random."""
    rng = np.random.default_rng(seed)
    n_splits, n = (1 << DEPTH) - 1, (1 << DEPTH + 1) - 1
    nodes = np.arange(n)
    split = nodes < n_splits
    deltas = rng.integers(1, MAX_DELTA_PAGES, n) * rng.choice([-1, 1], n)

    def column(at_split: "np.ndarray[tuple[int], np.dtype[np.int64]]", at_leaf: int) -> tuple[int, ...]:
        return tuple(int(value) for value in np.where(split, at_split, at_leaf))

    names = tuple(f"d{lag}" for lag in range(1, FEATURES + 1))
    tree = Tree(
        name="next_delta",
        inputs=names,
        feature=column(rng.integers(0, FEATURES, n), -1),
        threshold=column(rng.integers(-MAX_DELTA_PAGES, MAX_DELTA_PAGES, n), 0),
        left=column(2 * nodes + 1, -1),
        right=column(2 * nodes + 2, -1),
        value=tuple(int(value) for value in np.where(split, 0, deltas)),
    )
    program = Program(
        name="step-time",
        hook="mm.swapin",
        registers=(Register("process", ("pid",), size=16, history=FEATURES + 1),),
        features=tuple(Feature(name, "delta", "process", lag) for lag, name in enumerate(names, 1)),
        models=(tree,),
        tables=(Table("next_page", (), (), Action("infer", model="next_delta")),),
        guards=Guards(degree_pages=DEGREE_PAGES),
        budget=Budget(steps=1, state_bytes=1),
        provenance={"learner": "random"},
    )
    return Program(**{**vars(program), "budget": worst_case(program)})


def time_steps(packed: PackedProgram, n_decisions: int, seed: int) -> tuple[int, int]:
    """Decide at `n_decisions` random pages; return the steps counted and the thread's CPU time in ns."""
    pages = np.random.default_rng(seed).integers(1 << 30, 1 << 31, n_decisions)
    ctx, out = np.ones(8, np.int64), np.zeros(DEGREE_PAGES, np.int64)
    began_ns = time.thread_time_ns()
    steps = _decide_all(packed.params, packed.new_state(), pages, ctx, out)
    return int(steps), time.thread_time_ns() - began_ns


@jit(types.int64(_I64S, _I64S, _I64S, _I64S, _I64S))
def _decide_all(params, state, pages, ctx, out):  # type: ignore[no-untyped-def]
    """Decide at each page, and return the sum of the steps."""
    steps = 0
    for i in range(len(pages)):
        ctx[0] = pages[i]
        decide(params, state, ctx, out)
        steps += state[0]
    return steps
