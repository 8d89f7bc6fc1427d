"""Guards: what holds while a program runs live, whatever it says, is there and does something.

Degree and jump are kept by every executor, see the checks of steps and intervals. Rate and accuracy are kept
by who runs it live (`kdtool deploy`, for mm.swapin only), which also compares it with the kernel alone and
ends at a signal; an option there can only be stricter.
"""

from kdtool.rmt import LIMITS, Program, find_hook
from kdtool.verify.finding import Finding, proved, refuted

__all__ = ["check_guards"]

PAGE_BYTES = 4096


def check_guards(program: Program) -> list[Finding]:
    """Refute a guard that could never act."""
    guards, hook = program.guards, find_hook(program.hook)
    share = guards.min_accuracy_permille / 10
    floor = proved("guards", f"live it steps back where less than {share:g} % of its pages are used")
    if hook.classes:
        said = f"it asks that {share:g} % of its decisions be right; nothing runs {hook.name} live yet"
        floor = proved("guards", said)
    if guards.min_accuracy_permille == 0:
        floor = refuted("guards", "it would never step back for its accuracy", "min_accuracy_permille 0")
    if hook.classes:
        return [floor]
    mib_s = guards.rate_pages * PAGE_BYTES / 2**20
    rate = proved("guards", f"at most {guards.rate_pages} pages a second are read live, {mib_s:,.0f} MiB/s")
    if guards.rate_pages >= LIMITS.rate_pages:
        rate = refuted("guards", "the rate has no limit", f"rate_pages {guards.rate_pages}, the most allowed")
    return [rate, floor]
