"""`kdtool replay`."""

import json
from pathlib import Path

import typer

from kdtool.commands.quicknumba import import_compiled
from kdtool.errors import ParameterError

__all__ = ["register"]

READ_AHEAD = "128K"
POLICIES = ["none", "linux-vma", "linux-cluster", "leap-paper", "oracle"]


def split_values(values: list[str]) -> tuple[str, ...]:
    """Return the values of an option that may be repeated or hold several, joined by commas.

    >>> split_values(["none,oracle", "ghb"])
    ('none', 'oracle', 'ghb')
    """
    split = tuple(value for text in values for value in text.split(","))
    if "" in split:
        raise ParameterError(f"'{','.join(values)}': a value is empty: give a name or a size between commas")
    return split


def register(app: typer.Typer) -> None:
    """Add the room's commands."""

    @app.command()
    def replay(
        traces: list[Path] = typer.Argument(help="Traces with page references (T.kdt).", show_default=False),
        policy: list[str] = typer.Option(
            [],
            "--policy",
            "-p",
            help="Programs (P.rmt.json) or baselines: none, linux-vma, linux-cluster, leap-paper, leap-repo, "
            "stride, best-offset, markov, ghb; bounds: oracle, oracle-unlimited, belady. May be repeated.  "
            f"[default: {', '.join(POLICIES)}]",
        ),
        memory: list[str] = typer.Option(
            [],
            "--memory",
            "-m",
            help="Sizes (96M) or percentages of the footprint; may be repeated.  [default: 50%]",
        ),
        device: list[str] = typer.Option(
            [],
            "--device",
            "-d",
            help="Device profiles or files (D.json); may be repeated.  [default: ssd]",
        ),
        reclaim: str | None = typer.Option(
            None, "--reclaim", help="How memory gives pages up: linux, lru or mglru.  [default: linux]"
        ),
        files: str = typer.Option(
            "data",
            "--files",
            help="Mapped files whose pages are in memory: none, data (without code) or all.",
        ),
        read_ahead: str = typer.Option(
            READ_AHEAD, "--read-ahead", help="The files' read_ahead_kb, such as 128K."
        ),
        start: str = typer.Option(
            "0", "--from", help="Count from this row or percentage of the references on."
        ),
        phases: int = typer.Option(
            1,
            "--phases",
            help="Moments of the kernel's 2 s statistics period to start at, evenly spread.",
        ),
        agent_us: int = typer.Option(
            0,
            "--agent-us",
            min=0,
            max=1_000_000,
            help="Programs and baselines by an agent that asks so long after a fault, as kdtool deploy does; "
            "0: by the kernel, within it.",
        ),
        mrc: bool = typer.Option(
            False, "--mrc", help="Instead: the faults of an LRU in every memory, without prefetching."
        ),
        jobs: int | None = typer.Option(
            None, "--jobs", "-j", help="Processes to replay in.  [default: one for each CPU]"
        ),
        parquet: Path | None = typer.Option(None, "--parquet", help="Also write the results: FILE.parquet."),
        plot: Path | None = typer.Option(None, "--plot", help="Also draw them (FILE.png)."),
        allow_loss: bool = typer.Option(False, "--allow-loss", help="Replay a trace that lost events too."),
        as_json: bool = typer.Option(False, "--json", help="Print one JSON document."),
    ) -> None:
        """Replay traces under policies, memories and devices.

        Prints the scoreboard: for each trace, memory and device, what each policy would have done.
        """
        import_compiled("kdtool.replay.parallel")
        from kdtool.replay.files import check_target

        for path, suffix in ((parquet, ".parquet"), (plot, ".png")):
            if path is not None:
                check_target(path, suffix)
        if mrc:
            if (
                policy
                or memory
                or device
                or reclaim
                or parquet
                or jobs is not None
                or phases != 1
                or agent_us
                or files != "data"
                or read_ahead != READ_AHEAD
            ):
                raise typer.BadParameter(
                    "goes with --from, --plot, --allow-loss and --json only", param_hint="--mrc"
                )
            _print_curves(traces, start, allow_loss, plot, as_json)
            return
        from kdtool.replay.devices import load_device
        from kdtool.replay.filemaps import read_ahead_pages
        from kdtool.replay.parallel import available_cpus, score_traces
        from kdtool.replay.plots import plot_results
        from kdtool.replay.policies import load_policy
        from kdtool.replay.resultfile import write_results
        from kdtool.replay.scoreboard import print_scoreboard
        from kdtool.replay.sweep import Sweep

        sweep = Sweep(
            tuple(load_policy(name) for name in split_values(policy or POLICIES)),
            split_values(memory or ["50%"]),
            tuple(load_device(name).by_agent(agent_us * 1000) for name in split_values(device or ["ssd"])),
            start,
            reclaim or "linux",
            phases,
            allow_loss,
            files,
            read_ahead_pages(read_ahead),
        )
        results = score_traces(traces, sweep, available_cpus() if jobs is None else jobs)
        if parquet is not None:
            write_results(results, parquet)
        if plot is not None:
            plot_results(results, plot)
        if as_json:
            print(json.dumps({"rows": [result.to_row() for result in results]}))
        else:
            print_scoreboard(results)


def _print_curves(traces: list[Path], start: str, allow_loss: bool, plot: Path | None, as_json: bool) -> None:
    """Measure the traces' miss-ratio curves, draw them if asked to, and print them."""
    from kdtool.replay.curve import measure_curves
    from kdtool.replay.plots import plot_curves
    from kdtool.replay.scoreboard import print_curves

    curves = measure_curves(traces, start, allow_loss=allow_loss)
    if plot is not None:
        plot_curves(curves, plot)
    if as_json:
        print(json.dumps({"curves": [curve.to_document() for curve in curves]}))
    else:
        print_curves(curves)
