"""Files that replay writes: whole under their final name, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdtool.errors import ParameterError

__all__ = ["check_target", "whole_file"]


def check_target(path: Path, suffix: str) -> None:
    """Refuse, before hours of work, a file that could not be written after them.

    Raises ParameterError for a name without `suffix` or too long, for a folder that is missing or read-only,
    and for what is there and no regular file: another file would take the place of a device.
    """
    if path.suffix != suffix:
        raise ParameterError(f"{path}: its name must end in {suffix}: give {path.stem}{suffix}")
    try:
        with suppress(FileNotFoundError):  # as it should be
            os.stat(_partial(path))
    except OSError as error:
        raise ParameterError(f"{path}: cannot be written: {error.strerror}: choose another name") from None
    if not path.parent.is_dir():
        raise ParameterError(f"{path}: there is no folder {path.parent}: make it or choose another")
    if (path.exists() and not path.is_file()) or not os.access(path.parent, os.W_OK):
        raise ParameterError(f"{path}: cannot be written: choose another name or folder")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write, which takes its name, and another's place, when the block is done.

    Raises ParameterError when it cannot be written.
    """
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise ParameterError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")
