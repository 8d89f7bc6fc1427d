"""The programs of the bench, each with two inputs: one to learn from, another to be measured on."""

from dataclasses import dataclass

from bench.fidelity.workloads import PROGRAMS as FIDELITY
from bench.fidelity.workloads import BenchProgram
from kdtool.errors import unknown_name

__all__ = ["PAIRS", "Pair", "choose_pairs"]

_KNOWN = {program.name: program for program in FIDELITY}


@dataclass(frozen=True)
class Pair:
    """A program: `learn` is what its page references are recorded of, `run` what is measured."""

    name: str
    learn: BenchProgram
    run: BenchProgram


def _pair(name: str, like: str, learn: tuple[str, ...], run: tuple[str, ...]) -> Pair:
    source = _KNOWN[like].source
    return Pair(name, BenchProgram(f"{name}-learn", source, learn), BenchProgram(name, source, run))


def _convolution(rows: int, seed: int) -> tuple[str, ...]:
    return ("--rows", str(rows), "--columns", "3600", "--block-columns", "600", "--seed", str(seed))


PAIRS = (
    _pair("convolution", "convolution", _convolution(2800, 1), _convolution(3600, 0)),
    _pair("resize", "resize", ("--frames", "16", "--seed", "1"), ("--frames", "48")),
    _pair("stride-3", "stride-3", ("18000", "3", "20000"), ("48000", "3", "20000")),
    _pair("stride-7", "stride-7", ("18000", "7", "20000"), ("48000", "7", "20000")),
    _pair("bfs", "bfs", ("1100000", "12", "5000", "2", "1"), ("1500000", "12", "5000", "2", "0")),
    _pair("sqlite", "sqlite", ("--rows", "180000", "--seed", "1"), ()),
    _pair("sort", "sort", ("--rows", "6000000", "--seed", "1"), ()),
    _pair("sequential", "stride-2", ("18000", "1", "20000"), ("24000", "1", "20000")),
    _pair(
        "random", "uniform", ("15000", "60000", "0.0", "1", "5000"), ("20000", "80000", "0.0", "0", "5000")
    ),
)
"""Learned from a smaller input with another seed; a matrix keeps its columns, a stride its length."""


def choose_pairs(names: list[str] | None) -> list[Pair]:
    """Return the programs of these names, all when None; ParameterError for an unknown name."""
    known = {pair.name: pair for pair in PAIRS}
    for name in names or []:
        if name not in known:
            raise unknown_name("program", name, known)
    return [known[name] for name in (known if names is None else names)]
