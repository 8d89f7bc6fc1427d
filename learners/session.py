"""`kdtool train` as a function: from trace files to a program file."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool.errors import ParameterError, unknown_name
from kdtool.features import Dataset, write_dataset
from kdtool.learners import Candidate, find_learner, train, training_part
from kdtool.learners.parts import part_dataset
from kdtool.learners.training import usual_degree
from kdtool.replay import compile_ahead, load_device, load_workload
from kdtool.replay.files import check_target, whole_file
from kdtool.rmt import Network, Program, check_program_target, program_sha256, write_program
from kdtool.traces import MOST_SHOWN, Trace, parse_fraction

__all__ = ["TrainingRequest", "train_traces"]

HOOKS = ("mm.swapin",)
MAX_SEED = 2**31 - 1
"""What all learners' libraries take."""


@dataclass(frozen=True)
class TrainingRequest:
    """What `kdtool train` was asked for; texts as on the command line.

    degree_pages : None: as train() says
    agent_ns : how late the agent is that will run it, see replay/agent.py; 0: the kernel will
    """

    hook: str = "mm.swapin"
    learner: str = "tree"
    memory: str = "50%"
    device: str = "ssd"
    part: str = "60%"
    degree_pages: int | None = None
    seed: int = 0
    dataset: Path | None = None
    allow_loss: bool = False
    agent_ns: int = 0


def train_traces(
    traces: list[Path], output: Path, request: TrainingRequest, report: Callable[[Candidate, int], None]
) -> dict[str, Any]:
    """Train on `traces`, write the program to `output`, and return a summary.

    `report` gets each candidate and how many there are. Raises a KdtoolError before anything is written.
    """
    if request.hook not in HOOKS:
        raise unknown_name("hook", request.hook, HOOKS)
    check_program_target(output)
    if request.dataset is not None:
        check_target(request.dataset, ".parquet")
    fraction = parse_fraction(request.part)
    if fraction is None:
        raise ParameterError(f"--train {request.part[:MOST_SHOWN]}: give a percentage such as 60%")
    if not 0 <= request.seed <= MAX_SEED:
        raise ParameterError(f"--seed {request.seed}, allowed: 0 to {MAX_SEED}")
    learner, device = find_learner(request.learner), load_device(request.device).by_agent(request.agent_ns)
    compile_ahead()
    workloads = (load_workload(Trace(path), allow_loss=request.allow_loss) for path in traces)
    parts = [
        training_part(
            workload, request.memory, device, fraction, request.degree_pages or usual_degree(device)
        )
        for workload in workloads
    ]
    program, best = train(
        parts, learner, device, degree_pages=request.degree_pages, seed=request.seed, progress=report
    )
    samples: Dataset = part_dataset(parts, best.features, whole=True)
    with nullcontext() if request.dataset is None else whole_file(request.dataset) as partial:
        if partial is not None:
            write_dataset(samples, partial)
        write_program(program, output)  # a program that is refused leaves no dataset either
    return {
        "program": str(output),
        "sha256": program_sha256(program),
        "features": best.features.name,
        **best.setting,
        "degree_pages": program.guards.degree_pages,
        "samples": len(samples.y),
        **_size(program),
        **_loss(program),
        "train_rows": [part.workload.n_refs for part in parts],
        "memory_pages": [part.shadow.memory_pages for part in parts],
    }


def _loss(program: Program) -> dict[str, float]:
    """Return the share of samples that lowering to integers made `program` answer differently, if counted."""
    n, differ = (program.provenance.get(key) for key in ("lowered_samples", "lowered_differently"))
    if not isinstance(n, int) or not isinstance(differ, int):
        return {}
    return {"lowering_loss": differ / n}


def _size(program: Program) -> dict[str, int]:
    """Return how large the models are: leaves and depth of trees, layers and weights of networks."""
    trees = [model for model in program.models if not isinstance(model, Network)]
    networks = [model for model in program.models if isinstance(model, Network)]
    size = {}
    if trees:
        size = {"leaves": sum(model.n_leaves for model in trees), "depth": max(m.depth for m in trees)}
    if networks:
        size["layers"] = max(len(network.layers) for network in networks)
        size["weights"] = sum(network.n_weights for network in networks)
    return size
