"""Settled strides are followed, but for those that the model knows the end of."""

from itertools import accumulate, cycle, islice

import numpy as np
import pytest

from kdtool.features import Events, build_dataset, feature_set
from kdtool.learners import find_learner
from kdtool.rmt import Vm
from kdtool.verify import verify_program

DEGREE = 32


def rows(pattern, n):
    """Return n pages whose differences go round in `pattern`."""
    return list(accumulate(islice(cycle(pattern), n), initial=10_000))


def event(page):
    return {"vpn": page, "pid": 1, "tid": 1, "ip": 0, "region": page >> 13, "major": 1}


def fitted(pages):
    events = Events(np.array([list(event(page).values()) for page in pages], np.int64))
    features = feature_set("process")
    return find_learner("tree").fit(
        build_dataset(events, features), features, {"max_depth": 10}, degree_pages=DEGREE, seed=0
    )


def exceptions(program):
    return [entry.match[1][0] for entry in program.tables[0].entries if entry.action.name == "no_action"]


def decisions(program, pages):
    vm = Vm(program)
    return [vm.decide(event(page)) for page in pages]


@pytest.mark.parametrize("pattern", [[7] * 31 + [8], [7] * 20 + [8], [3] * 12 + [-5]], ids=str)
def test_a_stride_that_is_broken_again_and_again_is_followed_up_to_there_and_beyond(pattern):
    program = fitted(rows(pattern, 2000))
    assert exceptions(program) == [pattern[0]]
    assert verify_program(program).verdict == "proved"
    pages = rows(pattern, 200)
    for at, decided in enumerate(decisions(program, pages[:-DEGREE])):
        if at > 2 * len(pattern):  # one whole round was seen
            assert decided == pages[at + 1 : at + 1 + DEGREE], at


def test_a_stride_that_goes_on_is_followed():
    program = fitted(rows([7], 2000))
    assert exceptions(program) == []
    pages = rows([11], 100)
    assert decisions(program, pages)[20] == pages[21 : 21 + DEGREE]


def test_a_stride_whose_end_nothing_tells_is_followed():
    lengths = np.random.default_rng(0).geometric(1 / 40, 60) + 12
    jumps = np.random.default_rng(1).integers(1000, 100_000, 60)
    pattern = [
        d for length, jump in zip(lengths, jumps, strict=True) for d in [7] * int(length) + [int(jump)]
    ]
    program = fitted(rows(pattern, len(pattern)))
    assert exceptions(program) == []
    pages = rows([7], 100)
    assert decisions(program, pages)[20] == pages[21 : 21 + DEGREE]
