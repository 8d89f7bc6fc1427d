"""What a policy of `mm.swapin` is to the replay engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdtool.replay.devices import Device
from kdtool.replay.memory import Memory
from kdtool.replay.workload import Workload

__all__ = ["OUT_WORDS", "Int64Array", "Policy", "Prepared", "Setting"]

Int64Array = npt.NDArray[np.int64]
Decide = Callable[[Int64Array, Int64Array, Int64Array, Int64Array], int]

OUT_WORDS = 128
"""Room for a decision's answers: more than any policy's degree."""


@dataclass(frozen=True)
class Setting:
    """What a policy is prepared for.

    shadow_missed : uint8 of shape (n_refs,), 1 where the run without prefetching has a major fault
    memory : of the run to come, which changes as it goes
    runtime_ns : how long the policy's run takes with what it would return, by replaying it

    Only a bound may look at the last three, and at references that are still to come.
    """

    workload: Workload
    memory_pages: int
    device: Device
    shadow_missed: npt.NDArray[np.uint8]
    memory: Memory
    runtime_ns: Callable[["Prepared"], int]


@dataclass(frozen=True)
class Prepared:
    """`params` (read-only) and `state` for `decide`; state[0] is where it leaves the steps it took.

    follows_cache : `decide` is also told of pages found in the swap cache, as hook.FOUND says
    victims : a bound that also decides what memory gives up: the pages, in order, int32; else None
    """

    params: Int64Array
    state: Int64Array
    victims: npt.NDArray[np.int32] | None = None
    follows_cache: bool = False


class Policy(Protocol):
    """A policy: a versioned name, the most pages it asks for at once, its arrays, and its decision."""

    @property
    def name(self) -> str:
        """Return the name that `--policy` takes."""

    @property
    def version(self) -> str:
        """Return the version of its behaviour: a change is a new version."""

    @property
    def degree_pages(self) -> int:
        """Return the most pages it asks for at one event."""

    @property
    def decide(self) -> Decide:
        """Return the compiled `decide(params, state, ctx, out) -> n`, of signature rmt.numba_vm.DECIDE."""

    def prepare(self, setting: Setting) -> Prepared:
        """Return fresh arrays for one replay."""
