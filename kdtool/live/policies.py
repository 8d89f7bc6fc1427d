"""What the agent can run: a program that is proved, or a baseline by the compiled decision that replay uses.

A baseline is given the arrays that it has in replay. Those that ask for what only replay knows (swap slots,
the bounds of a mapping, the future) cannot be run live and are refused by name.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from kdtool.deploy.layout import MAX_PROCESSES
from kdtool.deploy.source import Decider
from kdtool.errors import ParameterError, ProgramError
from kdtool.replay import load_device, load_policy
from kdtool.replay.hook import CTX_NOW_NS, CTX_PROCESS, CTX_WORDS
from kdtool.rmt import CONTEXT_FIELDS, Program, pack, program_sha256, read_program, require_hook
from kdtool.rmt.numba_vm import compiled, decide
from kdtool.verify.program import verify_program

__all__ = ["LIVE_POLICIES", "load_decider", "of_policy", "of_program"]

LIVE_POLICIES = ("none", "leap-paper", "stride", "best-offset", "markov", "ghb")
DEVICE = "ssd"
"""Whose latency best-offset takes for the time that a read takes."""


def load_decider(name: str) -> Decider:
    """Return the program in the file `name` (`*.json`), verified now, or the baseline `name`.

    Raises ProgramError for a program that is not proved, ParameterError for a name that cannot run live.
    """
    return of_program(read_program(name)) if name.endswith(".json") else of_policy(name)


def of_program(program: Program) -> Decider:
    """Verify a program in this process and return it with zeroed registers.

    Raises ProgramError unless it is proved and for mm.swapin.
    """
    require_hook(program.name, program.hook, "mm.swapin", "a page fault")
    report = verify_program(program)
    if report.verdict != "proved":
        worst = next(f for f in report.findings if f.verdict == report.verdict)
        raise ProgramError(
            f"program {program.name!r} is not deployed: {worst.check} is {worst.verdict}: {worst.message} "
            f"({worst.witness}): see kdtool verify"
        )
    packed = pack(program)
    return Decider(
        name=program.name,
        version=program_sha256(program)[:12],
        degree_pages=program.guards.degree_pages,
        decide=compiled(decide),
        params=packed.params,
        state=packed.new_state(),
        context_words=len(CONTEXT_FIELDS),
        rate_pages=program.guards.rate_pages,
        min_accuracy=program.guards.min_accuracy_permille / 1000,
        program=program,
    )


def of_policy(name: str) -> Decider:
    """Return a baseline of replay; ParameterError for an unknown one, and one that cannot run live."""
    policy = load_policy(name)
    if policy.name not in LIVE_POLICIES:
        raise ParameterError(
            f"policy '{name}' asks for what only replay knows: live can run: {', '.join(LIVE_POLICIES)}"
        )
    prepared = policy.prepare(_setting())
    return Decider(
        name=policy.name,
        version=policy.version,
        degree_pages=policy.degree_pages,
        decide=compiled(policy.decide),
        params=prepared.params,
        state=prepared.state,
        context_words=CTX_WORDS,
        process_word=CTX_PROCESS,
        clock_word=CTX_NOW_NS,
    )


def _setting() -> Any:
    """Return of replay's Setting what the live baselines look at: how many processes, and the device."""
    workload = SimpleNamespace(pids=np.zeros(MAX_PROCESSES, np.int64))
    return SimpleNamespace(workload=workload, device=load_device(DEVICE))
