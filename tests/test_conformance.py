"""Conformance: what programs mean, as text that people can check, against each executor."""

import executors
import needs
import pytest
from conformance_cases import read_cases

from kdtool.rmt import HOOKS, from_document, to_document

CASES = read_cases()
EXECUTORS = [executors.reference_counted, executors.numba_counted]


def check(executor, case):
    decided, counted = executor(case.program, case.contexts)
    assert decided == case.expected
    assert case.counted in (None, counted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda e: e.__name__)
def test_a_program_decides_as_written(executor, case):
    check(executor, case)


@pytest.mark.root
@pytest.mark.beside
@needs.bpf
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_program_decides_as_written_in_the_kernel(case):
    check(executors.kernel_counted, case)


def test_the_cases_are_many_well_formed_and_decide_something():
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert from_document(to_document(case.program)) == case.program, case.name
    assert sum(any(case.expected) for case in CASES) >= 120
    hooks = [case.program.hook for case in CASES]
    assert {hook: hooks.count(hook) >= 20 for hook in hooks} == {hook.name: True for hook in HOOKS}
    assert sum(case.counted is not None for case in CASES) >= 10
