"""`kdtool calibrate`."""

import json
import sys
from pathlib import Path

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def calibrate(
        output: Path = typer.Option(Path("host.json"), "--output", "-o", help="D.json to write."),
        duration: float = typer.Option(10.0, "--duration", help="Seconds to measure for, up to 50."),
        as_json: bool = typer.Option(False, "--json", help="Print the document."),
    ) -> None:
        """Measure this host's swap and kernel for `replay --device`.

        The numbers of replay's cost model, as root, in 20 seconds.
        """
        from kdtool.calibrate.plan import make_plan

        plan = make_plan(output, duration)
        # What follows takes seconds to import, a minute the first time: what is missing was said before.
        from rich.console import Console
        from rich.progress import Progress

        from kdtool.calibrate.session import calibrate as measure
        from kdtool.calibrate.show import print_device

        console = Console(file=sys.stderr)
        with Progress(
            console=console, transient=True, disable=not console.is_terminal, auto_refresh=False
        ) as bar:
            task = bar.add_task("measuring", total=duration)
            try:
                document = measure(
                    plan,
                    lambda text: print(f"kdtool: {text}", file=sys.stderr),
                    lambda seconds: bar.update(task, completed=seconds, refresh=True),
                )
            except KeyboardInterrupt:
                print(f"kdtool: interrupted: {output} was not written", file=sys.stderr)
                raise typer.Exit(130) from None
        if as_json:
            print(json.dumps(document))
        else:
            print_device(document, output)
