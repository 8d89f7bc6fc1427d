"""`kdtool info`, `kdtool import` and `kdtool export`."""

import json
import sys
from pathlib import Path

import typer

__all__ = ["register"]

_FORMATS = "csv, perf, oracle-general, lackey, blkparse, nsight or kineto."


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def info(
        trace: Path = typer.Argument(help="A trace (T.kdt).", show_default=False),
        plot: Path | None = typer.Option(None, "--plot", help="Also draw a heat map: FILE.png, replaced."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Say what is in a trace, after checking every byte of it."""
        from rich.console import Console
        from rich.progress import Progress

        from kdtool.traces.heatmap.draw import check_plot, plot_trace
        from kdtool.traces.info import describe
        from kdtool.traces.info.screen import print_description

        if plot is not None:
            check_plot(plot)
        console = Console(file=sys.stderr)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("rows", total=None)
            description = describe(
                trace, lambda rows, total: progress.update(task, advance=rows, total=total)
            )
        if plot is not None:
            plot_trace(trace, plot)
            description["plot"] = str(plot)
        if as_json:
            print(json.dumps(description))
        else:
            print_description(description)

    @app.command(name="import")
    def import_(
        form: str = typer.Argument(metavar="FORMAT", help=_FORMATS, show_default=False),
        file: Path = typer.Argument(help="The file to read.", show_default=False),
        output: Path = typer.Option(..., "--output", "-o", help="T.kdt to write.", show_default=False),
    ) -> None:
        """Turn another tool's recording into a trace."""
        from kdtool.collect.summary import print_recording
        from kdtool.traces.importers import import_trace

        print_recording(import_trace(form, file, output))

    @app.command()
    def export(
        form: str = typer.Argument(metavar="FORMAT", help="oracle-general.", show_default=False),
        trace: Path = typer.Argument(help="A trace with page references (T.kdt).", show_default=False),
        output: Path = typer.Option(..., "--output", "-o", help="The file to write.", show_default=False),
        allow_loss: bool = typer.Option(False, "--allow-loss", help="Export a trace that lost events too."),
    ) -> None:
        """Write a trace's references in another tool's format."""
        from kdtool.traces.exporters import export_trace

        print(f"{output}: {export_trace(form, trace, output, allow_loss=allow_loss)}")
