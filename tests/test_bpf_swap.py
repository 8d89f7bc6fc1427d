"""A new version takes the place of the old in one step: no decision is made by parts of two."""

import itertools
import threading
from dataclasses import replace

import executors
import needs
import numpy as np
import pytest
from test_bpf import big_program, full

from kdtool.verify.equivalence import decide_all
from kdtool.verify.kernelvm import KernelVm

pytestmark = [pytest.mark.root, needs.bpf]

SWAPS, SWAPPERS = 10_000, 48
"""A swap waits until no program can see the old policy any more, about 10 ms: many wait at once."""


def two_versions():
    """Two programs of one shape whose trees differ everywhere."""
    first = big_program(1, 6, 1, 0, 0, [lambda name, inputs: full(name, inputs, 5)], 8)
    tree = first.models[0]
    other = replace(
        tree, threshold=tuple(-t for t in tree.threshold), value=tuple(v and v + 1000 for v in tree.value)
    )
    return first, replace(first, name="other", models=(other,))


def decided_by_version(programs, contexts, versions):
    """Return what each event's version decides: odd ones are the first program's."""
    n_pages, pages = zip(*(decide_all(program, contexts) for program in programs), strict=True)
    is_second = versions % 2 == 0
    return np.where(is_second, *n_pages[::-1]), np.where(is_second[:, None], *pages[::-1])


def valid(pages, n_pages):
    """Return the pages with those that do not count made 0."""
    return np.where(np.arange(pages.shape[1]) < n_pages[:, None], pages, 0)


def test_ten_thousand_swaps_while_decisions_run_leave_each_decision_whole():
    programs = two_versions()
    contexts = executors.random_contexts(6, 4096)
    numbers, failures = itertools.count(2), []

    def swap():
        try:
            while (number := next(numbers)) <= SWAPS + 1:
                vm.replace(programs[number % 2 - 1], number)
        except BaseException as error:
            failures.append(error)

    rounds = []
    with KernelVm(*programs, version=1) as vm:
        swappers = [threading.Thread(target=swap) for _ in range(SWAPPERS)]
        for swapper in swappers:
            swapper.start()
        while any(swapper.is_alive() for swapper in swappers):
            vm.reset()
            rounds.append(vm.decide(contexts))
        for swapper in swappers:
            swapper.join()

    assert not failures
    assert len(rounds) > 10
    for decisions in rounds:
        n_pages, pages = decided_by_version(programs, contexts, decisions.version)
        assert (decisions.n_pages == n_pages).all()
        assert (valid(decisions.pages, n_pages) == valid(pages, n_pages)).all()
    versions = np.concatenate([decisions.version for decisions in rounds])
    assert len(np.unique(versions)) > 100
    assert sum(len(np.unique(decisions.version % 2)) == 2 for decisions in rounds) > 10


def test_the_versions_decide_differently_so_that_a_mixture_would_be_seen():
    programs = two_versions()
    contexts = executors.random_contexts(6, 4096)
    first, second = (
        decided_by_version(programs, contexts, np.full(len(contexts), version)) for version in (1, 2)
    )
    differ = (valid(first[1], first[0]) != valid(second[1], second[0])).any(axis=1)
    assert differ.mean() > 0.9


def test_registers_outlive_a_swap():
    programs = two_versions()
    contexts = executors.random_contexts(7, 40)
    with KernelVm(*programs) as vm:
        before = vm.decide(contexts[:20])
        vm.replace(programs[1], 2)
        after = vm.decide(contexts[20:])
    assert set(before.version.tolist()) == {1} and set(after.version.tolist()) == {2}
    assert after.to_lists() == executors.reference(programs[1], contexts)[20:]
