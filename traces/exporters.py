"""Traces for other tools. A new format is a function and a line in EXPORTERS."""

from collections.abc import Callable
from pathlib import Path

from kdtool.errors import unknown_name
from kdtool.traces.importers.oracle import write_oracle_general
from kdtool.traces.io import Trace

__all__ = ["EXPORTERS", "export_trace"]

EXPORTERS: tuple[tuple[str, Callable[[Trace, Path], int]], ...] = (("oracle-general", write_oracle_general),)


def export_trace(form: str, trace: Path, file: Path) -> int:
    """Write the references of `trace` to `file` in format `form` and return how many records it has.

    Raises ParameterError for an unknown format or an existing file, TraceError without references.
    """
    for name, write in EXPORTERS:
        if name == form:
            return write(Trace(trace), file)
    raise unknown_name("format", form, [name for name, _ in EXPORTERS])
