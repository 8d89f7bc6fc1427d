"""`kdtool collect` and `kdtool doctor`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdtool.collect import COLLECTORS, collector
from kdtool.errors import CommandError, ParameterError

if TYPE_CHECKING:
    from kdtool.collect.base import Collector

__all__ = ["register"]

_KINDS = ", ".join(name for name, _ in COLLECTORS)


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def collect(
        command: list[str] = typer.Argument(None, metavar="[-- COMMAND ...]", help="What to run and record."),
        output: Path = typer.Option(..., "--output", "-o", help="T.kdt to write.", show_default=False),
        cgroup: str = typer.Option(None, "--cgroup", help="Attach to this living cgroup instead."),
        pid: int = typer.Option(None, "--pid", help="Attach to this process and its children instead."),
        memory: str = typer.Option(None, "--memory", help="Memory limit of the command, such as 96M."),
        events: str = typer.Option("faults", "--events", help=f"Any of {_KINDS}, with commas; refs alone."),
        duration: float = typer.Option(None, "--duration", help="Stop after so many seconds."),
        max_size: str = typer.Option(None, "--max-size", help="Stop when the trace is so large, such as 1G."),
        buffer: str = typer.Option(None, "--buffer", help="Size of each CPU's event buffer, such as 4M."),
        device: list[str] = typer.Option(None, "--device", help="blockio: this device only; repeatable."),
        k: int = typer.Option(256, "--k", help="refs: reduction window in pages; 0 records all."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Record a command, a living cgroup or a living process.

        The command stands after --. What is seen of it becomes the trace -o T.kdt.
        """
        if not command and cgroup is None and pid is None:
            raise typer.BadParameter("nothing to record: give -- COMMAND ..., --cgroup NAME or --pid PID")
        from kdtool.collect.base import Request
        from kdtool.collect.limited import describe_failure
        from kdtool.collect.session import record
        from kdtool.collect.summary import describe_recording, live_line, print_recording
        from kdtool.traces import parse_size

        def size(text: str | None) -> int | None:
            return None if text is None else parse_size(text)

        request = Request(
            command=tuple(command or ()),
            output=output,
            cgroup=cgroup,
            pid=pid,
            memory_bytes=size(memory),
            duration_s=duration,
            max_bytes=size(max_size),
            buffer_bytes=size(buffer),
            devices=tuple(device or ()),
            k=k,
            quiet_stdout=as_json,
            measure_overhead=True,
        )
        collectors = _collectors(events)
        with live_line() as show:
            trace = record(request, collectors, show)
        if as_json:
            print(json.dumps(describe_recording(trace)))
        else:
            print_recording(trace)
        manifest = trace.manifest
        for name, facts in manifest.collector["sources"].items():
            if "scope" in facts:
                print(f"kdtool: {name}: {facts['scope']} ({facts['refused']})", file=sys.stderr)
        if manifest.state == "interrupted":
            print(f"kdtool: interrupted: {trace.path} holds what came before", file=sys.stderr)
            raise typer.Exit(130)
        limit = manifest.cgroup.get("limit_bytes")
        sealed = "the trace is sealed and says so"
        failure = describe_failure(manifest.command, manifest.workload, limit, sealed)
        if failure is not None:
            raise CommandError(failure)

    @app.command()
    def doctor(as_json: bool = typer.Option(False, "--json", help="Print one JSON document.")) -> None:
        """Say what works here for this user, and how to mend the rest."""
        from kdtool.collect.doctor import examine, print_checks

        checks = examine()
        if as_json:
            print(json.dumps({"checks": [check.to_row() for check in checks]}))
        else:
            print_checks(checks)


def _collectors(events: str) -> "list[Collector]":
    names = [name.strip() for name in events.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"events '{events}': give each kind once, such as --events faults,sched")
    return [collector(name) for name in names]
