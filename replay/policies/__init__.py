"""The baselines of `mm.swapin`, one file each, and programs. A new one is a file and a line in POLICIES."""

from kdtool.errors import unknown_name
from kdtool.replay.devices import Device
from kdtool.replay.policies.base import Policy, Prepared, Setting
from kdtool.replay.policies.belady import Belady
from kdtool.replay.policies.best_offset import BestOffset
from kdtool.replay.policies.ghb import Ghb
from kdtool.replay.policies.leap import LeapPaper
from kdtool.replay.policies.leap_repo import LeapRepo
from kdtool.replay.policies.linux_cluster import LinuxCluster
from kdtool.replay.policies.linux_vma import LinuxVma
from kdtool.replay.policies.markov import Markov
from kdtool.replay.policies.none import NoPrefetch
from kdtool.replay.policies.oracle import Oracle
from kdtool.replay.policies.oracle_unlimited import OracleUnlimited
from kdtool.replay.policies.program import ProgramPolicy
from kdtool.replay.policies.stride import Stride
from kdtool.rmt import read_program

__all__ = [
    "BOUNDS",
    "POLICIES",
    "LinuxCluster",
    "Policy",
    "Prepared",
    "ProgramPolicy",
    "Setting",
    "device_of",
    "load_policy",
]

BOUNDS: tuple[Policy, ...] = (Oracle(), OracleUnlimited(), Belady())
"""Baselines that look ahead: what no policy can reach, to compare with."""

POLICIES: tuple[Policy, ...] = (
    NoPrefetch(),
    LinuxVma(),
    LinuxCluster(),
    LeapPaper(),
    LeapRepo(),
    Stride(),
    BestOffset(),
    Markov(),
    Ghb(),
    *BOUNDS,
)


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


def device_of(policy: Policy, device: Device) -> Device:
    """Return `device` as `policy` meets it: Linux's own readahead and the bounds need no agent."""
    in_kernel = isinstance(policy, (NoPrefetch, LinuxVma, LinuxCluster)) or policy in BOUNDS
    return device.by_agent(0) if in_kernel else device
