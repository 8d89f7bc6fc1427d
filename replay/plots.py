"""Pictures of results and of miss-ratio curves, as PNG. Matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from kdtool.replay.curve import MissCurve
from kdtool.replay.files import whole_file
from kdtool.replay.run import Result
from kdtool.replay.scoreboard import LOOK_AHEAD, mib_texts, policy_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_curves", "plot_results"]

PAGES_A_MIB = 256


@dataclass(frozen=True)
class Panel:
    """One picture of a row: the result's key, what the axis says, its unit, its top if that is known."""

    key: str
    label: str
    scale: float
    top: float | None = None


PANELS = (
    Panel("coverage", "coverage, %", 100, 103),
    Panel("accuracy", "accuracy, %", 100, 103),
    Panel("pollution", "pollution, %", 100),
    Panel("runtime_ns", "run time, s", 1e-9),
)

STYLES: tuple[dict[str, Any], ...] = tuple(
    {"color": f"C{i % 10}", "marker": "os^DvPX<>*"[i % 10], "linestyle": ("-", "--", "-.")[i // 10 % 3]}
    for i in range(30)
)
"""A marker of its own for each line: colours alone are lost in print and on many eyes."""

BOUND_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"color": "0.45", "marker": marker, "linestyle": linestyle}
    for marker, linestyle in ((".", ":"), ("x", "--"), ("+", "-."))
)


def plot_results(results: Sequence[Result], path: Path) -> None:
    """Draw coverage, accuracy, pollution and run time by memory, a line a policy, a row a trace and device.

    Of several phases: the median, and the range as a bar.

    Raises ParameterError when `path` cannot be written.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.trace, result.device), []).append(result)
    labels = policy_labels(results)
    figure, rows = _panels(len(groups), len(PANELS), (3.6, 2.9))
    for axes, ((trace, device), group) in zip(rows, groups.items(), strict=True):
        for axis, panel in zip(axes, PANELS, strict=True):
            _draw_panel(axis, group, labels, panel)
        axes[0].set_title(f"{trace} · {device} · {group[0].reclaim} reclaim", loc="left", fontsize="medium")
    for axis in rows[-1]:
        axis.set_xlabel("memory, MiB")
    handles, names = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 7), frameon=False)
    _save(figure, path)


def _draw_panel(
    axis: "Axes", results: Sequence[Result], labels: dict[tuple[str, str], str], panel: Panel
) -> None:
    memories = sorted({result.memory_pages for result in results})
    sizes = mib_texts(memories)
    styles, bound_styles = cycle(STYLES), cycle(BOUND_STYLES)
    for i, (key, label) in enumerate(labels.items()):
        bound = key[0] in LOOK_AHEAD
        style = next(bound_styles if bound else styles)
        points: dict[int, list[float]] = {}
        for result in results:
            value = getattr(result, panel.key)
            if (result.policy, result.policy_version) == key and value is not None:
                points.setdefault(result.memory_pages, []).append(value * panel.scale)
        # Side by side, so that what several have in common does not hide all but the last.
        aside = (i - (len(labels) - 1) / 2) * memories[-1] / PAGES_A_MIB / 150
        at = [pages / PAGES_A_MIB + aside for pages in sorted(points)]
        middle, low, high = (
            [pick(points[pages]) for pages in sorted(points)] for pick in (median_low, min, max)
        )
        name = f"{label} (a bound)" if bound else label
        axis.plot(at, middle, label=name, markersize=5, **style)
        axis.vlines(at, low, high, color=style["color"], linewidth=1)
    axis.set_ylim(0, panel.top)
    axis.set_ylabel(panel.label)
    axis.set_xlim(0, memories[-1] / PAGES_A_MIB * 1.08)
    if len(memories) <= 5:
        axis.set_xticks([pages / PAGES_A_MIB for pages in memories], [sizes[pages] for pages in memories])


def plot_curves(curves: Sequence[MissCurve], path: Path) -> None:
    """Draw the miss ratio by memory, a panel a trace; what the reduction made inexact is shaded.

    Raises ParameterError when `path` cannot be written.
    """
    figure, rows = _panels(len(curves), 1, (7.5, 3.6))
    for (axis,), curve in zip(rows, curves, strict=True):
        document = curve.to_document()
        pages = [*document["memory_pages"], curve.footprint_pages]
        major = [*document["major_faults"], curve.major_faults(curve.footprint_pages)]
        ratios = [100 * (curve.cold_faults + faults) / curve.accesses for faults in major]
        axis.step(
            [size / PAGES_A_MIB for size in pages], ratios, where="post", color="C0", label="all misses"
        )
        axis.axhline(
            100 * curve.cold_faults / curve.accesses, color="0.45", linestyle=":", label="first touches"
        )
        if curve.exact_from_pages > 1:
            axis.axvspan(
                0, curve.exact_from_pages / PAGES_A_MIB, color="0.85", label=f"not exact: k = {curve.k} pages"
            )
        axis.set_xlim(0, curve.footprint_pages / PAGES_A_MIB)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("misses, % of references")
        axis.set_title(f"{curve.trace} · LRU without prefetching", loc="left", fontsize="medium")
        axis.legend(frameon=False)
    rows[-1][0].set_xlabel("memory, MiB")
    _save(figure, path)


def _panels(n_rows: int, n_columns: int, size: tuple[float, float]) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * n_columns, size[1] * n_rows + 0.5), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92")
    return figure, axes


def _save(figure: "Figure", path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
