"""The tables that a person reads: scores of policies, and the faults of an LRU by memory size."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, log10
from statistics import median_low
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdtool.replay.curve import MissCurve
from kdtool.replay.policies import BOUNDS
from kdtool.replay.run import Result
from kdtool.traces import PAGE_BYTES

__all__ = [
    "LOOK_AHEAD",
    "mib_texts",
    "plain_console",
    "policy_labels",
    "print_curves",
    "print_scoreboard",
    "score_table_box",
]

LOOK_AHEAD = frozenset(policy.name for policy in BOUNDS)
"""Nobody can run these: they bound the others and are never marked."""

PLAIN_COLUMNS = 150
"""Width of a table in a file or a pipe."""

score_table_box = SIMPLE_HEAD

TIE_PERCENT = 1
"""What is no further than this from the best is marked with it."""


def plain_console() -> Console:
    """Return a console on stdout, wide enough for a table when stdout is no terminal."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS)


def policy_labels(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """Return what to call each (policy, version): its name, and part of the version where names clash."""
    keys = dict.fromkeys((result.policy, result.policy_version) for result in results)
    clashing = {name for name, n in Counter(name for name, _ in keys).items() if n > 1}
    return {key: f"{key[0]}@{key[1][:6]}" if key[0] in clashing else key[0] for key in keys}


def print_scoreboard(results: Sequence[Result], console: Console | None = None) -> None:
    """Print a table for each trace, memory and device, and mark the best of each column: see _best_rows()."""
    console = console or plain_console()
    labels, sizes = policy_labels(results), mib_texts(result.memory_pages for result in results)
    groups: dict[tuple[str, int, str], dict[str, dict[int, Result]]] = {}
    for result in results:
        group = groups.setdefault((result.trace, result.memory_pages, result.device), {})
        by_phase = group.setdefault(labels[result.policy, result.policy_version], {})
        by_phase[result.flush_phase_ns] = result
    for i, ((trace, pages, device), phases) in enumerate(groups.items()):
        if i:
            console.print()
        rows = {label: list(by_phase.values()) for label, by_phase in phases.items()}
        title = f"{trace} · memory {pages} pages ({sizes[pages]} MiB) · {device}"
        _print_table(console, title, _score_table(rows), _score_notes(rows))


@dataclass(frozen=True)
class _Column:
    """A column of the score table: the result's key, which of several values is best, and its text."""

    title: str
    key: str
    best: Callable[[list[Any]], Any] | None
    form: Callable[[float], str]


def _seconds(ns: float) -> str:
    return f"{ns / 1e9:.3f}"


# Pollution and late hits have no best: whoever prefetches nothing has none of either.
COLUMNS = (
    _Column("major", "major_faults", min, "{:,}".format),
    _Column("accuracy", "accuracy", max, "{:.1%}".format),
    _Column("coverage", "coverage", max, "{:.1%}".format),
    _Column("pollution", "pollution", None, "{:.1%}".format),
    _Column("late", "late_hits", None, "{:,}".format),
    _Column("stall s", "stall_ns", min, _seconds),
    _Column("run s", "runtime_ns", min, _seconds),
)
RANGED, NARROW = ("major_faults", "runtime_ns"), ("late_hits", "stall_ns")
"""Of several phases the first two have their range beside them, in the place of the other two."""

Rows = dict[str, list[Result]]
"""The results of each policy at one memory and device, one a phase."""


def _score_table(rows: Rows) -> Table:
    several = len(next(iter(rows.values()))) > 1
    table = Table(box=score_table_box, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("policy", no_wrap=True, max_width=28)
    cells: dict[str, list[Text]] = {label: [] for label in rows}
    for column in COLUMNS:
        if several and column.key in NARROW:
            continue
        table.add_column(column.title, justify="right", no_wrap=True)
        marked = _best_rows(column, rows)
        for label, results in rows.items():
            cells[label].append(_cell(results, column, label in marked))
        if several and column.key in RANGED:
            table.add_column("range", justify="right", no_wrap=True)
            for label, results in rows.items():
                cells[label].append(_range(results, column))
    for label, texts in cells.items():
        table.add_row(Text(label), *texts)
    return table


def _best_rows(column: _Column, rows: Rows) -> set[str]:
    """Return the rows to mark: those that are the best, or tie with it, in one phase at least.

    Programs start at any moment, so a row that is beaten in some phases only is not worse. None is marked
    when all would be: then no policy is better than another. Policies that look ahead do not compete.
    """
    if column.best is None:
        return set()
    known = {
        label: [getattr(result, column.key) for result in results]
        for label, results in rows.items()
        if results[0].policy not in LOOK_AHEAD and any(getattr(r, column.key) is not None for r in results)
    }
    marked: set[str] = set()
    for phase in zip(*known.values(), strict=True):
        values = {
            label: Fraction(value) for label, value in zip(known, phase, strict=True) if value is not None
        }
        if values:
            best = column.best(list(values.values()))
            marked |= {label for label, v in values.items() if abs(v - best) * 100 <= TIE_PERCENT * best}
    return marked if len(marked) < len(known) else set()


def _known(results: list[Result], column: _Column) -> list[float]:
    return [getattr(result, column.key) for result in results if getattr(result, column.key) is not None]


def _cell(results: list[Result], column: _Column, marked: bool) -> Text:
    values = _known(results, column)
    if not values:
        return Text("–")
    text = column.form(median_low(values))
    return Text(f"*{text}", style="bold green") if marked else Text(text)


def _range(results: list[Result], column: _Column) -> Text:
    values = _known(results, column)
    return Text(f"{column.form(min(values))}–{column.form(max(values))}", style="dim")


def _score_notes(rows: Rows) -> Iterator[str]:
    first, phases = (results := next(iter(rows.values())))[0], len(results)
    yield f"{first.accesses:,} accesses from row {first.from_row:,}, k = {first.k}, {first.reclaim} reclaim"
    if any(_best_rows(column, rows) for column in COLUMNS):
        where = ", in one phase at least" if phases > 1 else ""
        yield f"* the best, and what is within {TIE_PERCENT} % of it{where}"
    if phases > 1:
        yield f"medians and ranges of {phases} starts in the kernel's 2 s statistics period"
    elif first.reclaim == "linux":
        yield "one start in the kernel's 2 s statistics period; --phases 9 tries nine"
    if agent_ns := max(result.agent_ns for results in rows.values() for result in results):
        yield f"asked for by an agent {agent_ns / 1000:g} us after a fault, but for Linux's own and bounds"
    if killed := _killed(rows):
        yield f"the kernel would kill it for its limit under {killed}; replay has it wait instead"
    least = max(result.exact_from_pages for results in rows.values() for result in results)
    if first.k and first.memory_pages < least:
        yield f"k is large for less than {least:,} pages: record with a smaller --k"


def _killed(rows: Rows) -> str:
    """Return the policies under which the kernel would kill the program, of several starts at how many."""
    killed = {label: sum(result.oom_kills > 0 for result in results) for label, results in rows.items()}
    several = len(next(iter(rows.values()))) > 1
    return ", ".join(f"{label} ({n} starts)" if several else label for label, n in killed.items() if n)


CURVE_PERCENTS = (5, *range(10, 101, 10))


def print_curves(curves: Sequence[MissCurve], console: Console | None = None) -> None:
    """Print a table for each trace: the faults of an LRU in some parts of its footprint."""
    console = console or plain_console()
    for i, curve in enumerate(curves):
        if i:
            console.print()
        title = f"{curve.trace} · LRU without prefetching · {curve.footprint_pages:,} pages touched"
        _print_table(console, title, _curve_table(curve), _curve_notes(curve))


def _curve_table(curve: MissCurve) -> Table:
    table = Table(box=score_table_box, pad_edge=False)
    for column in ("memory", "pages", "MiB", "major", "misses", "of accesses"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = {percent: max(curve.footprint_pages * percent // 100, 1) for percent in CURVE_PERCENTS}
    sizes = mib_texts(rows.values())
    for percent, pages in rows.items():
        major = curve.major_faults(pages)
        unsure = "~" if pages < curve.exact_from_pages else ""
        counts = (f"{major:,}", f"{major + curve.cold_faults:,}", f"{curve.miss_ratio(pages):.2%}")
        table.add_row(f"{percent}%", f"{pages:,}", sizes[pages], *(unsure + count for count in counts))
    return table


def _curve_notes(curve: MissCurve) -> Iterator[str]:
    counted = f"{curve.accesses:,} accesses from row {curve.from_row:,}"
    yield f"{counted}, {curve.cold_faults:,} of them first touches, k = {curve.k}"
    if curve.exact_from_pages > 1:
        yield f"exact from {curve.exact_from_pages:,} pages on; ~ less than that: record with a smaller --k"


def _print_table(console: Console, title: str, table: Table, notes: Iterator[str]) -> None:
    """Print a table between its title and its notes, which may be wider than it is."""
    console.print(title, style="italic", highlight=False, markup=False)
    console.print(table)
    for note in notes:
        console.print(note, style="dim italic", highlight=False, markup=False)


def mib_texts(sizes_pages: Iterable[int]) -> dict[int, str]:
    """Return how sizes that are seen together read in MiB.

    Whole numbers, if these tell the sizes apart and none is 0; else three digits from the first that is not
    0, or as many more as it takes.

    >>> mib_texts([474, 948]), mib_texts([200, 280]), mib_texts([100])
    ({474: '2', 948: '4'}, {200: '0.781', 280: '1.09'}, {100: '0.391'})
    """
    mib = {pages: pages * PAGE_BYTES / 2**20 for pages in sizes_pages}
    texts, digits = {pages: f"{size:.0f}" for pages, size in mib.items()}, 3
    while len(set(texts.values())) < len(texts) or "0" in texts.values():
        decimals = {pages: max(digits - 1 - floor(log10(size)), 0) for pages, size in mib.items()}
        texts = {pages: f"{size:.{decimals[pages]}f}" for pages, size in mib.items()}
        digits += 1
    return texts
