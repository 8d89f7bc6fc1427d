"""The `kdtool` command: mounts each room's commands and prints expected errors as one line.

Data goes to stdout, everything else to stderr. Exit 0 done, 1 an expected error, 2 usage.
"""

import errno
import io
import os
import select
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from kdtool import __version__
from kdtool.errors import KdtoolError, ParameterError

__all__ = ["app", "main"]

ROOMS = ("collect", "traces", "learners", "replay", "verify", "deploy", "calibrate", "demo")

# What a system says of a path that was given. Others, such as that a file is not there, may be our own fault.
OF_A_PATH = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
    errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip

# Options that take several values: `--policy none leap-paper` is `--policy none --policy leap-paper`.
MANY = {"--policy", "--memory", "--device", "-p", "-m", "-d"}

app = typer.Typer(
    name="kdtool",
    help="Learn operating-system policies from traces: record, train, replay, verify, build, deploy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for room in ROOMS:
    import_module(f"kdtool.commands.{room}").register(app)


def _version(show: bool) -> None:
    if show:
        print(f"kdtool {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """Learn operating-system policies from traces: record, train, replay, verify, build, deploy."""


def spread_values(arguments: list[str]) -> list[str]:
    """Repeat an option of `replay` before each of its values; traces (`*.kdt`) end the list.

    >>> spread_values(["replay", "T.kdt", "--policy", "none", "oracle", "--json"])
    ['replay', 'T.kdt', '--policy', 'none', '--policy', 'oracle', '--json']
    """
    if arguments[:1] != ["replay"]:
        return arguments
    spread: list[str] = []
    option = None
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in MANY else None
        elif argument.rstrip("/").endswith(".kdt"):
            option = None
        elif option is not None and spread[-1] != option:
            spread.append(option)
        spread.append(argument)
    return spread


def _ours(arguments: list[str]) -> list[str]:
    """Return the arguments that are not of a command that we run.

    >>> _ours(["collect", "-o", "T.kdt", "--", "cat", "U.kdt"])
    ['collect', '-o', 'T.kdt']
    """
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _refuse_what_is_no_text(arguments: list[str]) -> None:
    """Refuse bytes that are not UTF-8: Parquet files cannot be opened by such a name."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise ParameterError(f"argument {argument!r} is not UTF-8: rename the file")


def _seal_what_was_killed(arguments: list[str]) -> None:
    """Seal the traces among the arguments whose recorder was killed, so that every command can read them."""
    for argument in arguments:
        if argument.rstrip("/").endswith(".kdt") and os.path.exists(f"{argument}/recording.json"):
            from kdtool.collect.recovery import recover

            if recover(Path(argument)):
                print(f"kdtool: {argument}: its recorder was killed: sealed as interrupted", file=sys.stderr)


def main() -> None:
    """Run the command line; expected errors become one line on stderr and exit 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a command's name may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        ours = _ours(sys.argv[1:])
        _refuse_what_is_no_text(ours)
        _seal_what_was_killed(ours)
        app(spread_values(sys.argv[1:]))
    except KdtoolError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        print("kdtool: interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer says nothing
            print("kdtool: interrupted", file=sys.stderr)
        raise
    except OSError as error:
        if error.filename is not None and error.errno in OF_A_PATH:
            _refuse(f"{error.filename}: {error.strerror}: give another file or folder")
        if not isinstance(error, BrokenPipeError) and not _is_hung_up(sys.stdout):
            raise
        sys.stderr.close()
        sys.exit(1)


def _is_hung_up(stream: TextIO) -> bool:
    """Return whether a stream writes to a terminal that was closed: as with a broken pipe, nobody reads."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _refuse(message: str) -> NoReturn:
    """Print an error as one line, whatever it quotes, and exit."""
    print(f"kdtool: error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(1)
