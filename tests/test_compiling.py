"""Compiling the engine ahead, in a process of its own."""

import os

import pytest

from kdtool.replay import compiling
from kdtool.replay.compiling import compile_ahead, engine
from kdtool.replay.engine import SIGNATURE, replay_range
from kdtool.rmt.jit import jit, on_disk


@jit()
def twice(x):
    return 2 * x


@jit()
def never(x):
    return x


@pytest.fixture
def nothing_compiled(monkeypatch):
    """Have it that nothing was compiled, and that compiling is a short matter."""
    monkeypatch.setattr(compiling, "on_disk", lambda function: False)
    monkeypatch.setattr(type(replay_range), "signatures", property(lambda function: []))


def test_the_engine_is_compiled_once_and_for_one_signature():
    assert engine() is engine()
    assert engine().signatures == [SIGNATURE.args]
    assert on_disk(replay_range)
    assert not compile_ahead()


def test_only_what_was_compiled_is_on_disk():
    assert twice(4) == 8
    assert on_disk(twice)
    assert not on_disk(never)


def test_a_process_compiles_and_the_engine_waits_for_it(nothing_compiled, monkeypatch, tmp_path):
    def note():
        (tmp_path / str(os.getpid())).touch()

    monkeypatch.setattr(compiling, "_compile", note)

    assert compile_ahead()
    engine()

    compilers = {int(file.name) for file in tmp_path.iterdir()}
    assert len(compilers) == 2  # the second finds on disk what the first left there
    assert os.getpid() in compilers


def test_the_engine_is_compiled_here_when_the_process_dies(nothing_compiled, monkeypatch):
    here, compiled_here = os.getpid(), []
    monkeypatch.setattr(
        compiling, "_compile", lambda: compiled_here.append(1) if os.getpid() == here else os._exit(1)
    )

    assert compile_ahead()
    engine()

    assert compiled_here
