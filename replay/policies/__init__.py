"""The baselines of `mm.swapin`, one file each, and programs. A new one is a file and a line in POLICIES."""

from kdtool.errors import unknown_name
from kdtool.replay.policies.base import Policy, Prepared, Setting
from kdtool.replay.policies.leap import LeapPaper
from kdtool.replay.policies.linux_cluster import LinuxCluster
from kdtool.replay.policies.linux_vma import LinuxVma
from kdtool.replay.policies.none import NoPrefetch
from kdtool.replay.policies.oracle import Oracle
from kdtool.replay.policies.program import ProgramPolicy
from kdtool.rmt import read_program

__all__ = ["POLICIES", "Policy", "Prepared", "ProgramPolicy", "Setting", "load_policy"]

POLICIES: tuple[Policy, ...] = (NoPrefetch(), LinuxVma(), LinuxCluster(), LeapPaper(), Oracle())


def load_policy(name: str) -> Policy:
    """Return the baseline `name`, or the program in the file `name` (`*.json`).

    Raises ParameterError for an unknown name, ProgramError for a program that is refused.
    """
    if name.endswith(".json"):
        return ProgramPolicy(read_program(name))
    for policy in POLICIES:
        if policy.name == name:
            return policy
    raise unknown_name("policy", name, [policy.name for policy in POLICIES])
