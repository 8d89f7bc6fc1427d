"""Equivalence by execution: two programs over the same events, every decision compared."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdtool.rmt import LIMITS, Program, pack
from kdtool.rmt.jit import jit
from kdtool.rmt.numba_vm import decide, decide_words
from kdtool.rmt.pointers import later, words

__all__ = ["Difference", "compare_decisions", "decide_all", "decide_rows"]


@dataclass(frozen=True)
class Difference:
    """The first event (row of the contexts) where two programs decide differently, and both decisions."""

    row: int
    first: list[int]
    second: list[int]


def compare_decisions(first: Program, second: Program, contexts: npt.NDArray[np.int64]) -> Difference | None:
    """Run both on each of `contexts`, int64 (n_events, n_context_fields); None when all agree."""
    a, b = pack(first), pack(second)
    out = np.zeros((2, LIMITS.degree_pages), np.int64)
    row, n_first, n_second = _compare(a.params, a.new_state(), b.params, b.new_state(), contexts, out)
    if row < 0:
        return None
    return Difference(int(row), out[0, :n_first].tolist(), out[1, :n_second].tolist())


def decide_all(
    program: Program, contexts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Run `program` on each of `contexts`; return how many pages, (n,), and which, (n, degree_pages)."""
    packed = pack(program)
    n_pages = np.zeros(len(contexts), np.int64)
    pages = np.zeros((len(contexts), program.guards.degree_pages), np.int64)
    decide_rows(packed.params, packed.new_state(), contexts, n_pages, pages)
    return n_pages, pages


@jit()
def decide_rows(params, state, contexts, n_pages, pages):  # type: ignore[no-untyped-def]
    """Decide at each row of `contexts`; fill `n_pages` and `pages`."""
    program, kept = words(params), words(state)
    for row in range(len(contexts)):
        context = later(words(contexts), row * contexts.shape[1])
        n_pages[row] = decide_words(program, kept, context, later(words(pages), row * pages.shape[1]))


@jit()
def _compare(first, first_state, second, second_state, contexts, out):  # type: ignore[no-untyped-def]
    for row in range(len(contexts)):
        n_first = decide(first, first_state, contexts[row], out[0])
        n_second = decide(second, second_state, contexts[row], out[1])
        same = n_first == n_second
        for i in range(min(n_first, n_second)):
            same &= out[0, i] == out[1, i]
        if not same:
            return row, n_first, n_second
    return -1, 0, 0
