"""What was seen: schemas, manifest, reading, writing, importing, synthetic generators."""

from kdtool.traces.io import Columns, Trace
from kdtool.traces.manifest import Manifest, Reduction, Segment, TableInfo, canonical_json
from kdtool.traces.schema import (
    NO_OFFSET,
    NO_ROW,
    NO_TID,
    NO_TIME,
    PREEMPTED,
    SCHEMA_VERSION,
    TABLES,
    UNTOLD,
    AccelKind,
    BlockOp,
    RefKind,
    SchedEvent,
    VmaAdvice,
    VmaFlag,
    schema_of,
)
from kdtool.traces.sizes import (
    MOST_SHOWN,
    PAGE_BYTES,
    memory_pages,
    parse_fraction,
    parse_number,
    parse_size,
)
from kdtool.traces.writer import ResumedWriter, TraceWriter

__all__ = [
    "MOST_SHOWN",
    "NO_OFFSET",
    "NO_ROW",
    "NO_TID",
    "NO_TIME",
    "PAGE_BYTES",
    "PREEMPTED",
    "SCHEMA_VERSION",
    "TABLES",
    "UNTOLD",
    "AccelKind",
    "BlockOp",
    "Columns",
    "Manifest",
    "Reduction",
    "RefKind",
    "ResumedWriter",
    "SchedEvent",
    "Segment",
    "TableInfo",
    "Trace",
    "TraceWriter",
    "VmaAdvice",
    "VmaFlag",
    "canonical_json",
    "memory_pages",
    "parse_fraction",
    "parse_number",
    "parse_size",
    "schema_of",
]
