"""The demo's plot: coverage, accuracy and run time of each policy by memory size, a row a program."""

from collections.abc import Sequence
from pathlib import Path

from kdtool.replay import Result

__all__ = ["plot_scores"]

PANELS = (("coverage", "coverage", 1.0), ("accuracy", "accuracy", 1.0), ("runtime_ns", "run time, s", 1e9))


def plot_scores(groups: Sequence[tuple[str, Sequence[Result]]], path: Path) -> None:
    """Draw `groups` of (title, results) and save them as a PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6 * len(groups)), layout="constrained")
    rows = figure.subplots(len(groups), len(PANELS), squeeze=False)
    colors = mpl.colormaps["tab10"]
    for axes, (title, results) in zip(rows, groups, strict=True):
        memories = sorted({result.memory_pages for result in results})
        policies = list(dict.fromkeys(result.policy for result in results))
        by_key = {(result.policy, result.memory_pages): result for result in results}
        width = 0.8 / len(policies)
        for axis, (key, label, unit) in zip(axes, PANELS, strict=True):
            for i, policy in enumerate(policies):
                heights = [(getattr(by_key[policy, pages], key) or 0) / unit for pages in memories]
                at = [x - 0.4 + (i + 0.5) * width for x in range(len(memories))]
                axis.bar(at, heights, width, label=policy, color=colors(i))
            axis.set_xticks(range(len(memories)), [f"{pages:,} pages" for pages in memories])
            axis.set_ylabel(label)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_title(title, loc="left")
        axes[-1].legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)
