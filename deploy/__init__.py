"""What runs live: decisions at page faults, made in the kernel. Nothing acts on them yet."""

from kdtool.deploy.faultdecisions import Counters, DecisionBatch, FaultDecisions

__all__ = ["Counters", "DecisionBatch", "FaultDecisions"]
