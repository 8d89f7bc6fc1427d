"""What was seen: schemas, manifest, reading, writing, importing, synthetic generators."""

from kdtool.traces.io import Columns, Trace, TraceWriter
from kdtool.traces.manifest import Manifest, Reduction, Segment, TableInfo, canonical_json
from kdtool.traces.schema import NO_ROW, SCHEMA_VERSION, TABLES, RefKind, VmaFlag, schema_of
from kdtool.traces.sizes import PAGE_BYTES, memory_pages, parse_fraction, parse_size

__all__ = [
    "NO_ROW",
    "PAGE_BYTES",
    "SCHEMA_VERSION",
    "TABLES",
    "Columns",
    "Manifest",
    "Reduction",
    "RefKind",
    "Segment",
    "TableInfo",
    "Trace",
    "TraceWriter",
    "VmaFlag",
    "canonical_json",
    "memory_pages",
    "parse_fraction",
    "parse_size",
    "schema_of",
]
