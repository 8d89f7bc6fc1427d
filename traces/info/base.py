"""What figures are: a table's rows, a batch at a time and in order, become a part of the document."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from kdtool.traces.info.mappings import Mappings
from kdtool.traces.info.timeline import Span
from kdtool.traces.info.who import Who
from kdtool.traces.io import Columns, Trace

__all__ = ["About", "Figures", "kind_name"]


@dataclass(frozen=True)
class About:
    """What figures may know of the trace beside their rows.

    span : of their table, which has been read once for it
    batch_rows : the most rows that they get at once
    """

    trace: Trace
    span: Span
    who: Who
    mappings: Mappings
    batch_rows: int


class Figures(Protocol):
    """The figures of one table; made of an About."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that `add` is given."""

    def add(self, rows: Columns) -> None:
        """Take in the next batch of rows; how they are cut into batches changes no figure."""

    def document(self) -> dict[str, Any]:
        """Return the figures: integers, and floats only where a share is meant."""


def kind_name(kinds: type[IntEnum], number: int) -> str:
    """Return what a number is called, and the number where a later version of the schema added it.

    >>> from kdtool.traces.schema import RefKind
    >>> kind_name(RefKind, 1), kind_name(RefKind, 9)
    ('store', 'kind 9')
    """
    return kinds(number).name.lower() if number in list(kinds) else f"kind {number}"
