"""`kdtool deploy`."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import typer

from kdtool.errors import CommandError

__all__ = ["register"]

MANAGES = ("arguments", "status", "stop", "cgroup", "as_json")
"""What `deploy --status` and `--stop` take."""


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def deploy(
        context: typer.Context,
        arguments: list[str] = typer.Argument(
            None, metavar="[P.rmt.json] [-- COMMAND ...]", help="A program to run live, and a command."
        ),
        policy: str = typer.Option(
            None,
            "--policy",
            "-p",
            help="Instead of a program: none, leap-paper, stride, best-offset, markov or ghb.",
        ),
        cgroup: str = typer.Option(
            None, "--cgroup", help="Work for this living cgroup instead of a command."
        ),
        memory: str = typer.Option(None, "--memory", help="Memory limit of the command, such as 96M."),
        duration: float = typer.Option(None, "--duration", help="Stop after so many seconds."),
        output: Path = typer.Option(None, "--output", "-o", help="Also write the result: FILE.json."),
        page_cluster: int = typer.Option(
            None,
            "--page-cluster",
            help="Set vm.page-cluster, which is the whole machine's, meanwhile.  [default: leave it alone]",
        ),
        rate: int = typer.Option(
            None, "--rate", help="Pages to prefetch in a second at most.  [default: the program's, or 400000]"
        ),
        degree: int = typer.Option(
            None, "--degree", help="Pages a decision at most.  [default: the program's]"
        ),
        min_accuracy: float = typer.Option(
            None, "--min-accuracy", help="Step back below this share.  [default: the program's, or 0.5]"
        ),
        min_coverage: float = typer.Option(0.1, "--min-coverage", help="Step back below this share."),
        nice: int = typer.Option(None, "--nice", help="Priority of the agent: -20 to 19."),
        cpu: int = typer.Option(None, "--cpu", help="Run the agent on this CPU only."),
        real_time: bool = typer.Option(
            False, "--real-time", help="Run the agent before ordinary threads: for a busy machine."
        ),
        source: str = typer.Option(
            "auto",
            "--source",
            help="Who decides: bpf (the kernel), perf (the agent); auto: bpf if allowed.",
        ),
        stall: bool = typer.Option(
            True, help="Time the major faults from begin to end, where BPF is allowed."
        ),
        status: bool = typer.Option(False, "--status", help="Say which agents run, or which for --cgroup."),
        stop: bool = typer.Option(
            False, "--stop", help="End the agents; with a pid as argument, or with --cgroup, that one."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Run a verified program live, for a command or a cgroup.

        As root: prefetches for the command after --, or for a living cgroup, until that ends.
        """
        given = list(arguments or ())
        if status or stop:
            _refuse_others(context)
            if status and (stop or given):
                raise typer.BadParameter("goes with --cgroup and --json only", param_hint="--status")
            _manage(given, cgroup, stop, as_json)
            return
        program, command = split_arguments(given, policy)
        from kdtool.collect.limited import describe_failure
        from kdtool.deploy.agent import Placement
        from kdtool.deploy.request import DeployRequest, check_request
        from kdtool.deploy.session import deploy as run
        from kdtool.kernel.host import page_cluster_claim
        from kdtool.live.policies import load_decider
        from kdtool.live.show import live_line, print_row
        from kdtool.replay.files import check_target, whole_file
        from kdtool.traces import parse_size

        request = DeployRequest(
            command=command,
            cgroup=cgroup,
            memory_bytes=None if memory is None else parse_size(memory),
            duration_s=duration,
            page_cluster=page_cluster,
            rate_pages=rate,
            degree_pages=degree,
            min_accuracy=min_accuracy,
            min_coverage=min_coverage,
            placement=Placement(nice, cpu, real_time),
            source=source,
            stall=stall,
            quiet_stdout=as_json,
        )
        if output is not None:
            check_target(output, ".json")
        decider = load_decider(program)
        check_request(request)
        with nullcontext() if page_cluster is None else page_cluster_claim():
            if page_cluster is not None:
                print(f"kdtool: vm.page-cluster is {page_cluster} for all until this ends", file=sys.stderr)
            with live_line() as show:
                row = run(request, decider, show)
        document = json.dumps({"rows": [row]})
        if output is not None:
            with whole_file(output) as partial:
                partial.write_text(document)
        if as_json:
            print(document)
        else:
            print_row(row)
        workload = {**row["kernel"], "exit_code": row["exit_code"], "ended_by": row["ended_by"]}
        failure = describe_failure(command, workload, request.memory_bytes, "run it alone")
        if failure is not None:
            raise CommandError(failure)
        if row["ended_by"] == "signal" and command:
            raise typer.Exit(130)


def split_arguments(given: list[str], policy: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the program or baseline, and the command; typer gives what is before and after `--` as one.

    >>> split_arguments(["p.rmt.json", "make", "-j"], None)
    ('p.rmt.json', ('make', '-j'))
    >>> split_arguments(["make", "-j"], "stride")
    ('stride', ('make', '-j'))
    """
    if policy is not None:
        if given and given[0].endswith(".rmt.json"):
            raise typer.BadParameter(f"{given[0]}: give a program or --policy {policy}, not both")
        return policy, tuple(given)
    if not given or not given[0].endswith(".json"):
        raise typer.BadParameter("nothing to run: give a program P.rmt.json, or --policy NAME")
    return given[0], tuple(given[1:])


def _refuse_others(context: typer.Context) -> None:
    """Refuse what does not go with --status or --stop: left out silently, it would mean all agents."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in MANAGES and source is not None and source.name == "COMMANDLINE":
            said = "does not go with --status or --stop, only --cgroup and --json do: leave it out"
            raise typer.BadParameter(said, param_hint=parameter.opts[0])


def _manage(given: list[str], cgroup: str | None, stop: bool, as_json: bool) -> None:
    """Print what runs, or end it: all agents, or that of a pid or a cgroup."""
    from kdtool.deploy import runtime
    from kdtool.traces import parse_number

    if stop:
        pid = parse_number(given[0]) if given else None
        if len(given) > 1 or (given and (cgroup is not None or pid is None)):
            raise typer.BadParameter("give one pid, or --cgroup, or none for all agents", param_hint="--stop")
        ended = runtime.stop(pid, cgroup)
        print(json.dumps({"ended": ended}) if as_json else f"ended: {', '.join(map(str, ended)) or 'none'}")
        return
    agents = runtime.running(cgroup)
    if as_json:
        print(json.dumps({"agents": agents}))
    else:
        from kdtool.live.show import print_running

        print_running(agents)
