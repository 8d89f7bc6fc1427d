"""The tables that a person reads: every cell, what it adds up to, and what replay has wrong."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from kdtool.fidelity.score import (
    MEASURES,
    Cell,
    Measure,
    Score,
    Summary,
    compare_settings,
    score_cell,
    scored,
    summarize,
)
from kdtool.replay.scoreboard import score_table_box

__all__ = ["PLAIN_COLUMNS", "print_fidelity", "to_document"]

PLAIN_COLUMNS = 190
"""Width of the tables in a file or a pipe."""


def to_document(cells: Sequence[Cell], tolerance: float) -> dict[str, Any]:
    """Return everything as a JSON object: `rows`, a cell each, `summary` and `order`."""
    return {
        "rows": [_row(cell) for cell in cells],
        "summary": [
            {"setting": setting, "measure": measure.key, **vars(summarize(some, measure, tolerance))}
            for setting, some in _by_setting(cells)
            for measure in MEASURES
        ],
        "order": [vars(pair) for pair in compare_settings(cells)],
        "tolerance": tolerance,
    }


def _row(cell: Cell) -> dict[str, Any]:
    both = bool(cell.measured and cell.predicted)
    return {
        **{key: value for key, value in vars(cell).items() if key not in ("measured", "predicted")},
        "measured": [run.to_row() for run in cell.measured],
        "predicted": [prediction.to_row() for prediction in cell.predicted],
        "scores": {measure.key: vars(score_cell(cell, measure)) for measure in MEASURES} if both else {},
    }


def print_fidelity(cells: Sequence[Cell], tolerance: float, console: Console) -> None:
    """Print the cells, the summary, the order of settings, and every miss."""
    console.print(_cell_table(cells, tolerance))
    console.print(_summary_table(cells, tolerance))
    for line in (*_order_lines(cells), *_miss_lines(cells, tolerance), *_trouble_lines(cells)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(
        title=title, title_justify="left", box=score_table_box, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _cell_table(cells: Sequence[Cell], tolerance: float) -> Table:
    title = (
        "kernel: median of the runs (range, modes apart by |) · "
        "replay: median of the starting moments [in another state of the machine]"
    )
    right = [column for measure in MEASURES for column in (measure.label, "replay", "off")]
    table = _table(title, ("program", "memory", "setting"), right)
    for cell in cells:
        texts = [cell.program, f"{cell.limit_percent}%", cell.setting]
        for measure in MEASURES:
            texts += _score_texts(cell, measure, tolerance)
        table.add_row(*texts)
    return table


def _score_texts(cell: Cell, measure: Measure, tolerance: float) -> list[str]:
    if not (cell.measured and cell.predicted):
        return ["–", "–", "–"]
    score = score_cell(cell, measure)
    off = _percent(score.error)
    if score.error is None or abs(score.error) > tolerance:
        off = f"[bold]{off}[/bold]"
    return [_measured_text(score, measure), _predicted_text(score, measure), off]


def _measured_text(score: Score, measure: Measure) -> str:
    """Return `median (range)`, the modes' ranges apart by `|`."""
    ranges = []
    for mode in score.modes:
        low, high = _number(mode[0], measure), _number(mode[-1], measure)
        ranges.append(low if low == high else f"{low}–{high}")
    return f"{_number(score.measured, measure)} ({' | '.join(ranges)})"


def _predicted_text(score: Score, measure: Measure) -> str:
    """Return the median, and in brackets those of other states of the machine that are another number."""
    text = _number(score.predicted, measure)
    others = {_number(other, measure) for other in score.other_states} - {text}
    return f"{text} [{', '.join(sorted(others))}]" if others else text


def _summary_table(cells: Sequence[Cell], tolerance: float) -> Table:
    right = [column for measure in MEASURES for column in (measure.label, "worst", f"≤ {tolerance:.0%}")]
    table = _table("median and worst error by setting, and how many cells are near", ("setting",), right)
    for setting, some in _by_setting(cells):
        texts = [setting]
        for measure in MEASURES:
            texts += _summary_texts(summarize(some, measure, tolerance))
        table.add_row(*texts)
    return table


def _summary_texts(summary: Summary) -> list[str]:
    near = f"{summary.n_within} of {summary.n_cells}"
    return [_percent(summary.median_error, sign=""), _percent(summary.worst_error, sign=""), near]


def _by_setting(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    names = dict.fromkeys(cell.setting for cell in cells)
    return [
        *((name, [cell for cell in cells if cell.setting == name]) for name in names),
        ("all", list(cells)),
    ]


def _order_lines(cells: Sequence[Cell]) -> list[str]:
    pairs = compare_settings(cells)
    right = sum(pair.right for pair in pairs)
    lines = [
        f"order of settings by run time: right in {right} of {len(pairs)} pairs whose runs do not overlap"
    ]
    for pair in pairs:
        if not pair.right:
            lines.append(
                f"wrong order: {pair.program} {pair.limit_percent}%: {pair.faster} is faster than "
                f"{pair.slower}, replay has it the other way"
            )
    return lines


def _miss_lines(cells: Sequence[Cell], tolerance: float) -> list[str]:
    """Return a line for each measure of each cell that is further off than `tolerance`, the worst first."""
    missed = []
    for cell in scored(cells):
        for measure in MEASURES:
            score = score_cell(cell, measure)
            if score.error is None or abs(score.error) > tolerance:
                size = float("inf") if score.error is None else abs(score.error)
                text = (
                    f"miss: {cell.program} {cell.limit_percent}% {cell.setting}: {measure.label}: "
                    f"{_measured_text(score, measure)}, replay {_number(score.predicted, measure)} "
                    f"({_number(score.predicted_low, measure)}–{_number(score.predicted_high, measure)}), "
                    f"off {_percent(score.error)}"
                )
                missed.append((size, text))
    return [text for _, text in sorted(missed, key=lambda miss: -miss[0])]


def _trouble_lines(cells: Sequence[Cell]) -> list[str]:
    lines = []
    for cell in cells:
        where = f"{cell.program} {cell.limit_percent}% {cell.setting}"
        if cell.trouble:
            lines.append(f"not whole: {where}: {cell.trouble}")
        killed = sum(start.oom_kills > 0 for start in cell.predicted)
        if killed:
            lines.append(f"killed in replay: {where}: at {killed} of {len(cell.predicted)} starts")
        if cell.oom_kills or cell.disturbed:
            lines.append(
                f"made again: {where}: {cell.oom_kills} killed for the limit, {cell.disturbed} disturbed"
            )
    return lines


def _number(value: float, measure: Measure) -> str:
    return measure.form.format(value / measure.unit)


def _percent(value: float | None, sign: str = "+") -> str:
    return "–" if value is None else f"{value:{sign}.1%}"
