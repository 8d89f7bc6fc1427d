"""`kdtool demo`: record two programs that really swap, learn, replay, verify, build, and show the scores."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdtool.collect import collector
from kdtool.collect.base import Collector, Request
from kdtool.collect.session import record
from kdtool.demo.road import Built, walk
from kdtool.demo.truth import SETTINGS, KernelRuns, measure
from kdtool.demo.workloads import PROGRAMS, DemoProgram
from kdtool.errors import CapabilityError, CommandError, ParameterError
from kdtool.fidelity.runs import MAX_OOM_KILLS
from kdtool.kernel.host import page_cluster
from kdtool.replay.plots import plot_results
from kdtool.traces import PAGE_BYTES, Trace

__all__ = ["SAMPLE", "Demo", "run_demo"]

SAMPLE = Path(__file__).resolve().parent / "examples" / "stencil.kdt"
Say = Callable[[str], None]


class Demo:
    """What the demo made: `built` a trace, `kernel` a program and setting, `notes` on what was left out."""

    def __init__(self) -> None:
        self.built: list[Built] = []
        self.kernel: list[KernelRuns] = []
        self.notes: list[str] = []

    def to_document(self) -> dict[str, Any]:
        """Return `scoreboard.json`."""
        return {
            "rows": [result.to_row() for built in self.built for result in built.results],
            "programs": [built.to_row() for built in self.built],
            "kernel": [runs.to_row() for runs in self.kernel],
            "predicted": [
                result.to_row()
                for built in self.built
                for results in built.predicted.values()
                for result in results
            ],
            "predicted_current": [r.to_row() for built in self.built for r in built.predicted_current],
            "notes": self.notes,
        }


def run_demo(output: Path, runs: int, say: Say) -> Demo:
    """Run the demo and put everything it made into the folder `output`, which appears when all is done.

    An earlier demo's folder is replaced; any other folder with something in it is refused. What this machine
    lacks is noted in `notes` and said through `say`. Raises a KdtoolError when a step fails.
    """
    _check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.partial-", dir=output.parent) as partial:
        folder = Path(partial)
        demo = Demo()
        problem = collector("refs").unavailable()
        if problem is None:
            for program in PROGRAMS:
                _record_and_learn(demo, program, folder, runs, say)
        else:
            _note(demo, say, f"references cannot be recorded here: {problem.reason}: {problem.fix}")
            _learn_from_sample(demo, folder, say)
        (folder / "scoreboard.json").write_text(json.dumps(demo.to_document(), indent=1))
        plot_results([row for built in demo.built for row in built.results], folder / "scoreboard.png")
        _publish(folder, output)
    return demo


def _check_output(output: Path) -> None:
    if not output.exists() or (output / "scoreboard.json").is_file():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise ParameterError(f"{output}: exists and is not an earlier demo's folder: give another -o DIR")


def _publish(folder: Path, output: Path) -> None:
    if output.exists():
        shutil.rmtree(output)
    target = output.parent / folder.name / "done"
    target.mkdir()
    for made in list(folder.iterdir()):
        if made != target:
            made.rename(target / made.name)
    target.rename(output)


def _note(demo: Demo, say: Say, text: str) -> None:
    demo.notes.append(text)
    say(f"NOTE: {text}")


def _record_and_learn(demo: Demo, program: DemoProgram, folder: Path, runs: int, say: Say) -> None:
    say(f"{program.name}: recording every page reference of {program.title}")
    trace = folder / f"{program.name}.kdt"
    recorded = record(Request(program.command, trace, quiet_stdout=True), [collector("refs")])
    _require_success(recorded, program.name)
    built = walk(trace, say)
    demo.built.append(built)
    memory_pages = built.footprint_pages // 2
    try:
        _swap_for_real(demo, program, folder, memory_pages, runs, say)
    except (CapabilityError, CommandError) as error:
        _note(demo, say, f"{program.name} was not run under the kernel's own swapping: {error}")


def _swap_for_real(
    demo: Demo, program: DemoProgram, folder: Path, memory_pages: int, runs: int, say: Say
) -> None:
    faults = collector("faults")
    problem = faults.unavailable()
    if problem is not None:
        raise CapabilityError(f"{problem.reason}: {problem.fix}")
    say(f"{program.name}: recording its page faults in {memory_pages} pages of memory")
    request = Request(
        program.command,
        folder / f"{program.name}-faults.kdt",
        memory_bytes=memory_pages * PAGE_BYTES,
        quiet_stdout=True,
    )
    with page_cluster(0):
        _require_success(_record_unkilled(faults, request, program.name, say), program.name)
    for cluster, current in SETTINGS:
        measured = measure(program.name, program.command, memory_pages, cluster, current, runs, say)
        demo.kernel.append(measured)


def _record_unkilled(source: Collector, request: Request, name: str, say: Say) -> Trace:
    """Record again what the kernel killed for its limit; return the first whole trace, or the last."""
    for _ in range(MAX_OOM_KILLS):
        recorded = record(request, [source])
        if not recorded.manifest.workload["oom_kills"]:
            break
        say(f"{name}: killed by the kernel for its memory limit; again")
        shutil.rmtree(recorded.path)
    else:
        recorded = record(request, [source])
    return recorded


def _require_success(trace: Trace, name: str) -> None:
    exit_code = trace.manifest.workload["exit_code"]
    if exit_code:
        raise CommandError(f"{name}: ended with {exit_code}: run its command alone, see `kdtool info`")


def _learn_from_sample(demo: Demo, folder: Path, say: Say) -> None:
    if not SAMPLE.is_dir():
        raise CapabilityError("the sample trace is not installed: run from a clone of the project")
    _note(demo, say, f"the scores below are those of the small sample trace {SAMPLE.name} that kdtool ships")
    trace = folder / SAMPLE.name
    shutil.copytree(SAMPLE, trace)
    demo.built.append(walk(trace, say))
