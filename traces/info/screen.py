"""A trace on one screen of 80 columns: whence it is, what was lost, its tables and their figures."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.traces.info.sections import LABEL, SECTIONS, WIDTH, Line
from kdtool.traces.info.whence import collector_parts, ending, host_parts, source_facts
from kdtool.traces.info.wording import duration, lay, rate, shorten, shorten_front, size

__all__ = ["COLUMNS", "print_description"]

COLUMNS = 80

REASONS = {
    "lost_in_ring": "found no room in a ring",
    "late": "came too late",
    "overrun": "were overwritten unread",
    "commit_overrun": "came while another was written",
    "dropped": "found no room in a buffer",
}
"""What the facts of a source call its losses (collect/faultstream.py, collect/tracestream.py)."""


def print_description(description: dict[str, Any], console: Console | None = None) -> None:
    """Print it for a person."""
    console = console or Console(width=COLUMNS)
    end = f" · {ending(description)}"
    title = shorten_front(description["trace"], max(COLUMNS - cell_len(end), COLUMNS // 4)) + end
    console.print(Text(shorten(title, COLUMNS), style="bold"))
    _print(_head(description), console)
    console.print()
    console.print(_table(description))
    console.print()
    for name, lines_of in SECTIONS:
        if description["tables"].get(name, {}).get("rows"):
            _print(lines_of(description, description["tables"][name]), console)
    if "plot" in description:
        _print(iter([("plot", description["plot"])]), console)


def _print(lines: Iterator[Line], console: Console) -> None:
    """Print each line beside its label."""
    for label, text in lines:
        style = "bold red" if label == "LOST" else ""
        head = Text(label.ljust(LABEL), style=style or "bold")
        console.print(Text.assemble(head, (shorten(text, WIDTH), style)), soft_wrap=True)


def _head(description: dict[str, Any]) -> Iterator[Line]:
    if description["command"]:
        yield "command", " ".join(description["command"])
    yield from _laid("recorded", collector_parts(description))
    if description["host"]:
        yield from _laid("host", host_parts(description))
    yield from _losses(description)


def _laid(label: str, parts: list[str]) -> Iterator[Line]:
    for i, line in enumerate(lay(parts, WIDTH)):
        yield "" if i else label, line


def _losses(description: dict[str, Any]) -> Iterator[Line]:
    """Say what was counted and has no row, and why where the source knows."""
    tables, sources = description["tables"], source_facts(description)
    lost = {name: table for name, table in tables.items() if table["lost"]}
    for name, table in lost.items():
        share = f"{table['lost'] / table['counted']:.1%}"
        yield "LOST", f"{table['lost']:,} of {table['counted']:,} {name} ({share})"
        facts = sources.get(name, {})
        for key, reason in REASONS.items():
            if isinstance(facts.get(key), int) and facts[key]:
                yield "", f"{facts[key]:,} {reason}"
    if lost:
        yield "", "figures are of the rows; train and replay ask for --allow-loss"
    else:
        counted = sum(table["counted"] for table in tables.values())
        yield "lost", f"nothing: all {counted:,} events that were counted have their row"
    unpaired = sources.get("sched", {}).get("unpaired")
    if type(unpaired) is int and unpaired:
        yield "", f"{unpaired:,} switches do not pair: the kernel dropped others uncounted"


def _table(description: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("table", "rows", "counted", "lost", "bytes", "B/row", "span", "rate"):
        table.add_column(column, justify="left" if column == "table" else "right", no_wrap=True)
    for name, figures in description["tables"].items():
        each, span_ns = figures.get("bytes_per_row"), figures.get("span_ns")
        table.add_row(
            name,
            *(f"{figures[key]:,}" for key in ("rows", "counted", "lost")),
            size(figures["bytes"]),
            "–" if each is None else f"{each:,.1f}",
            "–" if span_ns is None else duration(span_ns),
            rate(figures.get("rows_per_s")),
        )
    return table
