"""What a person sees of long work: a line for each replay, on a terminal's stderr, after two seconds."""

import sys
from threading import Timer
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["Display", "Line"]

SHOW_AFTER_S = 2.0


class _Speed(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        """Return the speed of the last seconds, or nothing before it is known."""
        return Text(f"{task.speed / 1e6:.1f} M rows/s" if task.speed else "", justify="right")


class Line:
    """The line of one piece of work."""

    def __init__(self, progress: Progress, name: str, rows: int | None, whole: TaskID) -> None:
        self._progress, self._whole = progress, whole
        self._task = progress.add_task(name, total=rows)

    def advance(self, rows: int) -> None:
        """Count `rows` more references, here and in the line for all work."""
        self._progress.advance(self._task, rows)
        self._progress.advance(self._whole, rows)

    def end(self) -> None:
        """Take the line away."""
        self._progress.remove_task(self._task)


class Display:
    """Lines for what is being worked on and one for all of it; silent where stderr is no terminal.

    It appears after SHOW_AFTER_S by itself, since reading a large trace reports nothing meanwhile.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(file=sys.stderr)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            _Speed(),
            TimeRemainingColumn(),
        )
        shown = console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=not shown)
        self._whole = self._progress.add_task("all", total=0)
        self._timer = Timer(SHOW_AFTER_S, self._progress.start) if shown else None

    def __enter__(self) -> "Display":
        if self._timer is not None:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        self._progress.stop()

    def expect(self, rows: int) -> None:
        """Say that `rows` more references will be replayed."""
        task = self._progress.tasks[0]
        self._progress.update(self._whole, total=(task.total or 0) + rows)

    def line(self, name: str, rows: int | None = None) -> Line:
        """Begin a line; without `rows` it is not known how long the work will take."""
        return Line(self._progress, name, rows, self._whole)
