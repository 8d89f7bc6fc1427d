"""What a policy takes in training: replayed at the judged memories, for the kernel or for an agent."""

from collections.abc import Sequence
from dataclasses import replace

from kdtool.learners.parts import TrainingPart
from kdtool.replay import Device, Flush, LiveSetting, Policy, load_policy, replay
from kdtool.rmt.agentrules import FRESH_NS

__all__ = ["FRESH", "judged_ns"]

FRESH = Flush(FRESH_NS, 0)
"""An agent keeps the kernel's statistics of the cgroup up to date."""


def judged_ns(
    parts: Sequence[TrainingPart],
    policy: Policy,
    device: Device,
    *,
    flush: Flush = FRESH,
    from_choose: bool = True,
) -> int:
    """Replay every part at every judged memory; return the run times, of `choose` or of the whole, added up.

    An agent's policy is judged as it will run: beside the kernel's own readahead, with statistics that are
    brought up to date as `flush` says.
    """
    live, judged = LiveSetting(), [(part, shadow) for part in parts for shadow in part.judged]
    if device.agent_ns:
        live = LiveSetting(load_policy("linux-vma"))
        judged = [(part, replace(shadow, flush=flush)) for part, shadow in judged]
    return sum(
        replay(
            part.workload, policy, shadow, device, from_row=part.choose_row if from_choose else 0, live=live
        ).runtime_ns
        for part, shadow in judged
    )
