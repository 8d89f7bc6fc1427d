"""`kdtool replay`."""

import json
from pathlib import Path

import typer

__all__ = ["register"]


def split_values(values: list[str]) -> tuple[str, ...]:
    """Return the values of an option that may be repeated or hold several, joined by commas."""
    return tuple(value for text in values for value in text.split(",") if value)


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def replay(
        traces: list[Path] = typer.Argument(help="Traces with page references (T.kdt).", show_default=False),
        policy: list[str] = typer.Option(
            ["none", "linux-vma", "linux-cluster", "leap-paper", "oracle"],
            "--policy",
            "-p",
            help="Programs (P.rmt.json) or baselines: none, linux-vma, linux-cluster, leap-paper, leap-repo, "
            "stride, best-offset, markov, ghb; bounds: oracle, oracle-unlimited, belady. May be repeated.",
        ),
        memory: list[str] = typer.Option(
            ["50%"], "--memory", "-m", help="Sizes (96M) or percentages of the footprint; may be repeated."
        ),
        device: list[str] = typer.Option(
            ["ssd"], "--device", "-d", help="Device profiles or files (D.json); may be repeated."
        ),
        reclaim: str = typer.Option("linux", "--reclaim", help="How memory gives pages up: linux or lru."),
        start: str = typer.Option(
            "0", "--from", help="Count from this row or percentage of the references on."
        ),
        allow_loss: bool = typer.Option(False, "--allow-loss", help="Replay a trace that lost events too."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Replay traces under policies, memories and devices, and print the scoreboard."""
        from kdtool.replay.devices import load_device
        from kdtool.replay.policies import load_policy
        from kdtool.replay.scoreboard import Sweep, print_scoreboard, score_traces

        sweep = Sweep(
            tuple(load_policy(name) for name in split_values(policy)),
            split_values(memory),
            tuple(load_device(name) for name in split_values(device)),
            start,
            reclaim,
            allow_loss,
        )
        results = score_traces(traces, sweep)
        if as_json:
            print(json.dumps({"rows": [result.to_row() for result in results]}))
        else:
            print_scoreboard(results)
