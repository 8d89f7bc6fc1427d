"""What was seen: schemas, manifest, reading, writing, importing, synthetic generators."""

from kdtool.traces.io import Columns, Trace, TraceWriter
from kdtool.traces.manifest import Manifest, Reduction, Segment, TableInfo, canonical_json
from kdtool.traces.schema import NO_ROW, SCHEMA_VERSION, TABLES, RefKind, VmaFlag, schema_of

__all__ = [
    "NO_ROW",
    "SCHEMA_VERSION",
    "TABLES",
    "Columns",
    "Manifest",
    "RefKind",
    "Reduction",
    "Segment",
    "TableInfo",
    "Trace",
    "TraceWriter",
    "VmaFlag",
    "canonical_json",
    "schema_of",
]
