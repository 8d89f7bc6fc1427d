"""Arrays of a replay: zeros, and the room of those that are gone."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from builders import ssd

from kdtool.replay import load_policy, load_workload, replay, run_shadow
from kdtool.replay.longarrays import HUGE_BYTES, zeros
from kdtool.traces import Trace

STENCIL = Path(__file__).parent.parent / "examples" / "stencil.kdt"
N = HUGE_BYTES // 8 + 5


def address(array):
    return array.__array_interface__["data"][0]


def test_an_array_that_is_gone_leaves_its_room_and_nothing_in_it():
    first = zeros(N, np.int64)
    first[:] = 7
    where, part = address(first), first[3:].reshape(-1, 2)
    del first
    assert address(zeros(N, np.int64)) != where  # a view of it is still there
    del part
    again = zeros(2 * N, np.int32)
    assert address(again) == where
    assert again.dtype == np.int32
    assert not again.any()
    again[0] = 1  # it can be written
    again[:] = 7
    del again
    longer = zeros(N + 5, np.int64)  # as many huge pages
    assert address(longer) == where
    assert not longer.any()


def is_mapped(where):
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    return any(int(begin, 16) <= where < int(end, 16) for begin, end in ranges)


def test_a_forked_process_gives_back_the_room_that_its_parent_keeps():
    first = zeros(N, np.int64)
    where = address(first)
    del first
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        os.write(theirs, b"kept" if is_mapped(where) else b"gone")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ours, 4) == b"gone"
    os.close(ours)
    os.close(theirs)
    assert is_mapped(where)
    assert address(zeros(N, np.int64)) == where


@pytest.mark.parametrize("name", ["linux-vma", "oracle-unlimited", "markov"])
def test_what_a_replay_held_is_given_back_when_it_ends(name, monkeypatch):
    workload, device = load_workload(Trace(STENCIL)), ssd()
    shadow = run_shadow(workload, 4741, device)
    gc.collect()
    gc.disable()
    try:
        replay(workload, load_policy(name), shadow, device)
        held = [each for each in gc.get_objects() if type(each).__name__ == "Memory"]
    finally:
        gc.enable()
    assert not held
