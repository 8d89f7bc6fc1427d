"""What `kdtool calibrate` prints: the numbers, and how their repeats lay."""

from pathlib import Path
from typing import Any

from kdtool.replay import DEVICE_FIELDS

__all__ = ["print_device"]


def print_device(document: dict[str, Any], output: Path) -> None:
    """Print the numbers of a device file's document for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("number")
    for column in ("value", "quartiles", "repeats"):
        table.add_column(column, justify="right")
    for field in DEVICE_FIELDS:
        entry = document[field]
        low, high = entry["quartiles"]
        table.add_row(field, f"{entry['value']:,}", f"{low:,} – {high:,}", str(entry["repeats"]))
    Console().print(table)
    swap, measured = document["swap_device"], document["measured"]
    print(
        f"{swap['path']} ({swap['kind']}), {measured['rounds']} rounds in {measured['seconds']} s: {output}"
    )
