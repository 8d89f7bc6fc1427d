"""`kdtool train`."""

import json
import sys
from pathlib import Path

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def train(
        traces: list[Path] = typer.Argument(help="Traces with page references (T.kdt).", show_default=False),
        output: Path = typer.Option(..., "--output", "-o", help="P.rmt.json to write.", show_default=False),
        hook: str = typer.Option("mm.swapin", "--hook", help="The decision to learn: mm.swapin."),
        learner: str = typer.Option(
            "tree", "--learner", help="How to learn it: tree, forest, boosted, mlp, conv1d."
        ),
        memory: str = typer.Option(
            "50%", "--memory", "-m", help="Memory to train for: a size or percentage."
        ),
        device: str = typer.Option("ssd", "--device", "-d", help="Device to train for."),
        agent_us: int = typer.Option(
            0,
            "--agent-us",
            min=0,
            max=1_000_000,
            help="For an agent that asks for pages so long after a fault, as kdtool deploy does; 0: for the "
            "kernel, within it.",
        ),
        part: str = typer.Option(
            "60%", "--train", help="Share of the swap-ins to learn from; the rest is held out."
        ),
        degree: int | None = typer.Option(
            None,
            "--degree",
            min=1,
            max=64,
            help="Most pages to prefetch at once: 16, for an agent what replay finds best.",
            show_default=False,
        ),
        seed: int = typer.Option(0, "--seed", help="Seed of everything random."),
        dataset: Path | None = typer.Option(None, "--dataset", help="Also write the dataset: FILE.parquet."),
        allow_loss: bool = typer.Option(
            False, "--allow-loss", help="Learn from a trace that lost events too."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Learn a program from the first part of each trace."""
        from rich.console import Console
        from rich.progress import Progress

        from kdtool.learners.session import TrainingRequest, train_traces

        request = TrainingRequest(
            hook, learner, memory, device, part, degree, seed, dataset, allow_loss, agent_us * 1000
        )
        console = Console(file=sys.stderr)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("candidates", total=None)
            summary = train_traces(
                traces, output, request, lambda _, total: progress.update(task, advance=1, total=total)
            )
        print(
            json.dumps(summary) if as_json else "\n".join(f"{key}: {value}" for key, value in summary.items())
        )
