"""The hooks: where in the kernel a program is asked, what it is told there, and what kind of answer it gives.

A hook is one literal: its name, its context fields, and its classes if it answers one of them; a hook without
classes answers pages to prefetch. What a field is for:

    key      tells streams apart (a process, a device): it selects a register's entry and is never a value
    address  a position: a register may keep it, features are differences of it
    value    a quantity: a register may keep it, a table may match it, a feature may be it

A value fits into 32 bits, two's complement, by its width: what the kernel counts in more bits is capped to
the largest that fits. Sources: kernel/sched/fair.c (can_migrate_task, task_hot, migrate_degrades_locality) of
v6.18; the features of Chen et al., Machine Learning for Load Balancing in the Linux Kernel, APSys 2020, and
of Hao et al., LinnOS, OSDI 2020.
"""

from dataclasses import dataclass

from kdtool.errors import ProgramError, unknown_name

__all__ = ["HOOKS", "PAGE", "ContextField", "Hook", "find_hook", "require_hook"]

PAGE = "vpn"
"""At a hook that answers pages: its first field, which a rollout pushes into the registers that keep it."""


@dataclass(frozen=True)
class ContextField:
    """What an event says of one thing: an integer of `bitwidth` bits, two's complement if it is signed."""

    name: str
    use: str
    bitwidth: int
    signed: bool = False

    @property
    def bounds(self) -> tuple[int, int]:
        """Return the least and the largest value.

        >>> ContextField("idle", "value", 2).bounds, ContextField("lag", "value", 2, signed=True).bounds
        ((0, 3), (-2, 1))
        """
        if self.signed:
            return -(1 << self.bitwidth - 1), (1 << self.bitwidth - 1) - 1
        return 0, (1 << self.bitwidth) - 1


@dataclass(frozen=True)
class Hook:
    """One decision point. A class is answered as its number in `classes`, from 0 on."""

    name: str
    context: tuple[ContextField, ...]
    classes: tuple[str, ...] = ()

    @property
    def field_names(self) -> tuple[str, ...]:
        """Return the names of all fields, in the order of an event's words."""
        return tuple(each.name for each in self.context)

    @property
    def recordable(self) -> tuple[str, ...]:
        """Return the names of the fields that a register may keep."""
        return tuple(each.name for each in self.context if each.use != "key")

    @property
    def values(self) -> tuple[str, ...]:
        """Return the names of the fields that may be matched and be features."""
        return tuple(each.name for each in self.context if each.use == "value")


HOOKS: tuple[Hook, ...] = (
    # A page fault, or the first touch of a prefetched page. `region` is vpn >> 13: 32 MiB of address space.
    Hook(
        "mm.swapin",
        (
            ContextField("vpn", "address", 52),
            ContextField("pid", "key", 31),
            ContextField("tid", "key", 31),
            ContextField("ip", "key", 64),
            ContextField("region", "key", 39),
            ContextField("major", "value", 1),
        ),
    ),
    # A candidate task at load balance, where can_migrate_task has found nothing that forbids it.
    Hook(
        "sched.migrate",
        (
            ContextField("pid", "key", 31),
            ContextField("tid", "key", 31),
            ContextField("src_cpu", "key", 16),
            ContextField("dst_cpu", "key", 16),
            ContextField("idle", "value", 2),  # enum cpu_idle_type: 0 busy, 1 idle, 2 newly idle
            ContextField("since_ran_ns", "value", 31),  # the source's clock - exec_start
            ContextField("src_running", "value", 31),  # nr_running
            ContextField("dst_running", "value", 31),
            ContextField("src_load", "value", 31),  # load_avg
            ContextField("dst_load", "value", 31),
            ContextField("extra_fails", "value", 32, signed=True),  # nr_balance_failed - cache_nice_tries
            ContextField("same_node", "value", 1),
            ContextField("prefers_src", "value", 1),  # by NUMA faults
            ContextField("prefers_dst", "value", 1),
            ContextField("src_over_preferred", "value", 1),  # nr_running > nr_preferred_running
            ContextField("faults_permille", "value", 11, signed=True),  # dst - src, of its NUMA faults
            ContextField("next_buddy", "value", 1),
        ),
        classes=("stay", "migrate"),
    ),
    # A read before it is submitted. Pending are pages of 4 KiB of reads and writes, this read's among them;
    # number 1 is the read that was completed last, with what was pending when it was submitted.
    Hook(
        "blk.submit",
        (
            ContextField("dev", "key", 32),
            ContextField("pid", "key", 31),
            ContextField("tid", "key", 31),
            ContextField("sector", "address", 55),
            ContextField("nr_sectors", "value", 31),
            ContextField("pending_pages", "value", 31),
            ContextField("latency1_us", "value", 31),
            ContextField("latency2_us", "value", 31),
            ContextField("latency3_us", "value", 31),
            ContextField("latency4_us", "value", 31),
            ContextField("pending1_pages", "value", 31),
            ContextField("pending2_pages", "value", 31),
            ContextField("pending3_pages", "value", 31),
            ContextField("pending4_pages", "value", 31),
        ),
        classes=("fast", "slow"),
    ),
)


def find_hook(name: str) -> Hook:
    """Return the hook called `name`; ParameterError for an unknown one.

    >>> find_hook("sched.migrate").classes
    ('stay', 'migrate')
    """
    for hook in HOOKS:
        if hook.name == name:
            return hook
    raise unknown_name("hook", name, [hook.name for hook in HOOKS])


def require_hook(program_name: str, hook: str, asked: str, asker: str) -> None:
    """Raise ProgramError unless a program's `hook` is the one that `asker` asks."""
    if hook != asked:
        raise ProgramError(
            f"program {program_name!r} is for hook {hook}, {asker} asks {asked}: give a program for that"
        )
