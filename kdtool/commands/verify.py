"""`kdtool verify` and `kdtool build`."""

import json
from functools import partial
from pathlib import Path

import typer

__all__ = ["register"]

TARGETS = ("tables", "p4runtime", "bpf")


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def verify(
        program: Path = typer.Argument(help="A program (P.rmt.json).", show_default=False),
        load: bool = typer.Option(
            False, "--load", help="Also have this kernel's own verifier judge it (root)."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Prove a program's bounds, and its tables equal to its models.

        Exit 1 unless all is proved.
        """
        from kdtool.rmt import read_program
        from kdtool.verify.build_bpf import check_load
        from kdtool.verify.finding import Report
        from kdtool.verify.program import verify_program

        read = read_program(program)
        report = verify_program(read)
        if load and report.verdict == "proved":
            report = Report((*report.findings, check_load(read)))
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
        target: str = typer.Option("tables", "--target", help=f"What to build: {', '.join(TARGETS)}."),
        output: Path | None = typer.Option(
            None, "--output", "-o", help="Folder to write to.", show_default=False
        ),
        max_entries: int = typer.Option(8_192, "--max-entries", min=1, help="Refuse more entries than this."),
        estimate: bool = typer.Option(
            False, "--estimate", help="Only say how many entries each way of making tables would take."
        ),
        trace: Path | None = typer.Option(
            None,
            "--trace",
            help="Also compare what was built with the program on every swap-in of this trace.",
        ),
        memory: str | None = typer.Option(
            None, "--memory", "-m", help="The memory at which the trace swaps.  [default: 50%]"
        ),
    ) -> None:
        """Verify a program and write it as tables or as BPF.

        Match-action tables (P4Info and P4Runtime updates too) or an object that libbpf and bpftool load.
        """
        from kdtool.errors import ParameterError, unknown_name
        from kdtool.rmt import read_program
        from kdtool.verify.build import (
            check_on_trace,
            format_mappings,
            prove_tables,
            require_proof,
            write_p4runtime,
            write_tables,
        )
        from kdtool.verify.build_bpf import build_bpf, compare_in_kernel

        if target not in TARGETS:
            raise unknown_name("target", target, TARGETS)
        model = read_program(program)
        if estimate:
            print(format_mappings(model, max_entries))
            return
        if output is None:
            raise ParameterError("build: give a folder to write to: -o DIR")
        if memory is not None and trace is None:
            raise ParameterError(f"build: --memory {memory} is that of a trace: give --trace or leave it out")
        if target == "bpf":
            require_proof(model)
            compare = partial(compare_in_kernel, model)
        else:
            tables = prove_tables(model, max_entries)
            compare = partial(check_on_trace, model, tables)
        compared = None if trace is None else compare(trace, memory or "50%")
        if target == "bpf":
            files = [build_bpf(model, output)]
        else:
            files = (write_tables if target == "tables" else write_p4runtime)(tables, output)
        for file in files:
            print(file)
        if compared is not None:
            print(f"{compared} decisions compared, all equal")
