"""How it is seen: one file per source of events. A new one is a file and a line in COLLECTORS."""

from importlib import import_module
from typing import TYPE_CHECKING

from kdtool.errors import unknown_name

if TYPE_CHECKING:
    from kdtool.collect.base import Collector

__all__ = ["COLLECTORS", "collector"]

# Name, and module:class. Named, not imported: `kdtool --help` reads this without numpy and pyarrow.
COLLECTORS: tuple[tuple[str, str], ...] = (
    ("faults", "kdtool.collect.faults:Faults"),
    ("refs", "kdtool.collect.refs:References"),
    ("sched", "kdtool.collect.sched:Sched"),
    ("blockio", "kdtool.collect.blockio:BlockIO"),
    ("accel", "kdtool.collect.accel:Accel"),
)


def collector(name: str) -> "Collector":
    """Return the collector that `--events NAME` means; ParameterError for an unknown name.

    >>> collector("faults").tables
    ('faults', 'vmas', 'tasks')
    """
    for known, target in COLLECTORS:
        if known == name:
            module, _, kind = target.partition(":")
            made: Collector = getattr(import_module(module), kind)()
            return made
    raise unknown_name("events", name, [known for known, _ in COLLECTORS])
