"""What would have happened: engine, baselines, device and cost models, scoreboard."""

from kdtool.replay.compiling import compile_ahead
from kdtool.replay.devices import DEVICE_FIELDS, Device, device_names, load_device, write_device
from kdtool.replay.events import miss_events
from kdtool.replay.filemaps import FILES
from kdtool.replay.live import Allowed, LiveSetting
from kdtool.replay.memory import SWAP_MISSED, Flush
from kdtool.replay.policies import BOUNDS, POLICIES, LinuxCluster, Policy, ProgramPolicy, Setting, load_policy
from kdtool.replay.run import Result, Shadow, check_memory, least_memory, replay, run_shadow
from kdtool.replay.workload import Workload, load_workload, workload_from_arrays

__all__ = [
    "BOUNDS",
    "DEVICE_FIELDS",
    "FILES",
    "POLICIES",
    "SWAP_MISSED",
    "Allowed",
    "Device",
    "Flush",
    "LinuxCluster",
    "LiveSetting",
    "Policy",
    "ProgramPolicy",
    "Result",
    "Setting",
    "Shadow",
    "Workload",
    "check_memory",
    "compile_ahead",
    "device_names",
    "least_memory",
    "load_device",
    "load_policy",
    "load_workload",
    "miss_events",
    "replay",
    "run_shadow",
    "workload_from_arrays",
    "write_device",
]
