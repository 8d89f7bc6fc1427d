"""Importers of other tools' recordings. A new one is a file and a line in IMPORTERS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdtool.errors import TraceError, unknown_name
from kdtool.traces.importers.csv import CsvImporter
from kdtool.traces.io import Trace, TraceWriter
from kdtool.traces.manifest import Manifest, Reduction

__all__ = ["IMPORTERS", "Importer", "import_trace"]


class Importer(Protocol):
    """One format of page references."""

    @property
    def name(self) -> str:
        """Return the name that `kdtool import` takes."""

    def read(self, file: Path) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        """Yield columns of `refs`, in order."""


IMPORTERS: tuple[Importer, ...] = (CsvImporter(),)


def import_trace(form: str, file: Path, output: Path) -> Trace:
    """Read `file` in format `form` into the trace `output`.

    Raises ParameterError for an unknown format and TraceError for a file that is not of that format.
    """
    importer = next((importer for importer in IMPORTERS if importer.name == form), None)
    if importer is None:
        raise unknown_name("format", form, [importer.name for importer in IMPORTERS])
    with TraceWriter(output) as writer:
        rows = 0
        for columns in importer.read(file):
            writer.append("refs", columns)
            rows += len(columns["vpn"])
        if not rows:
            raise TraceError(f"{file}: has no references: nothing was written")
        collector = {"name": f"import {form}", "file": file.name}
        return writer.seal(Manifest("complete", "insns", [], collector, reduction=Reduction("none", 0)))
