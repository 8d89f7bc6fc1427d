"""A sweep in several processes: the same results, in the same order, as in one.

    reading a trace ──► shadow of each cell ──► its policies
       this process          workers of the trace

A shadow is run before its cell's policies, which see it in memory that all of them share. Of what can start,
what is expected to take longest does, so that no worker is left with a long one at the end. The next trace is
read while workers are busy with the one before.
"""

import os
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdtool.errors import ParameterError
from kdtool.replay.compiling import compile_ahead, engine
from kdtool.replay.display import Display
from kdtool.replay.longarrays import new_array
from kdtool.replay.run import Progress, Result, Shadow
from kdtool.replay.sweep import Cell, Sweep, load_cells, replay_cell
from kdtool.replay.workers import Call, Row, Workers
from kdtool.rmt.numba_vm import compiled

__all__ = ["Batch", "LongestFirst", "Task", "available_cpus", "score_traces"]


def available_cpus() -> int:
    """Return the CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def score_traces(paths: list[Path], sweep: Sweep, jobs: int = 1) -> list[Result]:
    """Replay every trace in `jobs` processes, and show how far it is on stderr.

    The results are in the order of traces, memories, devices, phases and policies, and identical for any
    `jobs` but for their replay_s. Nothing is returned unless all succeed.

    Raises ParameterError for fewer than one job and for two traces of one name, and whatever reading or
    replaying raises.
    """
    if jobs < 1:
        raise ParameterError(f"--jobs {jobs}: give the number of processes, 1 or more")
    names = [path.name for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ParameterError(f"{twice}: two traces of this name, and results go by it: rename one of them")
    with Display() as display:
        _compile(sweep, display)
        if jobs > 1:
            return _Parallel(paths, sweep, display).run(jobs)
        return [
            result
            for path in paths
            for cell in load_cells(path, sweep, display)
            for result in replay_cell(cell, display)
        ]


def _compile(sweep: Sweep, display: Display) -> None:
    """Have the engine and the policies ready before workers are forked, which would each see to it."""
    line = display.line("compiling, once after an install") if compile_ahead() else None
    for policy in sweep.policies:
        compiled(policy.decide)
    engine()
    if line is not None:
        line.end()


SHADOW = -1
"""A task's policy, when it is the shadow."""


class Batch:
    """The cells of one trace, and where their shadows' `missed` lie, which all workers of the trace share."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells = cells
        # It has no name, and is gone with the last of them.
        self._missed = [new_array(cell.workload.n_refs, np.uint8, shared=True) for cell in cells]

    def serve(self, call: Call, progress: Progress) -> Row:
        """Replay a cell under one of its policies, or its SHADOW, in a worker."""
        at, policy = call
        cell, missed = self.cells[at], self._missed[at]
        if policy == SHADOW:
            shadow, result = cell.run_shadow(progress)
            if any(map(cell.needs_replay, cell.policies)):  # else nobody reads it
                missed[:] = shadow.missed
        else:
            shadow = Shadow(cell.memory_pages, cell.reclaim, cell.flush, missed)
            result = cell.run(cell.policies[policy], shadow, progress)
        return result.to_row()


@dataclass(frozen=True)
class Task:
    """A replay that can start.

    n_before : cells of the traces before
    at, policy : indexes of the cell in its batch and of the policy in the cell, or SHADOW
    """

    batch: Batch
    n_before: int
    at: int
    policy: int = SHADOW

    @property
    def cell(self) -> Cell:
        """Return its cell."""
        return self.batch.cells[self.at]

    @property
    def index(self) -> int:
        """Return the place of its cell among all."""
        return self.n_before + self.at

    @property
    def name(self) -> str:
        """Return how a person is told of it."""
        return self.cell.name(None if self.policy == SHADOW else self.cell.policies[self.policy])


class LongestFirst:
    """Tasks that can start, in order of what they are expected to take.

    A shadow comes before all others, which it keeps waiting. Then what nobody knows: policies that were not
    started before those that were and are not done, and each where its cell's shadow took longest. How much
    longer than that it takes, the first run of a policy says for the others.
    """

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._shadow_s: dict[int, float] = {}
        self._times_shadow: dict[int, float] = {}
        self._started: set[int] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        """Have a task wait."""
        self._tasks.append(task)

    def take(self) -> Task:
        """Take out the task that is to start now, the first of several."""
        first = max(self._tasks, key=self._urgency)
        self._tasks.remove(first)
        self._started.add(first.policy)
        return first

    def learn(self, task: Task, took_s: float) -> None:
        """Note how long a task took; a policy's time is counted in times of its cell's shadow."""
        if task.policy == SHADOW:
            self._shadow_s[task.index] = took_s
        else:
            self._times_shadow[task.policy] = took_s / self._shadow_s[task.index]

    def _urgency(self, task: Task) -> tuple[int, float]:
        if task.policy == SHADOW:
            return 3, 0.0
        shadow_s, times = self._shadow_s[task.index], self._times_shadow.get(task.policy)
        if times is not None:
            return 0, times * shadow_s
        return (1 if task.policy in self._started else 2), shadow_s


class _Parallel:
    """The state of one parallel sweep: traces to read, tasks that can start, results by cell and policy."""

    def __init__(self, paths: list[Path], sweep: Sweep, display: Display) -> None:
        self._unread = deque(paths)
        self._sweep, self._display = sweep, display
        self._ready = LongestFirst()
        self._results: dict[tuple[int, int], Result] = {}
        self._n_cells = 0

    def run(self, jobs: int) -> list[Result]:
        with Workers(jobs) as workers:
            while self._ready or self._unread or workers.n_running:
                while not workers.full and (self._ready or self._unread):
                    if self._ready:
                        self._start(self._ready.take(), workers)
                    else:
                        self._read(self._unread.popleft())
                if workers.n_running:
                    workers.wait()
        return [self._results[key] for key in sorted(self._results)]

    def _read(self, path: Path) -> None:
        batch = Batch(load_cells(path, self._sweep, self._display))
        for at in range(len(batch.cells)):
            self._ready.add(Task(batch, self._n_cells, at))
        self._n_cells += len(batch.cells)

    def _start(self, task: Task, workers: Workers) -> None:
        line = self._display.line(task.name, task.cell.workload.n_refs)
        workers.start(
            task.name,
            task.batch.serve,
            (task.at, task.policy),
            lambda row: self._done(task, Result(**row)),
            line,
        )

    def _done(self, task: Task, result: Result) -> None:
        self._ready.learn(task, result.replay_s)
        if task.policy != SHADOW:
            self._results[task.index, task.policy] = result
            return
        for at, policy in enumerate(task.cell.policies):
            if task.cell.needs_replay(policy):
                self._ready.add(replace(task, policy=at))
            else:
                self._results[task.index, at] = result
