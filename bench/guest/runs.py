"""What the guest is asked to run, and what it said: lines of text on both ways."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.guest.workloads import GuestProgram
from kdtool.errors import CommandError
from kdtool.replay import Flush

__all__ = ["GUEST_SETTINGS", "GuestRun", "GuestSetting", "find_setting", "parse_console", "run_lines"]

NO_LIMIT = 100


@dataclass(frozen=True)
class GuestSetting:
    """How the guest reclaims and swaps in.

    lru_gen : what is written to /sys/kernel/mm/lru_gen/enabled
    reclaim, policy : their names in replay
    """

    name: str
    lru_gen: int
    page_cluster: int
    reclaim: str
    policy: str


GUEST_SETTINGS = (
    GuestSetting("mglru-none", 7, 0, "mglru", "none"),
    GuestSetting("mglru-vma", 7, 3, "mglru", "linux-vma"),
    GuestSetting("lists-none", 0, 0, "linux", "none"),
    GuestSetting("lists-vma", 0, 3, "linux", "linux-vma"),
)
"""The swap device does not rotate: readahead is by VMA (mm/swap_state.c, swapin_readahead(), v6.18)."""


def find_setting(name: str) -> GuestSetting:
    """Return the setting of a name."""
    return next(setting for setting in GUEST_SETTINGS if setting.name == name)


@dataclass(frozen=True)
class GuestRun:
    """One run: the numbers of its line, see limited.c. Times are the guest's: NS_PER_INSN an instruction."""

    setting: str
    percent: int
    limit_bytes: int
    numbers: dict[str, int]


def run_lines(
    program: GuestProgram, settings: Sequence[GuestSetting], percents: Sequence[int], runs: int
) -> str:
    """Return the guest's list of runs for one program: first the one without a limit, see init.sh.

    The runs of a cell begin at different moments of the 2 s after which the kernel brings statistics up to
    date.

    >>> from bench.guest.workloads import choose
    >>> lines = run_lines(choose(["stencil"])[0], GUEST_SETTINGS[:1], [50], 2).splitlines()
    >>> lines[0]
    'any/100/0 100 7 0 0 /bin/stencil 1500 3'
    >>> lines[2]
    'mglru-none/50/1 50 7 0 1500 /bin/stencil 1500 3'
    """
    command = " ".join((f"/bin/{program.source.stem}", *program.arguments))
    lines = [f"any/{NO_LIMIT}/0 {NO_LIMIT} 7 0 0 {command}"]
    for percent in percents:
        for setting in settings:
            for run in range(runs):
                pause_ms = Flush.period_ns * (2 * run + 1) // (2 * runs) // 10**6
                name = f"{setting.name}/{percent}/{run}"
                lines.append(
                    f"{name} {percent} {setting.lru_gen} {setting.page_cluster} {pause_ms} {command}"
                )
    return "\n".join(lines) + "\n"


def parse_console(text: str) -> tuple[dict[str, str], list[GuestRun]]:
    """Return what the guest said of itself, and its runs in order.

    Raises CommandError when a run failed or the guest did not come to its end.

    >>> parse_console("kdtool-run a/50/0 exit=0 major=7 limit=4096\\nkdtool-done\\n")[1]
    [GuestRun(setting='a', percent=50, limit_bytes=4096, numbers={'exit': 0, 'major': 7})]
    """
    facts: dict[str, str] = {}
    runs, done = [], False
    for line in text.splitlines():
        first, *words = line.split() or [""]
        if first == "kdtool-guest":
            facts = dict(word.split("=", 1) for word in words)
        elif first == "kdtool-run":
            runs.append(_parse_run(words[0], dict(word.split("=", 1) for word in words[1:])))
        done = done or first == "kdtool-done"
    if not done:
        raise CommandError("the guest ended before its runs did")
    return facts, runs


def _parse_run(name: str, values: dict[str, str]) -> GuestRun:
    setting, percent, _ = name.split("/")
    limit = values.pop("limit")
    numbers = {key: int(value) for key, value in values.items()}
    if numbers["exit"]:
        raise CommandError(f"{name}: ended with status {numbers['exit']} in the guest")
    return GuestRun(setting, int(percent), 0 if limit == "max" else int(limit), numbers)
