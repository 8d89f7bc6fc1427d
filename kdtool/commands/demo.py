"""`kdtool demo`."""

import json
import sys
import time
from pathlib import Path

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def demo(
        output: Path = typer.Option(Path("demo-out"), "--output", "-o", help="Folder for all that it makes."),
        runs: int = typer.Option(5, "--runs", min=1, max=50, help="Real runs of each program and setting."),
        as_json: bool = typer.Option(False, "--json", help="Print scoreboard.json."),
    ) -> None:
        """Record two programs that swap, learn from them, and score it.

        All the road on real programs, in 5 minutes.
        """
        from kdtool.demo.session import run_demo
        from kdtool.demo.show import print_demo

        began = time.monotonic()

        def say(text: str) -> None:
            print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr)

        made = run_demo(output, runs, say)
        if as_json:
            print(json.dumps(made.to_document()))
        else:
            print_demo(made)
            print(f"traces, programs, tables, scoreboard.json and scoreboard.png: {output}")
