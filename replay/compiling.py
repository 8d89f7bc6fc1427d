"""Compiling the engine, which takes long, once after an install: in a process of its own meanwhile.

compile_ahead()  ──fork──► compiles the engine, which leaves it on disk
policies, loading the trace       |
engine()  ◄──── waits ────────────┘ and loads it
"""

import multiprocessing
from typing import Any

from kdtool.replay.engine import SIGNATURE, replay_range
from kdtool.rmt.jit import on_disk

__all__ = ["compile_ahead", "engine"]

_FORK = multiprocessing.get_context("fork")
_compilers: list[Any] = []
"""The process that compiles, if there is one."""


def compile_ahead() -> bool:
    """Begin to compile the engine beside this process unless it is on disk; return whether it was not."""
    if replay_range.signatures or on_disk(replay_range):
        return False
    process = _FORK.Process(target=_compile, daemon=True)
    process.start()
    _compilers.append(process)
    return True


def engine() -> Any:
    """Return the compiled engine.replay_range(), for its signature and nothing else."""
    while _compilers:
        _compilers.pop().join()
    if not replay_range.signatures:
        _compile()
    return replay_range


def _compile() -> None:
    replay_range.compile(SIGNATURE)
    replay_range.disable_compile()
