"""Processes that each make one call and end.

    this process ──fork──► worker: call(report) ──pipe──► {"rows": n} ... {"done": {...}} or {"error": [...]}

A worker is a fork. It finds the trace, the policies and the compiled engine in the memory that it shares with
this process: it starts in 0.02 s with 10 M references loaded, where a fresh interpreter takes 2 s, nothing
is copied or pickled, and no file or shared segment with a name can be left behind. It runs compiled loops and
writes to its pipe: locks of this process's other threads (Arrow's and the display's) do not matter to it.

Whatever ends this process ends its workers: killed here, or by the closed pipe at their next report.
"""

import json
import multiprocessing
import signal
import warnings
from collections.abc import Callable
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
Call = Callable[[Progress], Row]

Pipe: TypeAlias = "Connection[Any, Any]"

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class _Worker:
    name: str
    process: ForkProcess
    done: Callable[[Row], None]
    line: Line


class Workers:
    """At most `jobs` workers at a time; leaving the block kills those that still run."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[Pipe, _Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._running.values():
            worker.process.kill()
        for connection, worker in self._running.items():
            worker.process.join()
            connection.close()
        self._running.clear()

    @property
    def n_running(self) -> int:
        """Return how many workers run."""
        return len(self._running)

    @property
    def full(self) -> bool:
        """Tell whether another worker would be one too many."""
        return len(self._running) >= self._jobs

    def start(self, name: str, call: Call, done: Callable[[Row], None], line: Line) -> None:
        """Make `call` in a worker; `done` gets what it returns, `line` the rows that it reports."""
        ours, theirs = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_work, args=(call, theirs, [ours, *self._running]), daemon=True)
        # Ctrl-C is for this process alone: a worker inherits that it is blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with warnings.catch_warnings():
                # Python warns of locks that other threads hold; see the module's docstring.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                process.start()
            self._running[ours] = _Worker(name, process, done, line)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def wait(self) -> None:
        """Take in what workers sent, at least one message.

        Raises the KdtoolError that a worker met, and CapabilityError when one was killed or failed otherwise.
        """
        for ready in wait(list(self._running)):
            assert isinstance(ready, Connection)
            self._take(ready)

    def _take(self, connection: Pipe) -> None:
        worker = self._running[connection]
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            worker.process.join()
            raise _death(worker.name, worker.process.exitcode or 0) from None
        if "rows" in message:
            worker.line.advance(message["rows"])
            return
        del self._running[connection]
        connection.close()
        worker.process.join()
        worker.line.end()
        if "error" in message:
            raise _failure(worker.name, *message["error"])
        worker.done(message["done"])


def _work(call: Call, pipe: Pipe, inherited: list[Pipe]) -> None:
    """Make the call and say how it ended; this is the worker's whole life."""
    for connection in inherited:
        connection.close()
    answer: Row
    try:
        answer = {"done": call(lambda rows: _send(pipe, {"rows": rows}))}
    except BrokenPipeError:
        return  # nobody is there to hear of it
    except Exception as error:
        answer = {"error": [type(error).__name__, " ".join(str(error).split())]}
    _send(pipe, answer)


def _send(pipe: Pipe, message: Row) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _death(name: str, exit_code: int) -> CapabilityError:
    how = f"exited with {exit_code}"
    if exit_code < 0:
        how = f"was killed by {signal.Signals(-exit_code).name}"
    return CapabilityError(
        f"{name}: its process {how}: where memory ran out, as `dmesg` says, give a smaller --jobs"
    )


def _failure(name: str, kind: str, text: str) -> KdtoolError:
    expected = getattr(errors, kind, None)
    if isinstance(expected, type) and issubclass(expected, KdtoolError):
        return expected(f"{name}: {text}")
    if kind == "MemoryError":
        return CapabilityError(f"{name}: out of memory: {text}: give a smaller --jobs")
    return CapabilityError(f"{name}: its process failed: {kind}: {text}: --jobs 1 shows where")
