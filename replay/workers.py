"""Processes that each make calls of one function, one after the other.

    this process ──fork──► worker: serve(call, report) for each call
                 ──pipe──► call
                 ◄──pipe── {"rows": n} ... {"done": {...}, "rows": n} or {"error": [...]}

A worker is a fork. It finds the trace, the policies and the compiled engine in the memory that it shares with
this process: it starts in 0.02 s with 10 M references loaded, where a fresh interpreter takes 2 s, nothing
is copied or pickled, and no file or shared segment with a name can be left behind. It runs compiled loops and
writes to its pipe: locks of this process's other threads (Arrow's and the display's) do not matter to it.
It stays for further calls of its function, whose arrays then take the room of those before.

Whatever ends this process ends its workers: killed here, or by the closed pipe at their next report.
"""

import json
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any, TypeAlias

from kdtool import errors
from kdtool.errors import CapabilityError, KdtoolError
from kdtool.replay.display import Line
from kdtool.replay.run import Progress

__all__ = ["Workers"]

Row = dict[str, Any]
Call = tuple[int, int]
Serve = Callable[[Call, Progress], Row]

Pipe: TypeAlias = "Connection[Any, Any]"

REPORT_EVERY_S = 0.1

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class _Worker:
    """A process, what it serves, and our end of its pipe."""

    process: ForkProcess
    serve: Serve
    pipe: Pipe

    def end(self) -> None:
        """Have it end, by the closed pipe if it waits for a call."""
        self.pipe.close()
        self.process.join()


@dataclass(frozen=True)
class _Job:
    """A call that is being made: who of, what is done with its row, and where it is shown."""

    worker: _Worker
    name: str
    done: Callable[[Row], None]
    line: Line


class Workers:
    """At most `jobs` workers at a time; leaving the block kills those that still run."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._idle: list[_Worker] = []
        self._running: dict[Pipe, _Job] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers = [*self._idle, *(job.worker for job in self._running.values())]
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.end()
        self._running.clear()
        self._idle.clear()

    @property
    def n_running(self) -> int:
        """Return how many workers run."""
        return len(self._running)

    @property
    def full(self) -> bool:
        """Tell whether another call would be one too many."""
        return len(self._running) >= self._jobs

    def start(self, name: str, serve: Serve, call: Call, done: Callable[[Row], None], line: Line) -> None:
        """Have a worker make `serve(call, ...)`: `done` gets what it returns, `line` what it reports.

        Raises CapabilityError when the worker was killed since its last call.
        """
        worker = self._take_idle(serve) or self._fork(serve)
        self._running[worker.pipe] = _Job(worker, name, done, line)
        try:
            _send(worker.pipe, call)
        except BrokenPipeError:
            raise self._death(name, worker) from None

    def _take_idle(self, serve: Serve) -> _Worker | None:
        """Take out a worker that serves just that; where there is none, end another if there are enough."""
        for worker in self._idle:
            if worker.serve == serve:
                self._idle.remove(worker)
                return worker
        if self._idle and len(self._idle) + len(self._running) >= self._jobs:
            self._idle.pop(0).end()
        return None

    def _fork(self, serve: Serve) -> _Worker:
        ours, theirs = _FORK.Pipe()
        inherited = [ours, *self._running, *(worker.pipe for worker in self._idle)]
        process = _FORK.Process(target=_work, args=(serve, theirs, inherited), daemon=True)
        # Ctrl-C is for this process alone: a worker inherits that it is blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with warnings.catch_warnings():
                # Python warns of locks that other threads hold; see the module's docstring.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                process.start()
            worker = _Worker(process, serve, ours)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return worker

    def wait(self) -> None:
        """Take in what workers sent, at least one message.

        Raises the KdtoolError that a worker met, and CapabilityError when one was killed or failed otherwise.
        """
        for ready in wait(list(self._running)):
            assert isinstance(ready, Connection)
            self._take(ready)

    def _take(self, pipe: Pipe) -> None:
        job = self._running[pipe]
        try:
            message = json.loads(pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self._death(job.name, job.worker) from None
        job.line.advance(message.get("rows", 0))
        if message.keys() == {"rows"}:
            return
        del self._running[pipe]
        self._idle.append(job.worker)
        job.line.end()
        if "error" in message:
            raise _failure(job.name, *message["error"])
        job.done(message["done"])

    def _death(self, name: str, worker: _Worker) -> CapabilityError:
        worker.process.join()
        exit_code = worker.process.exitcode or 0
        how = f"exited with {exit_code}"
        if exit_code < 0:
            how = f"was killed by {signal.Signals(-exit_code).name}"
        return CapabilityError(
            f"{name}: its process {how}: where memory ran out, as `dmesg` says, give a smaller --jobs"
        )


def _work(serve: Serve, pipe: Pipe, inherited: list[Pipe]) -> None:
    """Make calls and say how they ended, until nobody is there to hear of it: the worker's whole life."""
    for connection in inherited:
        connection.close()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            first, second = json.loads(pipe.recv_bytes())
            _send(pipe, _answer(serve, (first, second), pipe))


class _Reports:
    """Tells of the rows that are done, now and then: who hears of it takes a CPU from who replays."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._rows, self._told_s = pipe, 0, time.monotonic()

    def advance(self, rows: int) -> None:
        self._rows += rows
        if time.monotonic() - self._told_s >= REPORT_EVERY_S:
            _send(self._pipe, {"rows": self._rows})
            self._rows, self._told_s = 0, time.monotonic()

    def left(self) -> int:
        """Return how many were not told."""
        return self._rows


def _answer(serve: Serve, call: Call, pipe: Pipe) -> Row:
    reports = _Reports(pipe)
    try:
        return {"done": serve(call, reports.advance), "rows": reports.left()}
    except BrokenPipeError:
        raise
    except Exception as error:
        return {"error": [type(error).__name__, " ".join(str(error).split())]}


def _send(pipe: Pipe, message: Row | Call) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _failure(name: str, kind: str, text: str) -> KdtoolError:
    expected = getattr(errors, kind, None)
    if isinstance(expected, type) and issubclass(expected, KdtoolError):
        return expected(f"{name}: {text}")
    if kind == "MemoryError":
        return CapabilityError(f"{name}: out of memory: {text}: give a smaller --jobs")
    return CapabilityError(f"{name}: its process failed: {kind}: {text}: --jobs 1 shows where")
