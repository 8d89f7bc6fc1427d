"""`kdtool collect` and `kdtool doctor`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdtool.errors import CommandError, ParameterError

if TYPE_CHECKING:
    from kdtool.collect.base import Collector

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def collect(
        command: list[str] = typer.Argument(None, metavar="[-- COMMAND ...]", help="What to run and record."),
        output: Path = typer.Option(..., "--output", "-o", help="T.kdt to write.", show_default=False),
        cgroup: str = typer.Option(None, "--cgroup", help="Attach to this living cgroup instead."),
        memory: str = typer.Option(None, "--memory", help="Memory limit of the command, such as 96M."),
        events: str = typer.Option("faults", "--events", help="faults or refs."),
        duration: float = typer.Option(None, "--duration", help="Stop after so many seconds."),
        k: int = typer.Option(256, "--k", help="refs: reduction window in pages; 0 records all."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Record a command (after --) or a living cgroup into a trace."""
        if not command and cgroup is None:
            raise typer.BadParameter("nothing to record: give -- COMMAND ... or --cgroup NAME")
        from kdtool.collect.base import Request
        from kdtool.collect.limited import describe_failure
        from kdtool.collect.summary import describe_recording, live_line, print_recording
        from kdtool.traces import parse_size

        memory_bytes = None if memory is None else parse_size(memory)
        request = Request(
            tuple(command or ()), output, cgroup, memory_bytes, duration, k, quiet_stdout=as_json
        )
        source = _single(events)
        with live_line():
            trace = source.record(request)
        if as_json:
            print(json.dumps(describe_recording(trace)))
        else:
            print_recording(trace)
        manifest = trace.manifest
        if manifest.state == "interrupted":
            print(f"kdtool: interrupted: {trace.path} holds what came before", file=sys.stderr)
            raise typer.Exit(130)
        failure = describe_failure(manifest.command, manifest.workload, manifest.cgroup.get("limit_bytes"))
        if failure is not None:
            raise CommandError(failure)

    @app.command()
    def doctor(as_json: bool = typer.Option(False, "--json", help="Print one JSON document.")) -> None:
        """Say what works on this machine for this user, and how to mend what does not."""
        from kdtool.collect.doctor import examine, print_checks

        checks = examine()
        if as_json:
            print(json.dumps({"checks": [check.to_row() for check in checks]}))
        else:
            print_checks(checks)


def _single(events: str) -> "Collector":
    from kdtool.collect import collector

    names = [name for name in events.split(",") if name]
    if len(names) != 1:
        raise ParameterError(f"events '{events}': one kind at a time for now: give --events faults or refs")
    return collector(names[0])
