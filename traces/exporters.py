"""Traces for other tools. A new format is a function and a line in EXPORTERS."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdtool.errors import unknown_name
from kdtool.traces.importers.oracle import write_oracle_general
from kdtool.traces.io import Trace
from kdtool.traces.manifest import Reduction

__all__ = ["EXPORTERS", "Exported", "export_trace"]

EXPORTERS: tuple[tuple[str, Callable[[Trace, Path], int]], ...] = (("oracle-general", write_oracle_general),)


@dataclass(frozen=True)
class Exported:
    """What an export holds: its records, and how the references that they are were reduced."""

    records: int
    reduction: Reduction

    def __str__(self) -> str:
        """Return it for people: whoever has the file alone does not see that references were left out.

        >>> print(Exported(1000, Reduction("sad", 64)))
        1,000 records, reduced (sad, k = 64): exact for an LRU of 64 pages or more
        """
        method, k = self.reduction.method, self.reduction.k
        how = f", reduced ({method}, k = {k:,}): exact for an LRU of {k:,} pages or more" if k > 1 else ""
        return f"{self.records:,} records{how}"


def export_trace(form: str, trace: Path, file: Path, *, allow_loss: bool = False) -> Exported:
    """Write the references of `trace` to `file` in format `form` and say what it holds.

    Raises ParameterError for an unknown format or an existing file, TraceError without references and, unless
    that is allowed, where events were lost.
    """
    for name, write in EXPORTERS:
        if name == form:
            opened = Trace(trace)
            opened.require_whole(allow_loss=allow_loss)
            return Exported(write(opened, file), opened.manifest.reduction or Reduction("none", 0))
    raise unknown_name("format", form, [name for name, _ in EXPORTERS])
