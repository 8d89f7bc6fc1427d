"""`kdtool verify` and `kdtool build`."""

import json
from pathlib import Path

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def verify(
        program: Path = typer.Argument(help="A program (P.rmt.json).", show_default=False),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Prove a program's bounds and that its tables and models agree; exit 1 unless all is proved."""
        from kdtool.rmt import read_program
        from kdtool.verify.program import verify_program

        report = verify_program(read_program(program))
        if as_json:
            print(json.dumps(report.to_document()))
        else:
            for finding in report.findings:
                witness = f" ({finding.witness})" if finding.witness else ""
                print(f"{finding.verdict:8} {finding.check:12} {finding.message}{witness}")
            print(f"verdict: {report.verdict}")
        raise typer.Exit(0 if report.verdict == "proved" else 1)

    @app.command()
    def build(
        program: Path = typer.Argument(help="A program (P.rmt.json).", show_default=False),
        target: str = typer.Option("tables", "--target", help="What to build: tables."),
        output: Path = typer.Option(..., "--output", "-o", help="Folder to write to.", show_default=False),
        max_entries: int = typer.Option(
            65_536, "--max-entries", min=1, help="Refuse more entries than this."
        ),
        trace: Path | None = typer.Option(
            None, "--trace", help="Also compare the tables with the model on every swap-in of this trace."
        ),
        memory: str = typer.Option("50%", "--memory", "-m", help="The memory at which the trace swaps."),
    ) -> None:
        """Verify a program and write it as match-action tables."""
        from kdtool.rmt import read_program
        from kdtool.verify.build import build_tables, check_on_trace

        model = read_program(program)
        tables, files = build_tables(model, target, output, max_entries)
        for file in files:
            print(file)
        if trace is not None:
            n_events = check_on_trace(model, tables, trace, memory)
            print(f"{n_events} decisions compared, all equal")
