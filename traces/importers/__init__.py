"""Importers of other tools' recordings. A new one is a file and a line in IMPORTERS."""

from pathlib import Path
from typing import Protocol

from kdtool.errors import TraceError, unknown_name
from kdtool.traces.importers.base import Imported
from kdtool.traces.importers.blkparse import BlkparseImporter
from kdtool.traces.importers.csv import CsvImporter
from kdtool.traces.importers.kineto import KinetoImporter
from kdtool.traces.importers.lackey import LackeyImporter
from kdtool.traces.importers.nsight import NsightImporter
from kdtool.traces.importers.oracle import OracleGeneralImporter
from kdtool.traces.importers.perf import PerfImporter
from kdtool.traces.io import Trace
from kdtool.traces.manifest import Manifest
from kdtool.traces.writer import TraceWriter

__all__ = ["IMPORTERS", "Imported", "Importer", "import_trace"]


class Importer(Protocol):
    """One format of another tool's recordings."""

    @property
    def name(self) -> str:
        """Return the name that `kdtool import` takes."""

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append all rows of `file` and what it says was lost, a block at a time in bounded memory.

        Raises TraceError, one line, for a file that is not of this format or is damaged.
        """


IMPORTERS: tuple[Importer, ...] = (
    CsvImporter(),
    PerfImporter(),
    OracleGeneralImporter(),
    LackeyImporter(),
    BlkparseImporter(),
    NsightImporter(),
    KinetoImporter(),
)


def import_trace(form: str, file: Path, output: Path) -> Trace:
    """Read `file` in format `form` into the trace `output`.

    Raises ParameterError for an unknown format and TraceError for a file that is not of that format.
    """
    importer = next((importer for importer in IMPORTERS if importer.name == form), None)
    if importer is None:
        raise unknown_name("format", form, [importer.name for importer in IMPORTERS])
    with TraceWriter(output) as writer:
        try:
            imported = importer.read_into(writer, file)
        except OSError as error:
            raise TraceError(f"{file}: cannot be read: {error.strerror or error}") from None
        if not writer.rows:
            raise TraceError(f"{file}: has no events: nothing was written")
        collector = {"name": f"import {form}", "file": file.name, **imported.facts}
        return writer.seal(
            Manifest("complete", imported.clock, imported.command, collector, reduction=imported.reduction)
        )
