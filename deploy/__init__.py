"""What runs live: an agent beside a stock kernel, by which a program prefetches for a cgroup's processes.

Also decisions made in the kernel at each page fault (FaultDecisions), for the agent and for others.
"""

from kdtool.deploy.faultdecisions import Counters, DecisionBatch, FaultDecisions

__all__ = ["Counters", "DecisionBatch", "FaultDecisions"]
