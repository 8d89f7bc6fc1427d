"""Conformance: what programs mean, as text that people can check, against each executor."""

import executors
import needs
import pytest
from conformance_cases import read_cases

from kdtool.rmt import from_document, to_document

CASES = read_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("executor", [executors.reference, executors.numba], ids=lambda e: e.__name__)
def test_a_program_decides_as_written(executor, case):
    assert executor(case.program, case.contexts) == case.expected


@pytest.mark.root
@needs.bpf
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_program_decides_as_written_in_the_kernel(case):
    assert executors.kernel(case.program, case.contexts) == case.expected


def test_the_cases_are_many_well_formed_and_decide_something():
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert from_document(to_document(case.program)) == case.program, case.name
    assert sum(any(case.expected) for case in CASES) >= 120
