"""Results as Parquet: a row a result, the columns and types of Result, the version in the metadata.

{"kdtool.schema": "result", "kdtool.schema_version": "1.2", "kdtool.version": ...}
"""

from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from kdtool import __version__
from kdtool.replay.files import whole_file
from kdtool.replay.run import Result

__all__ = ["RESULT_SCHEMA_VERSION", "result_schema", "write_results"]

RESULT_SCHEMA_VERSION = "1.2"
"""Major: a column changed its name, type or meaning, or went. Minor: a column came."""

_TYPES = {
    int: (pa.int64(), False),
    str: (pa.string(), False),
    float: (pa.float64(), False),
    float | None: (pa.float64(), True),
}


def result_schema() -> pa.Schema:
    """Return the columns: int64, string and float64; a ratio is null where nothing was counted."""
    fields = [pa.field(name, *_TYPES[hint]) for name, hint in get_type_hints(Result).items()]
    metadata = {
        "kdtool.schema": "result",
        "kdtool.schema_version": RESULT_SCHEMA_VERSION,
        "kdtool.version": __version__,
    }
    return pa.schema(fields, metadata)


def write_results(results: list[Result], path: Path) -> None:
    """Write `results` to `path`, whole or not at all; ParameterError when it cannot be written."""
    table = pa.Table.from_pylist([result.to_row() for result in results], result_schema())
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")
