"""The ways in which the kernel is set up for a run, and the baseline of replay that models each."""

from dataclasses import dataclass

from kdtool.errors import unknown_name
from kdtool.replay import LinuxCluster, Policy, load_policy

__all__ = ["SETTINGS", "Setting", "find_setting"]


@dataclass(frozen=True)
class Setting:
    """How the kernel swaps in.

    page_cluster : vm.page-cluster; 0 reads nothing ahead
    rotational : what the swap device says of itself at swapon; readahead is then by cluster, else by VMA
        (mm/swap_state.c, swapin_readahead())
    current : the cgroup's statistics are kept up to date by a reader of its memory.stat, so that the moment
        at which the program starts makes no difference
    policies : the baseline of `kdtool replay`; one for each state that earlier programs may have left the
        machine's readahead in
    """

    name: str
    page_cluster: int
    rotational: bool
    current: bool
    policies: tuple[Policy, ...]


SETTINGS = (
    Setting("none", 0, False, False, (load_policy("none"),)),
    Setting("cluster", 3, True, False, (LinuxCluster(), LinuxCluster(initial_hits=0))),
    Setting("vma", 3, False, False, (load_policy("linux-vma"),)),
    Setting("none-current", 0, False, True, (load_policy("none"),)),
)


def find_setting(name: str) -> Setting:
    """Return the setting `name`; ParameterError for an unknown one."""
    for setting in SETTINGS:
        if setting.name == name:
            return setting
    raise unknown_name("setting", name, [setting.name for setting in SETTINGS])
