"""What an importer says of a file besides its rows."""

from dataclasses import dataclass, field
from typing import Any

from kdtool.traces.manifest import Reduction

__all__ = ["Imported"]


@dataclass(frozen=True)
class Imported:
    """Goes into the manifest.

    clock : what the times are: monotonic, realtime, insns, or a tool's own
    command : what was recorded, where the file says so
    reduction : of `refs`; None when the file has none
    facts : what else the file says of itself, such as its tool's version
    """

    clock: str
    command: list[str] = field(default_factory=list)
    reduction: Reduction | None = None
    facts: dict[str, Any] = field(default_factory=dict)
