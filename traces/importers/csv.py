"""`csv`: page references as `vpn[,tid,kind,insns]` with a header, one a line, in global order.

Absent columns: `tid` 1, `kind` load, `insns` the number of the line, so that each reference is one
instruction long. Numbers are decimal, or hexadecimal where 0x says so; `kind` is load, store, code or kernel,
or the number of one (0 to 3). The trace is unreduced (k = 0) and has one process, 1.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from kdtool.errors import TraceError
from kdtool.traces.importers.base import Imported
from kdtool.traces.manifest import Reduction
from kdtool.traces.schema import RefKind, schema_of
from kdtool.traces.writer import TraceWriter

__all__ = ["CsvImporter"]

COLUMNS = ("vpn", "tid", "kind", "insns")
KINDS = {kind.name.lower(): kind for kind in RefKind} | {str(int(kind)): kind for kind in RefKind}


class CsvImporter:
    """Read references from CSV, a block at a time."""

    name = "csv"

    def read_into(self, writer: TraceWriter, file: Path) -> Imported:
        """Append the rows of `file` to `refs`; TraceError names what is wrong with the file."""
        for columns in _read(file):
            writer.append("refs", columns)
        return Imported("insns", reduction=Reduction("none", 0))


def _read(file: Path) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
    schema = schema_of("refs")
    types = {name: schema.field(name).type for name in COLUMNS} | {"kind": pa.string()}
    rows = 0
    try:
        convert = pa_csv.ConvertOptions(column_types=types)
        with pa_csv.open_csv(file, convert_options=convert) as reader:
            _check_header(file, reader.schema.names)
            for batch in reader:
                if any(batch.column(i).null_count for i in range(batch.num_columns)):
                    raise TraceError(f"{file}: an empty field after row {rows}: every field has a number")
                yield _columns(file, batch, rows)
                rows += batch.num_rows
    except OSError as error:
        raise TraceError(f"{file}: cannot be read: {error}") from None
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:  # the latter of a header
        raise TraceError(f"{file}: not the CSV it should be ({str(error).splitlines()[0][:200]})") from None


def _check_header(file: Path, names: list[str]) -> None:
    extra = [name for name in names if name not in COLUMNS]
    if "vpn" not in names or extra or len(set(names)) < len(names):
        raise TraceError(f"{file}: header {','.join(names)[:80]}: it must be vpn[,tid,kind,insns], each once")


def _columns(file: Path, batch: pa.RecordBatch, start: int) -> dict[str, npt.NDArray[np.generic]]:
    n_rows = batch.num_rows
    columns: dict[str, npt.NDArray[np.generic]] = {
        "pid": np.ones(n_rows, np.int32),
        "tid": np.ones(n_rows, np.int32),
        "ip": np.zeros(n_rows, np.uint64),
        "kind": np.zeros(n_rows, np.uint8),
        "insns": np.arange(start + 1, start + n_rows + 1, dtype=np.uint64),
    }
    for name in batch.schema.names:
        column = batch.column(name)
        columns[name] = _kinds(file, column) if name == "kind" else column.to_numpy(zero_copy_only=False)
    if int(np.max(columns["vpn"], initial=0)) >= 1 << 52:
        raise TraceError(
            f"{file}: vpn {int(columns['vpn'].max())}: a page number (address >> 12) is below 2**52"
        )
    return columns


def _kinds(file: Path, column: pa.StringArray) -> npt.NDArray[np.uint8]:
    coded = column.dictionary_encode()
    names = coded.dictionary.to_pylist()
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise TraceError(f"{file}: kind {unknown[0][:40]!r}: allowed are load, store, code, kernel or 0 to 3")
    numbers = np.array([KINDS[name] for name in names], np.uint8)
    kinds: npt.NDArray[np.uint8] = numbers[coded.indices.to_numpy()]
    return kinds
