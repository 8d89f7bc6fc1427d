"""Sealing a recording whose recorder was killed while a source kept its events in files of its own.

    T.kdt/spool/NAME/ --the collector NAME's recover()--> rows --> sealed trace, state `interrupted`

What the other sources had appended is there already; the trace's first reader would seal it alone.
"""

from pathlib import Path

from kdtool.collect import COLLECTORS, collector
from kdtool.collect.base import Recoverer
from kdtool.traces import ResumedWriter
from kdtool.traces.sealing import is_unsealed

__all__ = ["recover"]


def recover(path: Path) -> bool:
    """Seal what was left and return True; False if there is nothing to do.

    Raises TraceError when it is still being recorded, or damaged.
    """
    if not is_unsealed(path):
        return False
    with ResumedWriter(path) as writer:
        for name, _ in COLLECTORS:
            kept = writer.spool / name
            source = collector(name) if kept.is_dir() else None
            if isinstance(source, Recoverer):
                for table in source.tables:
                    writer.forget(table)
                source.recover(kept, writer)
        writer.seal(writer.drafted)
    return True
